"""Transaction ids as events tell them, without their epoch, and which of them a snapshot sees. Pure."""

from __future__ import annotations

from dataclasses import dataclass


def is_before(xid: int, other: int) -> bool:
    """Tell whether a transaction got its id before another one; ids go round."""
    return other > _LAST_SPECIAL_XID and (xid - other) & 0xFFFFFFFF >= 0x80000000


#: Below are the ids of what has always been there.
_LAST_SPECIAL_XID = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """Which transactions a statement saw (pg_current_snapshot): what it says of the catalog or a row holds for them."""

    next_xid: int
    running: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, snapshot: str) -> Seen:
        """Read `xmin:xmax:xip,xip`, whose ids carry their epoch; lines of wal2json have them without."""
        _, next_xid, running = snapshot.split(":")
        return cls(int(next_xid) & 0xFFFFFFFF, frozenset(int(xid) & 0xFFFFFFFF for xid in running.split(",") if xid))

    def includes(self, xid: int) -> bool:
        """Tell whether a committed transaction was seen."""
        return is_before(xid, self.next_xid) and xid not in self.running


NOTHING_SEEN = Seen(0)
