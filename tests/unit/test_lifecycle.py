"""How a process hears that it is to stop."""

from __future__ import annotations

import threading
import time

from cdc.runtime.lifecycle import Stop


def test_a_wait_lasts_as_long_as_it_was_asked_to_and_ends_with_the_request() -> None:
    stop = Stop()
    began_at = time.monotonic()
    assert not stop.wait(0.05)
    assert time.monotonic() - began_at >= 0.05
    threading.Timer(0.05, stop.request).start()
    assert stop.wait(30)
    assert stop.requested
    assert time.monotonic() - began_at < 5
