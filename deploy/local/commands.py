"""The commands of pgherald as the demo's processes, with their logs; the demo is their supervisor."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from deploy.local.process import ServerFailed
from deploy.local.stack import Stack


class Commands:
    """Starts and kills commands; leaving the context stops them in order."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(30)

    def log(self, command: str) -> Path:
        return self._stack.logs / f"{command.replace(' ', '-')}.log"

    def start(self, command: str) -> None:
        """Start `pgherald COMMAND`; its log is begun anew at the first start."""
        mode = "ab" if command in self._running else "wb"
        with self.log(command).open(mode) as log:
            self._running[command] = subprocess.Popen(
                [sys.executable, "-m", "cdc.runtime.cli", *command.split(), "--config", str(self._stack.settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PGHERALD_LOG": "json"},
            )

    def kill(self, command: str) -> None:
        self._running[command].kill()
        self._running[command].wait()

    def said(self, command: str, event: str) -> bool:
        """Tell whether a log holds an event."""
        self.check()
        return f'"event":"{event}"' in self.log(command).read_text()

    def check(self) -> None:
        """Raise ServerFailed with the end of the log when a command has ended by itself."""
        for command, process in self._running.items():
            if process.poll() is not None:
                lines = self.log(command).read_text().splitlines() or ["it said nothing"]
                raise ServerFailed(f"pgherald {command} has ended: {lines[-1]}")
