"""The demo's application: it writes users, in every way applications do, and knows nothing of pgherald."""

import io
import secrets
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import psycopg2
from sqlalchemy import String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from deploy.local import badgeyay
from deploy.local.stack import Stack

PLANS = ("free", "pro")
_COLUMNS = "id, username, email, password, created_at, plan"


class Base(DeclarativeBase):
    """SQLAlchemy's."""


class User(Base):
    """Badgeyay's model, as far as the demo needs it."""

    __tablename__ = "User"
    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    username: Mapped[str]
    email: Mapped[str | None]
    password: Mapped[str]
    created_at: Mapped[datetime]
    plan: Mapped[str]


@dataclass(frozen=True)
class Registered:
    """A committed user, and when its commit returned."""

    id: str
    email: str | None
    plan: str
    committed_at: float


class Application:
    """Registers users of one run: their ids and addresses are nobody else's."""

    def __init__(self, stack: Stack) -> None:
        self.run = secrets.token_hex(3)
        self.users: dict[str, Registered] = {}
        self.rolled_back_id = f"demo-{self.run}-rolled-back"
        self._session = psycopg2.connect(stack.postgres.dsn(badgeyay.DATABASE))
        host, port = stack.postgres.host, stack.postgres.port
        password = (stack.postgres.home / "password").read_text().strip()
        self._engine = create_engine(f"postgresql+psycopg2://postgres:{password}@{host}:{port}/{badgeyay.DATABASE}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._engine.dispose()

    def insert(self, count: int) -> None:
        """Register each user in a transaction of its own, as a web request does."""
        for _ in range(count):
            row = self._row()
            with self._session, self._session.cursor() as cursor:
                cursor.execute(f'INSERT INTO "User" ({_COLUMNS}) VALUES %s', (row,))  # noqa: S608 a constant
            self._committed([row])

    def orm(self, count: int) -> None:
        """Register users through an ORM's session."""
        rows = [self._row() for _ in range(count)]
        with Session(self._engine) as session:
            session.add_all(User(**dict(zip(_COLUMNS.split(", "), row, strict=True))) for row in rows)
            session.commit()
        self._committed(rows)

    def copy(self, count: int) -> None:
        """Register users by COPY, which no listener of an ORM sees."""
        rows = [self._row() for _ in range(count)]
        lines = "".join("\t".join(str(field) for field in row) + "\n" for row in rows)
        with self._session, self._session.cursor() as cursor:
            cursor.copy_expert(f'COPY "User" ({_COLUMNS}) FROM STDIN', io.StringIO(lines))
        self._committed(rows)

    def bulk(self, count: int) -> None:
        """Register users by one statement."""
        rows = [self._row() for _ in range(count)]
        with self._session, self._session.cursor() as cursor:
            values = b",".join(cursor.mogrify("%s", (row,)) for row in rows).decode()
            cursor.execute(f'INSERT INTO "User" ({_COLUMNS}) VALUES {values}')  # noqa: S608 quoted by mogrify
        self._committed(rows)

    def rolled_back(self) -> None:
        """Register a user, then think better of it."""
        row = (self.rolled_back_id, *self._row()[1:])
        with self._session.cursor() as cursor:
            cursor.execute(f'INSERT INTO "User" ({_COLUMNS}) VALUES %s', (row,))  # noqa: S608 a constant
        self._session.rollback()

    def without_email(self) -> None:
        """Register a user who gave no address."""
        id_, name, _, *rest = self._row()
        row = (id_, name, None, *rest)
        with self._session, self._session.cursor() as cursor:
            cursor.execute(f'INSERT INTO "User" ({_COLUMNS}) VALUES %s', (row,))  # noqa: S608 a constant
        self._committed([row])

    def change_plan(self) -> None:
        """Let the first user who is on the free plan pay."""
        user = next(user for user in self.users.values() if user.plan == "free")
        with self._session, self._session.cursor() as cursor:
            cursor.execute("""UPDATE "User" SET plan = 'pro' WHERE id = %s""", (user.id,))

    def _row(self) -> tuple[object, ...]:
        number = len(self.users) + secrets.randbelow(10**9) * 1000
        id_ = f"demo-{self.run}-{number:012d}"
        plan = PLANS[len(self.users) % 2]
        return (
            id_,
            "Ada Lovelace",
            f"{id_}@example.org",
            "not for your eyes",
            datetime.now(UTC).replace(tzinfo=None),
            plan,
        )

    def _committed(self, rows: list[tuple[object, ...]]) -> None:
        now = time.time()
        for id_, _, email, *_, plan in rows:
            self.users[str(id_)] = Registered(str(id_), str(email) if email else None, str(plan), now)


def all_ids(dsn: str, run: str) -> set[str]:
    """Read which users of a run the table holds."""
    with closing(psycopg2.connect(dsn)) as session, session.cursor() as cursor:
        cursor.execute('SELECT id FROM "User" WHERE id LIKE %s', (f"demo-{run}-%",))
        return {id_ for (id_,) in cursor}
