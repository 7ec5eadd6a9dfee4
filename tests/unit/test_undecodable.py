"""A change that can't be read or written stops the reader with what it was; the operator passes it by its event id."""

from __future__ import annotations

import json
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from cdc.backfill import Backfill
from cdc.capture import Stream
from cdc.checkpoint import Checkpoint
from cdc.chunks import ChunkReader
from cdc.contract.event import Event
from cdc.moved import Moved, Streamed
from cdc.publisher import Publisher
from cdc.relation import Cluster, Column, Relation
from cdc.resume import Resume, first_record
from cdc.routing import Router
from cdc.runtime.errors import ChangeUndecodable
from cdc.runtime.fields import TableName
from cdc.runtime.lifecycle import Stop
from cdc.runtime.sections import Source, SourceTable
from cdc.skip import Skip, unreadable_row
from cdc.slot import Slot
from cdc.start import Session
from cdc.watermark import Created
from tests.support.catalogs import SaidCatalog, captured

USERS = TableName("public", "users")
RELATION = Relation(
    USERS,
    (Column("id", "integer", "integer", False), Column("born", "date", "date", False)),
    ("id",),
    primary=frozenset({"id"}),
)


class Lines:
    """The slot of a stream that ends when its lines do, and the publisher beside it."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self.stop = Stop()
        self.checkpoint = Checkpoint()
        self.published: list[Event] = []
        self.began_at: float | None = None
        self.is_full = False

    def message(self) -> SimpleNamespace | None:
        if self._lines:
            return SimpleNamespace(payload=self._lines.pop(0), data_start=100)
        self.stop.request()
        return None

    def confirm(self, *, now: bool = False) -> None:
        pass

    def wait(self, timeout_s: float) -> None:
        pass

    def publish(self, event: Event) -> None:
        self.began_at = 0.0
        self.published.append(event)

    def commit(self, *_record: object) -> None:
        self.began_at = None


def row(id_: int, born: str, action: str = "I", old: int | None = None) -> bytes:
    def column(name: str, value: Any) -> dict[str, Any]:
        return {"name": name, "type": "integer" if name == "id" else "date", "value": value}

    line = {"action": action, "lsn": "0/50", "schema": "public", "table": "users", "pk": [{"name": "id"}]}
    identity = {"identity": [column("id", old)]} if old is not None else {}
    return json.dumps({**line, "columns": [column("id", id_), column("born", born)], **identity}).encode()


def stream(*rows: bytes, skip: str = "") -> list[bytes | None]:
    """Feed one transaction of these rows; give the keys of what is published."""
    begin = b'{"action":"B","xid":7,"timestamp":"2026-11-23 20:19:52.461147+00","nextlsn":"0/64"}'
    lines = Lines([begin, *rows, b'{"action":"C","xid":7,"nextlsn":"0/64"}'])
    table = SourceTable(name=USERS)
    source = Source(name="shop", dsn=SecretStr("x"), tables=[table])
    router = Router("shop", "db", 1, captured(source, SaidCatalog(RELATION)))
    resume = Resume("positions", "slot", "shop", first_record(Cluster("1", 1, "db", 0), "options"))
    publisher = cast(Publisher, lines)
    skips = Skip([skip] if skip else [])
    idle = Backfill(resume, publisher, "db", cast(ChunkReader, None), Counter(), skips, Streamed(Created(), Moved()))
    try:
        Stream(Session(cast(Slot, lines), publisher, router, resume, idle), skips).run(lines.stop)
    except ChangeUndecodable as exc:
        raise skips.way_on(exc) from exc
    return [event.key for event in lines.published]


BAD = [
    pytest.param(b'{"action":"I","lsn":"0/50","schema":"public","table":"users","columns":["hidden"]', id="not JSON"),
    pytest.param(row(2, "hidden"), id="a value that is none of its type"),
]


@pytest.mark.parametrize("bad", BAD)
def test_the_error_names_position_length_and_hash_and_shows_nothing(bad: bytes) -> None:
    with pytest.raises(ChangeUndecodable) as caught:
        stream(row(1, "1990-01-02"), bad, row(3, "1990-01-02"))
    error: BaseException | None = caught.value
    assert re.search(rf"shop:1:0000000000000064:2, {len(bad)} bytes, sha256 [0-9a-f]{{64}}", str(error))
    assert "--skip shop:1:0000000000000064:2`" in str(error)
    assert "of public.users" in str(error)
    while error:
        assert "hidden" not in str(error) + repr(error) + str(getattr(error, "fields", ""))
        error = error.__cause__
    if bad is not BAD[0].values[0]:
        assert "column born" in str(caught.value)


@pytest.mark.parametrize("bad", BAD)
def test_the_operator_passes_it_by_its_event_id(bad: bytes) -> None:
    rows = row(1, "1990-01-02"), bad, row(3, "1990-01-02")
    assert stream(*rows, skip="shop:1:0000000000000064:2") == [b'{"id":1}', b'{"id":3}']
    with pytest.raises(ChangeUndecodable):
        stream(*rows, skip="shop:1:0000000000000064:1")


@pytest.mark.parametrize("half", ["", ":d", ":c"])
def test_a_key_change_is_passed_as_a_whole_by_the_id_of_either_half(half: str) -> None:
    moved = row(2, "1990-01-02", "U", old=1)
    assert stream(moved, skip=f"shop:1:0000000000000064:1{half}") == []
    assert stream(moved) == [b'{"id":1}', b'{"id":1}', b'{"id":2}']


def test_at_a_second_fault_both_are_to_be_passed_together() -> None:
    """What is skipped is committed with what follows: a session that fails goes back behind it."""
    rows = row(1, "hidden"), row(2, "hidden"), row(3, "1990-01-02")
    with pytest.raises(ChangeUndecodable, match=r"--skip shop:1:0{14}64:1 --skip shop:1:0{14}64:2`"):
        stream(*rows, skip="shop:1:0000000000000064:1")


def test_a_row_of_a_snapshot_is_passed_wherever_it_is_read() -> None:
    skip = Skip(["shop:2:snapshot:0000000000000064:public.users:0123456789abcdef"])
    assert skip.leaves_out("shop:2:snapshot:0000000000000099:public.users:0123456789abcdef")
    assert not skip.leaves_out("shop:2:snapshot:0000000000000064:public.orders:0123456789abcdef")
    assert not skip.leaves_out("shop:2:snapshot:0000000000000064:public.users:0123456789abcdee")


def test_a_row_of_a_snapshot_that_can_not_be_read_is_named_by_its_hash() -> None:
    exc = ChangeUndecodable("a row of public.users is not UTF8", table="public.users", length_bytes=3, sha256="ab" * 32)
    named = unreadable_row(exc, "shop", 2, 100)
    id_ = "shop:2:snapshot:0000000000000064:public.users:abababababababab"
    assert str(named) == f"a row of public.users is not UTF8: {id_}, 3 bytes, sha256 {'ab' * 32}"
    assert Skip([id_]).leaves_out_unread(exc)
    assert f"--skip {id_}`" in str(Skip().way_on(named))
