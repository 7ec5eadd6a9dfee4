"""What a misbehaving server does instead of its usual answer, and the list of what it is to do next."""

import threading
from collections import defaultdict, deque
from enum import Enum
from typing import Generic, TypeVar


class Fault(Enum):
    """What can happen to a connection besides an answer; HANG lasts until release() or the end."""

    DROP = "drop"
    HANG = "hang"


Step = TypeVar("Step")


class Script(Generic[Step]):
    """Steps by place: those of next() are used once each, in order; then what always() said is done, if anything.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: defaultdict[str, deque[Step]] = defaultdict(deque)
        self._always: dict[str, Step] = {}

    def next(self, place: str, *steps: Step) -> None:
        with self._lock:
            self._next[place].extend(steps)

    def always(self, place: str, step: Step) -> None:
        with self._lock:
            self._always[place] = step

    def clear(self) -> None:
        with self._lock:
            self._next.clear()
            self._always.clear()

    def take(self, *places: str) -> Step | None:
        """Use up the next step of the first of these places that has one."""
        with self._lock:
            queued = next((self._next[place] for place in places if self._next[place]), None)
            if queued:
                return queued.popleft()
            return next((self._always[place] for place in places if place in self._always), None)
