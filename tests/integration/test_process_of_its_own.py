"""What only a process of its own can show, as the tests' has threads and a test runner: its signals, its CPUs."""

import subprocess
import sys

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

LOOK_AT_CPUS = """
import os, threading
from cdc.runtime.lifecycle import Stop
from consumers import one_cpu

allowed, stop = os.sched_getaffinity(0), Stop()
stop.request()
looking = threading.Thread(target=one_cpu.stay, args=(stop,))
looking.start()
looking.join()
assert len(os.sched_getaffinity(0)) == 1
assert os.sched_getaffinity(0) <= allowed
"""


def test_a_signal_that_another_thread_receives_ends_the_wait_of_the_main_one() -> None:
    ran = subprocess.run([sys.executable, "-c", HEARD_BY_ANOTHER], capture_output=True, text=True, timeout=10)
    assert ran.stdout == "True\n"


def test_all_threads_run_on_one_cpu_of_those_that_are_allowed() -> None:
    subprocess.run([sys.executable, "-c", LOOK_AT_CPUS], check=True, timeout=30)
