"""The reader's loop fed with lines, without servers: a slot that says them, a publisher that notes what it is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from pydantic import SecretStr

from cdc.backfill import Backfill
from cdc.capture import Stream
from cdc.checkpoint import Checkpoint
from cdc.chunks import ChunkReader
from cdc.contract.event import Event
from cdc.contract.position import decode_record
from cdc.moved import Moved, Streamed
from cdc.publisher import Publisher
from cdc.relation import Cluster, Column, Relation
from cdc.resume import Resume, first_record
from cdc.routing import Router
from cdc.runtime.errors import ChangeUndecodable
from cdc.runtime.fields import TableName
from cdc.runtime.lifecycle import Stop
from cdc.runtime.sections import Source, SourceTable
from cdc.skip import Skip
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
    """The slot of a stream that ends when its lines do, and the publisher beside it; None is a line not there yet."""

    def __init__(self, lines: Sequence[bytes | None]) -> None:
        self._lines = list(lines)
        self.stop = Stop()
        self.checkpoint = Checkpoint()
        #: What the publisher was told: the key of an event, or the position that was sent or committed.
        self.told: list[tuple[str, Any]] = []
        self.began_at: float | None = None
        self.ahead: bytes | None = None
        self.events = 0
        self.is_full = False
        self.markers = SimpleNamespace(pause_s=0.0)

    def message(self) -> SimpleNamespace | None:
        if self._lines:
            line = self._lines.pop(0)
            self.checkpoint.read(100)
            return SimpleNamespace(payload=line, data_start=100) if line else None
        self.stop.request()
        return None

    @property
    def published(self) -> list[bytes | None]:
        """The keys of the events."""
        return [key for what, key in self.told if what == "publish"]

    def confirm(self, *, now: bool = False) -> None:
        pass

    def wait(self, timeout_s: float) -> None:
        pass

    def publish(self, event: Event) -> None:
        self.began_at = 0.0
        self.events += 1
        self.told.append(("publish", event.key))

    def send(self, _topic: str, _key: bytes, position: bytes) -> None:
        self.ahead = position
        self.told.append(("send", decode_record(position).position))

    def commit(self, _topic: str, _key: bytes, position: bytes) -> None:
        self.began_at = self.ahead = None
        self.events = 0
        self.told.append(("commit", decode_record(position).position))


def row(id_: int, born: str = "1990-01-02", action: str = "I", old: int | None = None) -> bytes:
    def column(name: str, value: Any) -> dict[str, Any]:
        return {"name": name, "type": "integer" if name == "id" else "date", "value": value}

    line = {"action": action, "lsn": "0/50", "schema": "public", "table": "users", "pk": [{"name": "id"}]}
    identity = {"identity": [column("id", old)]} if old is not None else {}
    return json.dumps({**line, "columns": [column("id", id_), column("born", born)], **identity}).encode()


def transaction(*rows: bytes | None, end: int = 100) -> list[bytes | None]:
    """Give the lines of a transaction that ends at an LSN."""
    begin = b'{"action":"B","xid":7,"timestamp":"2026-11-23 20:19:52.461147+00","nextlsn":"0/%X"}' % end
    return [begin, *rows, b'{"action":"C","xid":7,"nextlsn":"0/%X"}' % end]


def stream(*lines: bytes | None, skip: str = "") -> Lines:
    """Run the loop until the lines end; give what the publisher was told."""
    fed = Lines(lines)
    table = SourceTable(name=USERS)
    source = Source(name="shop", dsn=SecretStr("x"), tables=[table])
    router = Router("shop", "db", 1, captured(source, SaidCatalog(RELATION)))
    resume = Resume("positions", "slot", "shop", first_record(Cluster("1", 1, "db", 0), "options"))
    publisher = cast(Publisher, fed)
    skips = Skip([skip] if skip else [])
    idle = Backfill(resume, publisher, "db", cast(ChunkReader, None), Counter(), skips, Streamed(Created(), Moved()))
    try:
        Stream(Session(cast(Slot, fed), publisher, router, resume, idle), skips).run(fed.stop)
    except ChangeUndecodable as exc:
        raise skips.way_on(exc) from exc
    return fed
