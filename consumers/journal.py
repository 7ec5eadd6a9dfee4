"""What the log and the metrics say about transitions: identities and reasons, never a row's value."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cdc.runtime import metrics
from cdc.runtime.log import get_logger
from consumers.delivery import Delivery, Mark
from consumers.ledger import Ledger
from consumers.outcome import Dead, GivenBack, Pause, Retry, Sent, Skipped, Unknown

_log = get_logger("deliver")


def write(mark: Mark) -> None:
    """Tell of a transition that the ledger took."""
    delivery, became = mark.delivery, mark.outcome
    facts = {"delivery": delivery.id, "rule": delivery.rule, "lane": delivery.lane, "attempt": delivery.attempt}
    match became:
        case Sent():
            _sent(delivery, facts)
        case Skipped(error):
            _log.info("delivery_skipped", **facts, **error)
        case Dead(error) | Unknown(error):
            _log.error(f"delivery_{mark.state}", **facts, **error)
        case Retry(after_s, error):
            _log.warning("delivery_retried", after_s=round(after_s, 3), **facts, **error)
        case Pause(math.inf, error):
            _log.error("lane_stopped", **facts, **error)
        case Pause(pause_s, error):
            _log.warning("lane_down", pause_s=round(pause_s, 3), **facts, **error)
        case GivenBack():
            return
    if mark.finishes:
        metrics.deliveries.labels(delivery.rule, mark.state).inc()


def write_not_ours(mark: Mark) -> None:
    """Tell of an outcome that came too late: the lease was taken over, and whoever did that decides."""
    _log.warning("delivery_taken_over", delivery=mark.delivery.id, rule=mark.delivery.rule, would_be=mark.state)


def write_stored(stored: Iterable[tuple[str, str]]) -> None:
    """Count the deliveries that were finished when they were planned."""
    for rule, state in stored:
        if state != "pending":
            metrics.deliveries.labels(rule, state).inc()


def write_orphans(orphans: Iterable[tuple[str, int]]) -> None:
    """Tell of unfinished deliveries whose rules this process does not know."""
    metrics.orphaned.clear()
    for rule, count in orphans:
        metrics.orphaned.labels(rule).set(count)
        hint = f"Put the rule back, or `pgherald deliveries cancel --rule '{rule}'`"
        _log.warning("rule_unknown", rule=rule, unfinished=count, hint=hint)


def measure(ledger: Ledger, lanes: Iterable[str], rules: Iterable[str]) -> None:
    """Read the ledger's figures into the gauges. Raises what the ledger raises."""
    figures = {lane: (count, oldest_s) for lane, count, oldest_s in ledger.figures()}
    paused, doubts = ledger.paused_lanes(), dict(ledger.in_doubt())
    for lane in {*lanes, *figures}:
        count, oldest_s = figures.get(lane, (0, 0.0))
        metrics.backlog.labels(lane).set(count)
        metrics.oldest_pending_seconds.labels(lane).set(oldest_s)
        metrics.lane_paused.labels(lane).set(lane in paused)
    for rule in {*rules, *doubts}:
        metrics.in_doubt.labels(rule).set(doubts.get(rule, 0))


def where(error: BaseException) -> str:
    """Name the innermost places of an error's traceback, which its text is not needed for."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def _sent(delivery: object, facts: dict[str, object]) -> None:
    if isinstance(delivery, Delivery):
        took_s = (datetime.now(UTC) - delivery.committed_at).total_seconds()
        metrics.commit_to_sent_seconds.labels(delivery.rule).observe(took_s)
        _log.info("delivery_sent", target=delivery.target, ms_from_commit=round(took_s * 1000), **facts)
