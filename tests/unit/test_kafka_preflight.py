"""Preflight's judgement of a Kafka cluster: what the principal lacks, what brokers and topics are set to."""

from __future__ import annotations

from typing import Any

import pytest

from cdc.preflight import acls, durability
from cdc.runtime.cluster import Seen, TopicSeen
from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings

TABLE, POSITIONS = "app.public.users", "app.pgherald.positions"


def settings(**kafka: Any) -> Settings:
    return Settings.model_validate(
        {
            "source": {"name": "app", "dsn": "host=db", "tables": [{"name": "users"}]},
            "kafka": {"bootstrap_servers": "k1:9093,k2:9093", "sasl_mechanism": "PLAIN", "sasl_username": "herald"}
            | kafka,
            "rules": [{"name": "audit", "on": "created", "target": "topic:audit", "consumer": "audit"}],
        }
    )


def judged(
    *,
    brokers: int = 3,
    copies: int = 3,
    topic: dict[str, str] | None = None,
    broker: dict[str, str] | None = None,
    replication_factor: int = 3,
) -> list[Finding]:
    there = {TABLE: TopicSeen(frozenset(), copies)}
    of_topics = {TABLE: {"min.insync.replicas": "2"} | (topic or {})}
    seen = Seen(brokers, there, frozenset(), frozenset(), broker or {}, of_topics)
    return list(durability.look(settings(replication_factor=replication_factor), seen, 15))


def test_a_cluster_that_is_well_has_no_finding() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("given", "severity", "what", "remedy"),
    [
        ({"brokers": 2}, "warning", "Kafka names 2 brokers", "when it is back"),
        ({"brokers": 1, "copies": 1, "topic": {"min.insync.replicas": "1"}}, "fault", "few brokers: 1", "start more"),
        ({"replication_factor": 1}, "warning", "one copy only", "kafka.replication_factor = 3"),
        ({"topic": {"min.insync.replicas": "4"}}, "fault", "min.insync.replicas = 4", "min.insync.replicas=2"),
        ({"topic": {"min.insync.replicas": "3"}}, "warning", "min.insync.replicas = 3", "min.insync.replicas=2"),
        ({"topic": {"min.insync.replicas": "1"}}, "warning", "min.insync.replicas = 1", "min.insync.replicas=2"),
        (
            {"broker": {"min.insync.replicas": "4"}},
            "fault",
            "brokers' min.insync.replicas is 4",
            "replication_factor = 5",
        ),
        ({"topic": {"max.message.bytes": "100000"}}, "warning", "100000 bytes", "max.message.bytes=1048588"),
        ({"broker": {"transaction.max.timeout.ms": "9000"}}, "fault", "is 9000", "transaction.max.timeout.ms = 15000"),
        ({"broker": {"transactional.id.expiration.ms": "60000"}}, "warning", "is 60000", "= 604800000"),
    ],
)
def test_what_is_set_badly_is_found_with_its_remedy(
    given: dict[str, Any], severity: str, what: str, remedy: str
) -> None:
    (found,) = judged(**given)
    assert (found.severity, found.why != "") == (severity, True)
    assert what in found.what
    assert remedy in found.remedy


def test_a_positions_topic_that_is_deleted_with_time_is_a_fault() -> None:
    seen = Seen(
        1,
        {POSITIONS: TopicSeen(frozenset(), 1)},
        frozenset(),
        frozenset(),
        {},
        {POSITIONS: {"cleanup.policy": "delete"}},
    )
    (found,) = durability.look(settings(), seen, 15)
    assert found.remedy == (
        f"kafka-configs.sh --bootstrap-server k1:9093 --alter --topic {POSITIONS} --add-config cleanup.policy=compact"
    )


def test_one_principal_needs_what_reader_and_consumers_do_and_no_more() -> None:
    assert {(acl.kind, acl.name): acl.operations for acl in acls.needed(settings(create_topics=False))} == {
        ("topic", "app.message"): ("Write",),
        ("topic", POSITIONS): ("Write", "Read"),
        ("topic", TABLE): ("Write", "Read"),
        ("topic", "audit"): ("Write",),
        ("transactional-id", "app.pgherald"): ("Write",),
        ("group", "app.audit"): ("Read",),
    }


def test_who_creates_topics_may_create_those_and_no_others() -> None:
    creating = {acl.name for acl in acls.needed(settings()) if "Create" in acl.operations}
    assert creating == {"app.message", POSITIONS, TABLE, "audit"}


def test_a_command_names_server_principal_and_operations() -> None:
    acl = acls.Acl("topic", TABLE, ("Write", "Read"))
    assert acl.command(settings()) == (
        "kafka-acls.sh --bootstrap-server k1:9093 --add --allow-principal User:herald "
        f"--operation Write --operation Read --topic {TABLE}"
    )
