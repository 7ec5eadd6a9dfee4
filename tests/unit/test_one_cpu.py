"""Where the threads of a consumer process run. In a process of its own: these tests have threads too."""

import subprocess
import sys

_LOOK = """
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


def test_all_threads_run_on_one_cpu_of_those_that_are_allowed() -> None:
    subprocess.run([sys.executable, "-c", _LOOK], check=True, timeout=30)
