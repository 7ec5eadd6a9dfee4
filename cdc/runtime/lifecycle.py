"""How a process is asked to stop. A stop request is neither an error nor an attempt."""

from __future__ import annotations

import _thread
import signal
import threading
import time

#: How long the main thread may sleep at a time: a signal that the kernel gives to another thread does not wake it, and
#: only it may run the handler. So it is after a SIGCONT, while the main thread is not yet up.
_SLICE_S = 1.0


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
        """Ask the process to end. Safe from any thread."""
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait, but no longer than until a stop is requested; tell whether it is."""
        deadline_s = time.monotonic() + timeout_s
        while not self._event.wait(min(_SLICE_S, max(0.0, deadline_s - time.monotonic()))):
            if time.monotonic() >= deadline_s:
                return False
        return True

    def on_signals(self) -> Stop:
        """Stop on SIGTERM and SIGINT; a second signal ends the process at once. Call from the main thread."""

        def handle(number: int, _frame: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            # Not from here: the main thread, which this interrupts, may hold the event's lock at this very moment.
            _thread.start_new_thread(self.request, ())

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)
        return self
