"""How the reader speaks to Kafka: librdkafka's options, and the one table from its errors to ours.

The reader uses librdkafka for all it does, its consumers and operators kafka-python: deploy/decisions/0005.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from cdc.runtime.errors import AccessDenied, BrokerUnavailable, ConfigInvalid, ServiceError
from cdc.runtime.hints import ADDRESS, CERTIFICATE, FILES, OWN_CERTIFICATE, RIGHTS
from cdc.runtime.sections import Kafka

Client = TypeVar("Client")

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

_FILES = {
    "ssl.ca.location": "ssl_ca_file",
    "ssl.certificate.location": "ssl_certificate_file",
    "ssl.key.location": "ssl_key_file",
}


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


def made(kind: Callable[[dict[str, Any]], Client], options: dict[str, Any]) -> Client:
    """Make a client, which reads certificates and keys before it connects. Raises ConfigInvalid where it can't."""
    try:
        return kind(options)
    except KafkaException as exc:
        said = exc.args[0].str()
        file = next((ours for theirs, ours in _FILES.items() if theirs in said), None)
        if file is None:
            raise ConfigInvalid("librdkafka does not take the settings of [kafka]", hint=ADDRESS) from exc
        raise ConfigInvalid(f"kafka.{file} is missing or no PEM file", hint=FILES) from exc


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
