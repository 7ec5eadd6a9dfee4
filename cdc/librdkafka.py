"""How the reader speaks to Kafka: librdkafka's options, and the one table from its errors to ours.

The reader uses librdkafka for all it does, its consumers and operators kafka-python: deploy/decisions/0005.
"""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaError

from cdc.runtime.errors import AccessDenied, BrokerUnavailable, ServiceError
from cdc.runtime.hints import ADDRESS, CERTIFICATE, OWN_CERTIFICATE, RIGHTS
from cdc.runtime.sections import Kafka

REFUSED = (
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)

#: librdkafka writes fatal errors to stderr whatever its log_level; they come to us as errors too.
_SILENT = logging.Logger("librdkafka", logging.CRITICAL + 1)


def options(kafka: Kafka) -> dict[str, Any]:
    """Say how a client connects. TLS is verified: librdkafka checks the chain and the host name by default."""
    given: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": "pgherald-capture",
        "security.protocol": kafka.security_protocol,
        "ssl.ca.location": str(kafka.ssl_ca_file or ""),
        "ssl.certificate.location": str(kafka.ssl_certificate_file or ""),
        "ssl.key.location": str(kafka.ssl_key_file or ""),
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password.get_secret_value() if kafka.sasl_password else "",
        "reconnect.backoff.max.ms": 1000,  # a broker that is back is not waited for; by default it can be 10 s
        "log_level": 0,  # what matters comes as an error; the rest would repeat every second
        "logger": _SILENT,
    }
    return {name: value for name, value in given.items() if value not in ("", None)}


def refuses(error: KafkaError) -> bool:
    """Tell whether an error is a refusal, theirs of us or ours of their certificate: trying again does not help."""
    return error.code() in REFUSED or _of_tls(error) is not None


def _of_tls(error: KafkaError) -> AccessDenied | None:
    """Tell a certificate that one side does not accept from a connection that broke; only the text has it."""
    if error.code() == KafkaError._SSL and "certificate verify failed" in error.str():
        return AccessDenied("Kafka's certificate is not accepted", hint=CERTIFICATE)
    if error.code() in (KafkaError._SSL, KafkaError._TRANSPORT) and "/tls alert" in error.str():
        return AccessDenied("Kafka refuses TLS", hint=OWN_CERTIFICATE)
    return None


def classify(error: KafkaError) -> ServiceError:
    """Tell what an error means for us: refusals stop the process, all else may pass."""
    if error.code() in REFUSED:
        return AccessDenied(f"Kafka refuses: {error.name()}", hint=RIGHTS)
    return _of_tls(error) or BrokerUnavailable(f"Kafka does not answer: {error.name()}", hint=ADDRESS)
