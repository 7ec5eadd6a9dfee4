"""Mails at which the relay is lost each time, while it takes others: one of them must not stop all."""

from __future__ import annotations

import threading

#: Of so many mails it is remembered: an outage touches few, as one delivery at a time probes a lane.
_MOST = 1000


class Losses:
    """The mails at which the relay was lost before the final dot, and whether it took others since. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._taken_at: dict[str, int] = {}  # a lost mail's Message-ID -> how many were taken until then

    def taken(self, message_id: str) -> None:
        """Note that the relay took a mail."""
        with self._lock:
            self._taken += 1
            self._taken_at.pop(message_id, None)

    def is_its_own(self, message_id: str) -> bool:
        """Note that the relay was lost at a mail; tell whether that was so before and the relay took others since."""
        with self._lock:
            before = self._taken_at.pop(message_id, None)
            self._taken_at[message_id] = self._taken
            if len(self._taken_at) > _MOST:
                del self._taken_at[next(iter(self._taken_at))]
            return before is not None and before < self._taken
