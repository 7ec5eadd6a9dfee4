"""The relays of the mail bench, which must not be its limit: Postfix's smtp-sink, and our own where it is slow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.local.net import answers, free_port, until

_FOLDER = Path("build/bench/postfix").resolve()


def fetch() -> None:
    """Unpack Debian's postfix beside the bench; nothing of it is installed, configured or started."""
    if _FOLDER.exists():
        return
    half = _FOLDER.with_suffix(".half")
    half.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "-qq", "download", "postfix"], cwd=half, check=True, stdout=subprocess.DEVNULL)
    (package,) = half.glob("postfix_*.deb")
    subprocess.run(["dpkg", "-x", package, half], check=True)
    half.rename(_FOLDER)


@contextmanager
def quick() -> Iterator[int]:
    """Run smtp-sink; give its port."""
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    command: list[str | Path] = [_FOLDER / "usr/sbin/smtp-sink", *user, f"127.0.0.1:{port}", "256"]
    with _running(command, port, {"LD_LIBRARY_PATH": str(_FOLDER / "usr/lib/postfix")}):
        yield port


@contextmanager
def slow(delay_ms: int) -> Iterator[int]:
    """Run a relay that takes its time at the final dot; give its port."""
    port = free_port()
    with _running([sys.executable, "-m", "tests.bench.sink", str(port), str(delay_ms)], port, {}):
        yield port


@contextmanager
def _running(command: Sequence[str | Path], port: int, environment: Mapping[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    try:
        until(lambda: answers(port), 10, "the relay to answer")
        yield
    finally:
        process.terminate()
        process.wait()
