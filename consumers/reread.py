"""Replays of records that were no events: they are read again, by the code and the rules as they are now."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cdc.runtime.errors import EnvelopeInvalid
from consumers import journal
from consumers.delivery import Delivery
from consumers.effects import ClosableEffect
from consumers.ledger import Ledger
from consumers.outcome import SkipDelivery
from consumers.planning import UNDECODABLE, entry_of
from consumers.rules import Rules


class Reread:
    """An effect that reads an undecodable record again, and leaves every other delivery to the effect behind it."""

    def __init__(self, rules: Rules, ledger: Ledger, effect: ClosableEffect) -> None:
        self._rules, self._ledger, self._effect = rules, ledger, effect
        self._lock = threading.Lock()

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        """Do it and give the ledger's result. Raises what the effect behind raises, EnvelopeInvalid, SkipDelivery."""
        if delivery.rule != UNDECODABLE:
            return self._effect(delivery, sending)
        with self._lock:
            return self._plan(delivery)

    def close(self) -> None:
        """Close the ledger's connection; the effect behind is its owner's."""
        self._ledger.close()

    def _plan(self, delivery: Delivery) -> dict[str, object]:
        record = self._ledger.record(delivery.event_id)
        if record is None:
            raise EnvelopeInvalid("the record is no longer in the ledger", users_own=True)
        # It is as old as it is because nobody could read it: someone asked for it now.
        entry = entry_of(record, self._rules, self._ledger.consumer, delivery.committed_at)
        if entry is None:
            raise SkipDelivery("no_rule")
        if not entry.readable:
            # Each record is wrong in its own way: many of them say nothing about a lane.
            raise EnvelopeInvalid(str((entry.planned[0].error or {})["reason"]), users_own=True)
        # A crash just after: the lease runs out, it is read again, and what is stored already stays as it is.
        journal.write_stored(self._ledger.store([entry]))
        return {"event_id": entry.event_id, "planned": len(entry.planned)}
