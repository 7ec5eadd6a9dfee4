"""How a process hears that it is to stop."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from cdc.runtime.lifecycle import Stop

#: The kernel may give a process's signal to any of its threads; here it is never the main one.
HEARD_BY_ANOTHER = """
import signal, threading, time
from cdc.runtime.lifecycle import Stop

def other():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

stop = Stop().on_signals()
threading.Thread(target=other).start()
print(stop.wait(3600))
"""


def test_a_signal_that_another_thread_receives_ends_the_wait_of_the_main_one() -> None:
    ran = subprocess.run([sys.executable, "-c", HEARD_BY_ANOTHER], capture_output=True, text=True, timeout=10)
    assert ran.stdout == "True\n"


def test_a_wait_lasts_as_long_as_it_was_asked_to_and_ends_with_the_request() -> None:
    stop = Stop()
    began_at = time.monotonic()
    assert not stop.wait(0.05)
    assert time.monotonic() - began_at >= 0.05
    threading.Timer(0.05, stop.request).start()
    assert stop.wait(30)
    assert stop.requested
    assert time.monotonic() - began_at < 5
