"""Replication origins: what a change was written under, when it came from elsewhere or was marked by its session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing

from cdc.runtime.log import get_logger
from cdc.runtime.postgres import Connection, errors

_log = get_logger("capture")
#: wal2json's option. In ours it holds names, so that their hash is that of the settings; the plugin wants ids.
FILTER = "filter-origins"


def ids(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Look up the origins of these names; those that are not there are left out."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute("SELECT roname, roident::int FROM pg_replication_origin WHERE roname = ANY(%s)", (list(names),))
        return dict(cursor.fetchall())


def name(connection: Connection, id_: int) -> str | None:
    """Name an origin; None when it was dropped."""
    with errors(), closing(connection.cursor()) as cursor:
        cursor.execute("SELECT roname FROM pg_replication_origin WHERE roident = %s", (id_,))
        found = cursor.fetchone()
    return found[0] if found else None


def resolved(options: Mapping[str, str], connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Give the options as the plugin takes them: origins by id, those that are not there left out and said."""
    known = ids(connection, names)
    if missing := sorted(set(names) - set(known)):
        _log.warning("no_such_origin", names=missing, hint="it is looked up at the start: start again once it is there")
    rest = {key: value for key, value in options.items() if key != FILTER}
    return {**rest, FILTER: ",".join(map(str, known.values()))} if known else rest
