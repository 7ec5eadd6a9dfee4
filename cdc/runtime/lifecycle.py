"""How a process is asked to stop. A stop request is neither an error nor an attempt."""

from __future__ import annotations

import signal
import threading


class Stopped(Exception):
    """Long work saw the request to stop; it is where a restart finds it."""


class Stop:
    """A request to end in order, made by SIGTERM, SIGINT or a failing part of the process."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def requested(self) -> bool:
        """Tell whether the process is to end."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask the process to end. Safe from any thread and from a signal handler."""
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait, but no longer than until a stop is requested; tell whether it is."""
        return self._event.wait(timeout_s)

    def on_signals(self) -> Stop:
        """Stop on SIGTERM and SIGINT; a second signal ends the process at once. Call from the main thread."""

        def handle(number: int, _frame: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            self.request()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)
        return self
