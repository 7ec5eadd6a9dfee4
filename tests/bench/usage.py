"""What a process has used: CPU seconds and peak memory, of itself and its children. Linux: /proc."""

from __future__ import annotations

import os
from pathlib import Path

from deploy.local.process import Process

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Sum user and system seconds of a process and its descendants."""
    return sum(_cpu_ticks(process.pid) for process in _tree(pid)) / _TICKS


def peak_mib(pid: int) -> float:
    """Give the most memory that a process had resident at a time (VmHWM), with its descendants' own peaks."""
    return sum(_peak_kib(process.pid) for process in _tree(pid)) / 1024


def _tree(pid: int) -> list[Process]:
    process = Process.of(pid)
    return process.tree() if process else []


def _cpu_ticks(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if fields else 0


def _peak_kib(pid: int) -> int:
    lines = _read(pid, "status").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _read(pid: int, file: str) -> str:
    """Read what the kernel tells of a process; nothing of one that ended since it was listed."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return ""
