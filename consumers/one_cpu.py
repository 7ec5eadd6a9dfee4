"""Keep the threads of a process on one CPU, whichever the kernel would choose now.

One of them runs Python at a time. A kernel with an idle CPU wakes the next one there: that wakes a CPU and fills its
caches, ten times a mail, which costs a process a quarter of its rate and of its CPU time. deploy/decisions/0020 has the
figures.
"""

from __future__ import annotations

import os
import random
import threading
from contextlib import suppress
from pathlib import Path

from cdc.runtime.lifecycle import Stop

#: How long they stay: another process that needs this CPU too may have come meanwhile.
_STAY_S = 10.0
#: Of /proc/.../stat, counted after the command's name: the CPU that a thread last ran on (proc_pid_stat(5), 39).
_PROCESSOR = 36


def stay(stop: Stop) -> None:
    """Bring all other threads to where this one wakes up, time and again: that is an idle CPU where there is one."""
    while True:
        with suppress(OSError):  # a system without this /proc: all runs as it would
            _bring_others(_own_cpu())
        # Not all at the same time: processes that share a CPU would go to the next one together.
        if stop.wait(_STAY_S * (0.5 + random.random())):  # noqa: S311
            return


def _own_cpu() -> int:
    return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[_PROCESSOR])


def _bring_others(cpu: int) -> None:
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != threading.get_native_id():
            with suppress(OSError):  # it ended, or this CPU is no longer ours
                os.sched_setaffinity(int(thread), {cpu})
