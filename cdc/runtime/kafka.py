"""Kafka through kafka-python: topics, offsets, a consumer's connection. The reader has librdkafka for all it does."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from kafka import BrokerConnection, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import NewTopic
from kafka.cluster import collect_hosts
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.protocol.metadata import MetadataRequest

from cdc.runtime import topics
from cdc.runtime.errors import AccessDenied, BrokerUnavailable, ConfigInvalid, FatalError, ServiceError
from cdc.runtime.hints import ADDRESS, CERTIFICATE, FILES, OWN_CERTIFICATE, RIGHTS, TLS_VERSION
from cdc.runtime.sections import Kafka
from cdc.runtime.settings import Settings

REFUSED = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
)
#: What kafka-python says when no broker answers in time, whatever it was asked.
_UNREACHABLE = (
    kafka_errors.NoBrokersAvailable,
    kafka_errors.UnrecognizedBrokerVersion,
    kafka_errors.KafkaTimeoutError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.IncompatibleBrokerVersion,  # so it calls a broker that went away while it logged in
    kafka_errors.UnsupportedVersionError,  # it takes a broker that is slow to say what it understands for an old one
)


#: What brokers send at most (their socket.request.max.bytes); a fetch is bounded by the one below, save for one record.
_FRAME_MAX_BYTES = 104_857_600
_FETCH_MAX_BYTES = 8_388_608
#: How long a broker may take to say what it understands; kafka-python lets it have 2 s, half of that at first.
_CONNECT_MS = 5_000
#: How long a producer tries.
_ANSWER_MS = 10_000


@contextmanager
def errors() -> Iterator[None]:
    """Turn kafka-python's errors into ours, `from` the cause."""
    try:
        yield
    except kafka_errors.KafkaError as exc:
        raise classify(exc) from exc
    except ssl.SSLError as exc:
        raise _of_tls(exc) from exc


def _of_tls(exc: ssl.SSLError) -> ServiceError:
    """Tell a certificate that one side does not accept from a connection that broke."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return AccessDenied(f"Kafka's certificate is not accepted: {exc.verify_message}", hint=CERTIFICATE)
    if "PROTOCOL_VERSION" in (exc.reason or ""):
        return AccessDenied(f"Kafka refuses TLS: {exc.reason}", hint=TLS_VERSION)
    if "ALERT" in (exc.reason or ""):
        return AccessDenied(f"Kafka refuses TLS: {exc.reason}", hint=OWN_CERTIFICATE)
    return BrokerUnavailable(f"TLS with Kafka broke: {exc.reason}", hint=ADDRESS)


def classify(exc: kafka_errors.KafkaError) -> ServiceError:
    """Tell what a client's error means for us."""
    name = type(exc).__name__
    if isinstance(exc, REFUSED):
        # A consumer's error holds the topics' names, any other one's a text.
        topics_of = sorted(exc.args[0]) if exc.args and isinstance(exc.args[0], set) else []
        return AccessDenied(f"Kafka refuses: {' '.join([name, *topics_of])}", hint=RIGHTS)
    if isinstance(exc, _UNREACHABLE) or exc.retriable:
        return BrokerUnavailable(f"Kafka does not answer: {name}", hint=ADDRESS)
    return FatalError(f"Kafka: {name}", hint="See `pgherald preflight`")


def client_options(kafka: Kafka) -> dict[str, Any]:
    """Say how kafka-python connects. TLS is verified: the host name and the chain."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers.split(","),
        "security_protocol": kafka.security_protocol,
        "client_id": "pgherald",
        "api_version_auto_timeout_ms": _CONNECT_MS,
        # kafka-python takes frames of 1 MB by default, and asks for fetches of 50: each backlog would cost connections.
        "receive_message_max_bytes": _FRAME_MAX_BYTES,
    }
    if "SSL" in kafka.security_protocol:
        options["ssl_context"] = _tls(kafka)  # its own allows what Python calls deprecated
    if kafka.sasl_mechanism:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""
    return options


def _tls(kafka: Kafka) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_ca_file)
        if kafka.ssl_certificate_file:
            context.load_cert_chain(kafka.ssl_certificate_file, kafka.ssl_key_file)
        if kafka.security_protocol == "SSL":
            # The tickets that a TLS 1.3 server sends behind its handshake reach a client that has asked nothing yet,
            # and kafka-python hangs up. With SASL it has asked.
            context.maximum_version = ssl.TLSVersion.TLSv1_2
    except (OSError, ssl.SSLError) as exc:
        raise ConfigInvalid(
            f"a certificate or key can't be read: {type(exc).__name__}",
            hint=FILES,
        ) from exc
    return context


def admin(kafka: Kafka) -> KafkaAdminClient:
    """Open an admin client. Raises BrokerUnavailable or AccessDenied."""
    with errors():
        try:
            return KafkaAdminClient(**client_options(kafka))
        except kafka_errors.KafkaError:
            if kafka.sasl_mechanism:
                _log_in(kafka)
            raise


class _Login(BrokerConnection):  # type: ignore[misc]
    """One connection that keeps why it was closed: clients drop that, and say only that they had no answer."""

    why: Exception | None = None

    def close(self, error: Exception | None = None) -> None:
        self.why = self.why or error
        super().close(error)


def _log_in(kafka: Kafka) -> None:
    """Raise what a broker says to user and password, if it says that it does not take them."""
    for host, port, family in collect_hosts(kafka.bootstrap_servers):
        login = _Login(host, port, family, **client_options(kafka))
        login.connect_blocking(_ANSWER_MS / 1000)
        why = login.why
        login.close()
        if isinstance(why, REFUSED):
            raise why


def consumer(kafka: Kafka, group_id: str | None, **options: Any) -> KafkaConsumer:
    """Open a consumer that reads committed records only, commits only what it is told and never guesses an offset.

    No deserializers: a record that does not decode must reach our code, not end the client's iterator for good.
    """
    fixed = {
        "group_id": group_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "partition_assignment_strategy": [RangePartitionAssignor],
        "allow_auto_create_topics": False,
        "fetch_max_bytes": _FETCH_MAX_BYTES,
        "metadata_max_age_ms": 10_000,  # a topic or partition that appears later is seen within this
    }
    with errors():
        return KafkaConsumer(**client_options(kafka), **fixed, **options)


def producer(kafka: Kafka) -> KafkaProducer:
    """Open a producer for records that are waited for one by one. Raises BrokerUnavailable or AccessDenied."""
    with errors():
        return KafkaProducer(
            **client_options(kafka),
            acks="all",
            # The broker says what is too large; a record that was given up is not on its way any more.
            max_request_size=_FRAME_MAX_BYTES,
            max_in_flight_requests_per_connection=1,
            max_block_ms=_ANSWER_MS,
            request_timeout_ms=_ANSWER_MS,
            delivery_timeout_ms=_ANSWER_MS,
            allow_auto_create_topics=False,
        )


def described(client: KafkaAdminClient, names: list[str]) -> list[tuple[type[Exception], dict[str, Any]]]:
    """Ask for topics by their names; give what is said of each and its description, with what we may do to it.

    By hand: the client's describe_topics() fails for all when one is hidden.
    """
    answer = client.send_request(MetadataRequest[8](names, False, False, True)).to_object()
    return [(kafka_errors.for_code(topic["error_code"]), topic) for topic in answer["topics"]]


def _partitions(client: KafkaAdminClient, names: list[str]) -> list[TopicPartition]:
    """List topics' partitions; a topic that is not there has none.

    A consumer does not look at an answer that names no broker, and has no partitions then. So brokers answer while they
    are fenced: while the controller has not heard of them for longer than `broker.session.timeout.ms`. Nor does it tell
    a topic that is hidden from us from one that is not there.
    """
    found = []
    for error, topic in described(client, names):
        if error not in (kafka_errors.NoError, kafka_errors.UnknownTopicOrPartitionError):
            raise error({topic["topic"]})
        found += [TopicPartition(topic["topic"], partition["partition"]) for partition in topic["partitions"]]
    return found


def end_offsets(kafka: Kafka, names: list[str]) -> dict[str, int]:
    """Sum each topic's end offsets over its partitions; a topic that is not there has 0. Raises AccessDenied."""
    with closing(admin(kafka)) as client, errors():
        partitions = _partitions(client, names)
    with closing(consumer(kafka, None)) as reader, errors():
        ends = reader.end_offsets(partitions) if partitions else {}
    return {topic: sum(end for partition, end in ends.items() if partition.topic == topic) for topic in names}


def group_lag(kafka: Kafka, group: str) -> dict[str, int]:
    """Tell how many members' partitions a group has offsets of, and how many records it has not read yet."""
    with closing(admin(kafka)) as client, errors():
        committed = client.list_consumer_group_offsets(group)
    with closing(consumer(kafka, None)) as reader, errors():
        ends = reader.end_offsets(list(committed)) if committed else {}
    return {"partitions": len(committed), "lag": sum(ends[at] - offset.offset for at, offset in committed.items())}


def has_unread(kafka: Kafka, group: str, topic: str) -> bool:
    """Tell whether a topic has records that a group has not read yet.

    Read, not counted: behind the last record stand markers of transactions, which offsets count and nobody reads.
    """
    with closing(admin(kafka)) as client, errors():
        committed = client.list_consumer_group_offsets(group)
        partitions = _partitions(client, [topic])
    with closing(consumer(kafka, None)) as reader, errors():
        begins, ends = reader.beginning_offsets(partitions), reader.end_offsets(partitions)
        reader.assign(partitions)
        for partition in partitions:
            reader.seek(partition, committed[partition].offset if partition in committed else begins[partition])
        while any(reader.position(partition) < ends[partition] for partition in partitions):
            if reader.poll(timeout_ms=1000, max_records=1):
                return True
    return False


def _new(topic: topics.Topic) -> NewTopic:
    return NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=topic.configs)


def ensure_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, where settings allow it; name those that stay missing.

    Several processes may do so at once. Existing topics are left as they are.
    """
    with closing(admin(settings.kafka)) as client, errors():
        wanted = topics.wanted(settings) | topics.of_commands(settings)
        missing = sorted(set(wanted) - set(client.list_topics()))
        if not missing or not settings.kafka.create_topics:
            return missing
        try:
            client.create_topics([_new(wanted[name]) for name in missing], timeout_ms=10_000)
        except kafka_errors.TopicAlreadyExistsError:
            return sorted(set(missing) - set(client.list_topics()))
        return []


def create_topics(settings: Settings, names: Iterable[str]) -> None:
    """Create these topics, whatever the settings say of it. Raises AccessDenied where the principal may not."""
    wanted = topics.wanted(settings) | topics.of_commands(settings)
    with closing(admin(settings.kafka)) as client, errors(), suppress(kafka_errors.TopicAlreadyExistsError):
        client.create_topics([_new(wanted[name]) for name in names], timeout_ms=10_000)
