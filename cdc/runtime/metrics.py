"""The metrics, by the names that dashboards and alerts use. The only place that names them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60, 300, 1800)

slot_lag_bytes = Gauge("pgherald_slot_lag_bytes", "WAL written but not yet confirmed to the slot")
slot_lag_seconds = Gauge("pgherald_slot_lag_seconds", "Age of the oldest commit that is not yet in Kafka")
slot_safe_wal_bytes = Gauge("pgherald_slot_safe_wal_bytes", "WAL that can still be written before the slot is lost")
events_published = Counter("pgherald_events_published", "Events in Kafka, committed", ["table", "op"])
changes_skipped = Counter("pgherald_changes_skipped", "Changes left out by `capture --skip`")
commit_to_kafka_seconds = Histogram(
    "pgherald_commit_to_kafka_seconds", "From the commit in PostgreSQL to the commit in Kafka", buckets=_LATENCY_S
)
deliveries = Counter("pgherald_deliveries", "Deliveries that reached a state", ["rule", "state"])
commit_to_sent_seconds = Histogram(
    "pgherald_commit_to_sent_seconds",
    "From the commit in PostgreSQL to the accepted effect",
    ["rule"],
    buckets=_LATENCY_S,
)
backlog = Gauge("pgherald_backlog", "Unfinished deliveries", ["lane"])
oldest_pending_seconds = Gauge("pgherald_oldest_pending_seconds", "Age of the oldest unfinished delivery", ["lane"])
lane_paused = Gauge("pgherald_lane_paused", "1 while the lane is paused", ["lane"])
orphaned = Gauge("pgherald_orphaned", "Unfinished deliveries of a rule that the settings do not name", ["rule"])
links_used = Counter("pgherald_links", "Links of mails that were used", ["purpose", "outcome"])
in_doubt = Gauge("pgherald_in_doubt", "Deliveries in the state unknown", ["rule"])
