"""What an operator has said to leave out: changes of the stream and rows of a snapshot, named by their event ids."""

from __future__ import annotations

from collections.abc import Sequence

from cdc.contract.event import Event
from cdc.contract.position import snapshot_event_id
from cdc.runtime import metrics
from cdc.runtime.errors import ChangeUndecodable
from cdc.runtime.log import get_logger

_log = get_logger("capture")


class Skip:
    """The ids that were given. What is skipped is committed with what follows, so at a second fault both are needed."""

    def __init__(self, event_ids: Sequence[str] = ()) -> None:
        self._given = tuple(event_ids)
        self._left_out = {_place(event_id): event_id for event_id in event_ids}
        #: Whether anything is to be left out: asked for each row.
        self.active = bool(self._given)

    def leaves_out(self, event_id: str) -> bool:
        """Tell whether this is one of them; it is counted and said."""
        if _place(event_id) not in self._left_out:
            return False
        metrics.changes_skipped.inc()
        _log.warning("change_skipped", event_id=self._left_out[_place(event_id)], severity="DATALOSS")
        return True

    def lets_through(self, event: Event) -> bool:
        """Tell whether the event of a snapshot's row is none of them."""
        return not (self.active and self.leaves_out(event.event_id))

    def leaves_out_unread(self, exc: ChangeUndecodable) -> bool:
        """Tell whether a row of a snapshot that can't be read is one of them."""
        return self.leaves_out(f"::snapshot::{exc.fields['table']}:{_digest(exc)}")

    def way_on(self, exc: ChangeUndecodable) -> ChangeUndecodable:
        """Say how to go on behind what stopped the reader, where it has an id."""
        if "event_id" not in exc.fields:
            return exc
        options = " ".join(f"--skip {event_id}" for event_id in (*self._given, exc.fields["event_id"]))
        on = f"`pgherald capture {options}` goes on behind it"
        return ChangeUndecodable(exc.message, hint=f"{exc.hint}; {on}" if exc.hint else on, **exc.fields)


def stopped_at(exc: ChangeUndecodable, event_id: str) -> ChangeUndecodable:
    """Name what can't be used: by its event id, length and hash, never by what it says."""
    known = f"{event_id}, {exc.fields['length_bytes']} bytes, sha256 {exc.fields['sha256']}"
    return ChangeUndecodable(f"{exc.message}: {known}", hint=exc.hint, **exc.fields, event_id=event_id)


def unreadable_row(exc: ChangeUndecodable, name: str, epoch: int, lsn: int) -> ChangeUndecodable:
    """Name a row of a snapshot that can't be read: its key is not known, so its hash stands for it."""
    if "event_id" in exc.fields:
        return exc  # it was read; it is Kafka that does not take it
    ids = snapshot_event_id(name, epoch, lsn, str(exc.fields["table"]), None).rpartition(":")[0]
    return stopped_at(exc, f"{ids}:{_digest(exc)}")


def _digest(exc: ChangeUndecodable) -> str:
    return str(exc.fields["sha256"])[:16]


def _place(event_id: str) -> str:
    """Give what all ids of one thing share: a key change has two halves, and a row is read at another LSN each time."""
    *of_row, digest = event_id.split(":")
    if "snapshot" in of_row[2:3]:
        return f"{of_row[-1]}:{digest}"
    return event_id.removesuffix(":d").removesuffix(":c")
