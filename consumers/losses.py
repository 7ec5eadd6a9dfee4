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
#: What is less likely than this by chance alone is the delivery's own: no throttle makes many of them spend an attempt.
_BY_CHANCE = 0.001
_REST_MAX_S = 60.0


class _Lost(NamedTuple):
    """What was lost, and how many others were taken and lost, all told, at its first time and its last."""

    again: int  #: how often it was lost again though others were taken in between
    taken: int  #: until the last time
    taken_before: int  #: until the first time
    others_before: int
    own: int  #: how often it was lost


class Losses:
    """What one relay or service was lost at, by its identity, and whether it took others since. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._losses = 0
        self._in_a_row = 0
        self._lost: dict[str, _Lost] = {}

    def taken(self, identity: str) -> None:
        """Note that the other side took one."""
        with self._lock:
            self._taken += 1
            self._in_a_row = 0
            self._lost.pop(identity, None)

    def judge(self, error: DependencyDown, identity: str) -> RetryableError:
        """Note a loss, and say what it means: for everyone, as it stands; for this one alone; or nobody knows yet.

        It is this one's own if it was lost again and again though others were taken, more often than the others' losses
        explain: it spends its attempts then. Until then it rests, and the lane goes on as long as others are taken.
        """
        with self._lock:
            lost = self._note(identity)
            if self._by_chance(lost) < _BY_CHANCE:
                hint, wait_s = "At this one, and not at others", error.retry_after_s
                return Deferred(error.message, hint=hint, retry_after_s=wait_s, **error.fields)
            self._in_a_row += 1
            if self._taken and self._in_a_row < _IN_A_ROW:
                rest_s = min(2.0**lost.again, _REST_MAX_S)
                return NotYet(error.message, retry_after_s=max(rest_s, error.retry_after_s or 0.0))
            return error

    def _note(self, identity: str) -> _Lost:
        before = self._lost.pop(identity, _Lost(0, self._taken, self._taken, self._losses, 0))
        self._losses += 1
        again = before.again + (before.taken < self._taken)
        lost = self._lost[identity] = before._replace(again=again, taken=self._taken, own=before.own + 1)
        if len(self._lost) > _MOST:
            del self._lost[next(iter(self._lost))]
        return lost

    def _by_chance(self, lost: _Lost) -> float:
        """Say how likely it is to be lost so often where others are lost as often as they were meanwhile."""
        taken = self._taken - lost.taken_before
        others = self._losses - lost.own - lost.others_before
        return float(((others + 1) / (others + taken + 2)) ** lost.again)
