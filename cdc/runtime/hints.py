"""What an operator does when Kafka does not let us in, whichever of the two clients says so. Pure."""

ADDRESS = "Check kafka.bootstrap_servers and kafka.security_protocol"
CERTIFICATE = "Check kafka.ssl_ca_file, and that kafka.bootstrap_servers names the hosts as their certificates do"
OWN_CERTIFICATE = "Check kafka.ssl_certificate_file and ssl_key_file, and that the brokers trust their authority"
RIGHTS = "Check kafka.sasl_* and the principal's ACLs; `pgherald preflight` lists what it needs"
FILES = "kafka.ssl_ca_file, ssl_certificate_file and ssl_key_file are PEM files that this process may read"
TLS_VERSION = "Let the brokers take TLS 1.2 too (ssl.enabled.protocols), or log in with SASL_SSL"
ASK_AGAIN = "Ask again in a moment; if it stays so, look at the brokers' own log"
