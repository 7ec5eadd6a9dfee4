"""The names of topics and consumer groups. Pure; the only place that makes them."""

from __future__ import annotations

import re

#: Kafka's rule for topic names; Debezium replaces every other character by an underscore.
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")


def sanitize(name: str) -> str:
    """Make a legal topic name the way Debezium does."""
    return _ILLEGAL.sub("_", name)


def table_topic(name: str, schema: str, table: str) -> str:
    """Name the topic of a table's events."""
    return sanitize(f"{name}.{schema}.{table}")


def message_topic(name: str) -> str:
    """Name the topic of logical messages."""
    return sanitize(f"{name}.message")


def positions_topic(name: str) -> str:
    """Name the compacted topic of position records."""
    return sanitize(f"{name}.pgherald.positions")


def group_id(name: str, consumer: str) -> str:
    """Name the Kafka group of a consumer."""
    return sanitize(f"{name}.{consumer}")
