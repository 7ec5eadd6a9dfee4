"""The ledger's schema: numbered SQL files, each applied once, in order."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from cdc.runtime import postgres
from cdc.runtime.errors import FatalError
from consumers.ledger import LOCK

#: Beside the package in a checkout, in an editable install and in the image.
FOLDER = Path(__file__).parents[1] / "deploy" / "sql"

#: The tables of the catalog and not to_regclass: that answers from a cache, which a wait for the lock does not refresh.
_BEGUN = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class
        JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = 'pgherald' AND relname = 'migration'
    )
"""


def migrate(dsn: str) -> list[str]:
    """Apply what is missing, in one transaction, and name it.

    Several processes may do so at once: one works, the others wait and find nothing to do. A role without the right to
    create needs none when all is applied. A ledger that is newer than this code is left alone, and works: migrations
    only add, so that old processes go on beside new ones. Raises AccessDenied, RetryableError.
    """
    files = _files()
    with postgres.errors(), closing(postgres.connect(dsn, application_name="pgherald ledger migrate")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            if not _missing(cursor, files):
                return []
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, -1)", (LOCK,))
            # A statement that waits for a table makes everyone after it wait too: rather give up, and be called again.
            cursor.execute("SET LOCAL lock_timeout = '3s'")
            missing = _missing(cursor, files)
            for number, path in missing.items():
                cursor.execute(path.read_text())
                cursor.execute("INSERT INTO pgherald.migration (number, name) VALUES (%s, %s)", (number, path.stem))
            return [path.stem for path in missing.values()]


def _files() -> dict[int, Path]:
    files: dict[int, Path] = {}
    for path in sorted(FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql")):
        first = files.setdefault(int(path.name[:4]), path)
        if first != path:
            # One of the two would never run, and the ledger would call itself up to date.
            raise FatalError(
                f"the migrations {first.name} and {path.name} have one number",
                hint=f"Remove from {FOLDER} what is left over of another version; a new one wants a number of its own",
            )
    if not files:
        raise FatalError(f"no migrations in {FOLDER}", hint="Install pgherald from its repository: pip install -e .")
    return files


def _missing(cursor: Any, files: dict[int, Path]) -> dict[int, Path]:
    cursor.execute(_BEGUN)
    (begun,) = cursor.fetchone() or (False,)
    if not begun:
        return files
    cursor.execute("SELECT number FROM pgherald.migration")
    applied = {number for (number,) in cursor.fetchall()}
    return {number: path for number, path in files.items() if number not in applied}
