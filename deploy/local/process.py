"""Background processes that survive the command that started them and that a later one finds again. Linux: /proc."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.net import until


class ServerFailed(RuntimeError):
    """A server ended, or did not answer; the text says where its log is and how it ends."""


def stat_fields(path: Path) -> list[str]:
    """Read what /proc says of a process or a thread, from its state on. Raises OSError when it is gone."""
    # the name in brackets may hold blanks: what follows the last bracket has none
    return path.read_text().rpartition(")")[2].split()


@dataclass(frozen=True)
class Process:
    """A process of this machine; its start time tells it from a later one that got the same pid."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """None when there is none, or only a zombie is left of it."""
        try:
            fields = stat_fields(Path(f"/proc/{pid}/stat"))
        except OSError:
            return None
        return None if fields[0] in "ZX" else cls(pid, fields[19])

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def tree(self) -> "list[Process]":
        """Itself first, then its descendants. PostgreSQL's backends leave the process group, hence by parents."""
        found = [self] if self.alive else []
        for process in found:
            found += [child for pid in _children(process.pid) if (child := Process.of(pid))]
        return found

    def signal(self, number: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return []


def working_in(folder: Path) -> list[int]:
    """List the pids of ours that have this folder as their working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or not ours to ask
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


class Daemon:
    """One server: a command with a folder of its own (`home`: pid, log, what it stores) and the faults that tests need.

    start() returns when the server answers, stop() when all of its processes are gone. A kill loses nothing of `home`;
    start() works after it, on the same port.
    """

    name = "server"
    quit_signal = signal.SIGTERM
    timeout_s = 60.0
    folder = "/"
    user: str | None = None

    def __init__(self, home: Path, log: Path | None = None) -> None:
        self.home = home
        self.log = log or home / "log"
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make what the first start needs; called before every start."""

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    @property
    def process(self) -> Process | None:
        """Its running process, also when an earlier command started it."""
        try:
            known = Process(*_read_pid(self.home / "pid"))
        except (OSError, ValueError):
            return None
        return known if known.alive else None

    def start(self) -> None:
        """Raise ServerFailed with the end of the log when it ends or does not answer in time."""
        if not self.process:
            self.home.mkdir(parents=True, exist_ok=True)
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.prepare()
            self._spawn()
        try:
            until(self._ready_or_dead, self.timeout_s, f"{self.name} to answer")
        except TimeoutError as error:
            raise ServerFailed(f"{error}\n{self._last_lines()}") from error

    def stop(self) -> None:
        """Stop in order; by force when that takes longer than 20 s."""
        if running := self.process:
            self.unpause()  # a stopped process takes no other signal
            running.signal(self.quit_signal)
            try:
                self._wait([running], 20)
            except TimeoutError:
                self.kill()
        self._reap()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill as if the power went: no process gets a chance to say anything."""
        if running := self.process:
            running.signal(signal.SIGSTOP)  # so that it forks no one while we count
            tree = running.tree()
            for process in tree:
                process.signal(signal.SIGKILL)
            self._wait(tree, 20)
        self._reap()

    def pause(self) -> None:
        """Leave connections open and answer nothing."""
        if running := self.process:
            running.signal(signal.SIGSTOP)
            for process in running.tree():
                process.signal(signal.SIGSTOP)

    def unpause(self) -> None:
        if running := self.process:
            for process in reversed(running.tree()):
                process.signal(signal.SIGCONT)

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is not for us
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
            )
        started = Process.of(self._child.pid)
        (self.home / "pid").write_text(f"{self._child.pid} {started.started if started else 0}\n")

    def _ready_or_dead(self) -> bool:
        if not self.process:
            self._reap()
            raise ServerFailed(f"{self.name} ended while it started\n{self._last_lines()}")
        return self.ready()

    def _wait(self, processes: list[Process], timeout_s: float) -> None:
        until(lambda: not any(process.alive for process in processes), timeout_s, f"{self.name} to end", every_s=0.01)

    def _reap(self) -> None:
        if self._child:
            self._child.wait()
            self._child = None

    def _last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"its log is {self.log}, and ends:", *lines])


def _read_pid(path: Path) -> tuple[int, str]:
    pid, started = path.read_text().split()
    return int(pid), started
