"""Mails and calls at which the other side is lost, or refuses as if it refused all: one of them must not stop all."""

from __future__ import annotations

import threading
from typing import NamedTuple

from cdc.runtime.errors import Deferred, DependencyDown, RetryableError
from consumers.outcome import NotYet

#: Of so many it is remembered: an outage touches few, as one delivery at a time probes a lane.
_MOST = 1000
#: So many in a row, with none taken in between, are everyone's.
_IN_A_ROW = 5
_REST_MAX_S = 60.0


class _Lost(NamedTuple):
    taken: int  #: how many others were taken until then
    again: int  #: how often it was lost again though others were taken


class Losses:
    """What one relay or service was lost at, by its identity, and whether it took others since. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._in_a_row = 0
        self._lost: dict[str, _Lost] = {}

    def taken(self, identity: str) -> None:
        """Note that the other side took one."""
        with self._lock:
            self._taken += 1
            self._in_a_row = 0
            self._lost.pop(identity, None)

    def judge(self, error: DependencyDown, identity: str, times: int = 1) -> RetryableError:
        """Note a loss, and say what it means: for everyone, as it stands; for this one alone; or nobody knows yet.

        It is this one's own if it was lost again, `times` times, though others were taken: it spends its attempts then.
        Until then it rests, and the lane goes on as long as the other side takes others.
        """
        with self._lock:
            again = self._note(identity)
            if again >= times:
                hint, wait_s = "At this one, and not at others", error.retry_after_s
                return Deferred(error.message, hint=hint, retry_after_s=wait_s, **error.fields)
            self._in_a_row += 1
            if self._taken and self._in_a_row < _IN_A_ROW:
                rest_s = min(2.0**again, _REST_MAX_S)
                return NotYet(error.message, retry_after_s=max(rest_s, error.retry_after_s or 0.0))
            return error

    def _note(self, identity: str) -> int:
        before = self._lost.pop(identity, _Lost(self._taken, 0))
        again = before.again + (before.taken < self._taken)
        self._lost[identity] = _Lost(self._taken, again)
        if len(self._lost) > _MOST:
            del self._lost[next(iter(self._lost))]
        return again
