"""Payloads leave the ledger by age: events, a page a transaction, while the facts in `delivery` stay; so do used links.

Every consumer process does it, at most one of them at a time, and none needs to be told.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from cdc.runtime.lifecycle import Stop
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings
from consumers.ledger import Ledger, Page
from consumers.patience import Patience

_EVERY_S = 3600.0
#: Between two pages others have their turn: storing waits while one is removed.
_REST_S = 0.05
_BEGIN: Page = (datetime.min.replace(tzinfo=UTC), "")
_log = get_logger("retention")


def run(ledger: Ledger, settings: Settings, stop: Stop) -> None:
    """Remove what is old, again and again until a stop is requested."""
    patience, days = Patience(stop, "the ledger, to remove old payloads"), settings.ledger.retention_days
    while not stop.requested:
        if settings.links:
            # While a link verifies, the record of its use is what keeps it from being used again.
            kept = max(settings.links.max_age, timedelta(days=days))
            patience.insist(partial(ledger.retire_links, kept))
        if removed := sweep(ledger, days, patience, stop):
            _log.info("payloads_removed", events=removed, retention_days=days)
        ledger.close()
        stop.wait(_EVERY_S)


def sweep(ledger: Ledger, days: int, patience: Patience, stop: Stop) -> int:
    """Walk once over all old events and remove those that are over; tell how many.

    A crash between two pages: the first ones are removed, the next sweep finds the others.
    """
    removed, after = 0, _BEGIN
    while found := patience.insist(partial(ledger.retire, days, after)):
        after, gone = found
        removed += gone
        if stop.wait(_REST_S):
            break
    return removed
