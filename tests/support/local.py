"""The servers as local processes: those of `make up`, in a folder that goes away with the session."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from deploy.local.net import free_port
from deploy.local.process import Daemon
from deploy.local.servers import LocalKafka, LocalPostgres

Local = TypeVar("Local", bound=Daemon)


@contextmanager
def postgres() -> Iterator[LocalPostgres]:
    # no test cuts the power of the machine: nothing is lost without fsync, and CREATE DATABASE takes a third
    with _started(lambda home: LocalPostgres(home, free_port(), {"fsync": "off"})) as server:
        yield server


@contextmanager
def kafka() -> Iterator[LocalKafka]:
    with _started(lambda home: LocalKafka(home, free_port(), free_port())) as server:
        yield server


@contextmanager
def _started(make: Callable[[Path], Local]) -> Iterator[Local]:
    # everyone may enter /var/tmp, also PostgreSQL's user
    server = make(Path(tempfile.mkdtemp(prefix="pgherald-test-", dir="/var/tmp")))
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home)
