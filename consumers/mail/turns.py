"""How often a recipient domain may get a mail: whoever asks too early rests, and holds up nobody."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping

from consumers.outcome import NotYet

#: Nobody rests for longer without asking again: another process may have turns to give.
_REST_MAX_S = 600.0


class Domain:
    """The turns of one domain; the clock and chance are passed in."""

    def __init__(self, rate: float, now_s: float) -> None:
        self._every_s = 1.0 / rate
        self._next_s = now_s  # when there is a turn
        self._last_s = now_s  # when the last of those that rest comes back

    def rest_s(self, now_s: float, jitter: float) -> float:
        """Take a turn and give 0, or say how long to rest: those that rest come back one after another."""
        # What nobody took in the last second is made up for: the ledger is not asked oftener while all rest.
        self._next_s = max(self._next_s, now_s - 1.0)
        if self._next_s <= now_s:
            self._next_s += self._every_s
            return 0.0
        self._last_s = max(self._last_s, now_s, self._next_s - self._every_s) + self._every_s
        if self._last_s - now_s <= _REST_MAX_S:
            return self._last_s - now_s
        self._last_s = now_s + _REST_MAX_S
        return _REST_MAX_S * (0.5 + 0.5 * jitter)


class Turns:
    """The turns of the domains that `smtp.rates` names, for all threads of a process together."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        now_s = time.monotonic()
        self._domains = {domain: Domain(rate, now_s) for domain, rate in rates.items()}
        self._lock = threading.Lock()

    def take(self, domain: str) -> None:
        """Take a turn of a domain. Raises NotYet: nothing is to be sent there before a rest."""
        if known := self._domains.get(domain):
            with self._lock:
                rest_s = known.rest_s(time.monotonic(), random.random())  # noqa: S311  spreads what rests
            if rest_s:
                raise NotYet("the recipient's domain has its rate", retry_after_s=rest_s)
