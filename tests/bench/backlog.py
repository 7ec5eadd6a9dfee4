"""What the peers capture: Badgeyay's table, filled in transactions of one size between two rows of a table of marks."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

from tests.support.database import Database

TABLES = ['public."User"', "public.mark"]


def create(database: Database) -> None:
    """Make the tables, empty."""
    database.execute(Path("deploy/local/badgeyay.sql").read_text() + Path("tests/bench/backlog.sql").read_text())


def mark(database: Database, text: str) -> None:
    """Write a mark in a transaction of its own."""
    database.execute("INSERT INTO mark VALUES (%s)", (text,))


def fill(database: Database, rows: int, of_one: int) -> str:
    """Write rows in transactions of this size, between two marks; give the LSN behind them."""
    database.execute("CALL fill(%s, %s)", (rows, of_one))
    ((end,),) = database.execute("SELECT pg_current_wal_lsn()::text")
    return str(end)


def rows(database: Database, count: int) -> None:
    """Fill the table at once, for a snapshot."""
    database.execute("CALL register('u', 1, %s)", (count,))
    database.execute("VACUUM ANALYZE")


class Pace(threading.Thread):
    """Registers users one by one, so many a second, for a while."""

    def __init__(self, database: Database, rate: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self._database, self._rate, self._count = database, rate, int(rate * seconds)
        self.late_s = 0.0  #: how far the load fell behind its own pace
        self.start()

    def run(self) -> None:
        with closing(self._database.connect()) as session, session.cursor() as cursor:
            began = time.monotonic()
            for number in range(self._count):
                wait_s = began + number / self._rate - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                self.late_s = max(self.late_s, -wait_s)
                cursor.execute("CALL register('p', %s, %s)", (number, number))
