"""Use a link: once, for the address that it was made for. The only part that speaks to the databases."""

from __future__ import annotations

import hmac
import re
from contextlib import closing
from typing import Any, Literal

import msgspec

from cdc.runtime import postgres
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.fields import TableName, quoted
from cdc.runtime.sections_mail import Links
from cdc.runtime.settings import Settings
from consumers.mail.links import address_hash
from consumers.mail.suppression import UNSUBSCRIBE, Suppression

Outcome = Literal["verified", "used", "gone"]

#: Whoever comes second waits here for the first one's transaction to end, and then finds the link used.
_USE = """
    INSERT INTO pgherald.link_use (token_hash, purpose, key) VALUES (%s, 'verify', %s)
    ON CONFLICT (token_hash) DO NOTHING
    RETURNING token_hash
"""
#: Quoted text and names, casts, parameters (`:id`), and the driver's own mark.
_SQL_PARTS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|::|:(?P<name>[A-Za-z_]\w*)|%""")


def verify(settings: Settings, links: Links, key: str, address: str, identity: str) -> Outcome:
    """Use a verify link for the user and the address (hashed) that it says. Raises what PostgreSQL's errors mean.

    A crash before the user's row is changed: nothing happened, and the link can still be used. A crash after that and
    before its use is recorded: it can be used once more, and the statement changes what it changed.
    """
    with closing(postgres.connect(settings.ledger_dsn, application_name="pgherald links")) as ledger:
        with postgres.errors(), ledger, ledger.cursor() as cursor:
            cursor.execute(_USE, (identity, key))
            if cursor.fetchone() is None:
                return "used"
            if not _change_row(settings, links, key, address):
                ledger.rollback()
                return "gone"
        return "verified"


def unsubscribe(settings: Settings, hashed: str) -> None:
    """Put an address on the suppression list, by its hash. Raises what PostgreSQL's errors mean."""
    with closing(Suppression(settings.ledger_dsn)) as listed:
        listed.add([hashed], UNSUBSCRIBE, "link")


def _change_row(settings: Settings, links: Links, key: str, address: str) -> bool:
    """Run links.verify_sql if the user still has the address; tell whether they do."""
    columns: dict[str, Any] = msgspec.json.decode(key)
    same = " AND ".join(f"{quoted(column).replace('%', '%%')} = %s" for column in columns)
    with closing(connect(settings, links)) as database:
        # Of one snapshot: if the row is changed between the look and the statement, PostgreSQL refuses the statement.
        database.set_session(isolation_level="REPEATABLE READ")
        with postgres.errors(), database, database.cursor() as cursor:
            named = f"SELECT {quoted(settings.user.email)} FROM {table(settings, links).sql()}".replace("%", "%%")  # noqa: S608  quoted
            cursor.execute(f"{named} WHERE {same}", [*columns.values()])
            found = cursor.fetchone()
            if found is None or not hmac.compare_digest(address_hash(str(found[0])), address):
                return False
            if links.verify_sql:
                cursor.execute(bound(links.verify_sql, columns), parameters(columns))
            return True


def connect(settings: Settings, links: Links) -> postgres.Connection:
    """Open the database that verify links change. Raises what PostgreSQL's errors mean."""
    dsn = links.dsn.get_secret_value() or settings.source.dsn.get_secret_value()
    return postgres.connect(dsn, application_name="pgherald links")


def table(settings: Settings, links: Links) -> TableName:
    """Name the table of the users whom links are for."""
    return links.table or settings.source.tables[0].name


def bound(statement: str, columns: dict[str, Any]) -> str:
    """Write a statement's parameters as the driver wants them; what is quoted stays. Raises ConfigInvalid."""
    known = parameters(columns)

    def write(part: re.Match[str]) -> str:
        name = part["name"]
        if name is None:
            return part[0].replace("%", "%%")
        if name not in known:
            raise ConfigInvalid(f"links.verify_sql names :{name}; the key has :{', :'.join(known)}")
        return f"%({name})s"

    return _SQL_PARTS.sub(write, statement)


def parameters(columns: dict[str, Any]) -> dict[str, Any]:
    """Give the columns of the key by name, and a key of one column also as `key`."""
    alone = {"key": next(iter(columns.values()))} if len(columns) == 1 else {}
    return alone | columns
