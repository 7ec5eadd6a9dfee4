"""A line to PostgreSQL that goes silent: connections stay open, also new ones, and nothing passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from cdc.runtime.errors import ConnectionLost
from cdc.slot import Slot
from cdc.wal2json import OPTIONS
from deploy.local.net import until
from tests.support.database import Database
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer

ACTIVE = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"


@pytest.fixture
def line(postgres: PostgresServer) -> Iterator[Proxy]:
    with Proxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture
def slot(database: Database, line: Proxy, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slot]:
    monkeypatch.setattr("cdc.slot._SILENCE_S", 0.05)
    dsn = database.dsn.replace(f"port={database.server.port}", f"port={line.port}") + " connect_timeout=1"
    with closing(Slot(dsn, name)) as opened:
        opened.create(opened.begin())
        opened.start(OPTIONS)
        yield opened


def read_for(slot: Slot, turns: int) -> None:
    for _ in range(turns):
        assert not slot.message()
        slot.confirm()
        slot.wait(0.1)


def test_an_idle_slot_is_held_however_long_nobody_writes(slot: Slot, database: Database, name: str) -> None:
    read_for(slot, 5)
    assert database.execute(ACTIVE, (name,)) == [(True,)]


def test_a_silent_line_is_given_up_when_the_server_has_given_the_slot_free(
    slot: Slot, database: Database, line: Proxy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_for(slot, 1)
    line.abandon()
    until(lambda: database.execute(ACTIVE, (name,)) == [(False,)], 5, "the server to give the slot free")
    read_for(slot, 2)  # nobody can be asked over a line that lets no one through
    monkeypatch.setattr(slot, "_dsn", database.dsn)
    with pytest.raises(ConnectionLost, match="gave the slot free"):
        read_for(slot, 5)
