"""Users who come, change plans and go while the consumers are being killed."""

from __future__ import annotations

from tests.chaos.writers import Execute, Session
from tests.support.application import INSERT
from tests.support.database import Database

#: What a change of plan is planned from: the old row.
FULL_ROWS = 'ALTER TABLE "User" REPLICA IDENTITY FULL'


class Users(Session):
    """Registers users, some without an address; changes plans, often several times in a row; deletes a few."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__(database, f"{seed}:users")
        self._number = 0

    def _pause_s(self) -> float:
        return 0.06

    def _turn(self, execute: Execute) -> None:
        execute("BEGIN")
        for _ in range(self._chance.choice((1, 1, 1, 3))):
            self._change(execute)
        execute("ROLLBACK" if self._chance.random() < 0.1 else "COMMIT")
        self.transactions += 1

    def _change(self, execute: Execute) -> None:
        kind = self._chance.random()
        if kind < 0.55:
            self._register(execute)
        elif kind < 0.95:
            execute(
                'UPDATE "User" SET plan = %s WHERE id = %s', (self._chance.choice(("free", "pro")), self._someone())
            )
        else:
            execute('DELETE FROM "User" WHERE id = %s', (self._someone(),))

    def _register(self, execute: Execute) -> None:
        self._number += 1
        id_ = f"u{self._number}"
        address = None if self._chance.random() < 0.05 else f"{id_}@example.org"
        execute(INSERT, (id_, f"User {self._number}", address, "secret", self._chance.choice(("free", "pro"))))

    def _someone(self) -> str:
        """Pick one of a few who came lately: many changes of one key follow each other closely."""
        return f"u{self._chance.randint(max(1, self._number - 8), max(1, self._number))}"
