"""What preflight says of `pgherald.command`, the table by which operators ask a running reader."""

from __future__ import annotations

from cdc.ask import SCRIPT
from cdc.command import TABLE
from cdc.preflight.ask import one, statements
from cdc.runtime import postgres
from cdc.runtime.findings import Finding

_WHY = "`pgherald snapshot`, its pause and its resume ask the reader by a row of it"
#: CREATE SCHEMA IF NOT EXISTS wants the right to make one also where there is one.
_MAY_CREATE = """
    SELECT has_database_privilege(current_database(), 'CREATE')
        AND coalesce(has_schema_privilege(to_regnamespace('pgherald'), 'CREATE'), true)
"""
_MAY_INSERT = """
    SELECT has_schema_privilege(relnamespace, 'USAGE') AND has_table_privilege(oid, 'INSERT')
    FROM pg_class WHERE relnamespace = to_regnamespace('pgherald') AND relname = 'command'
"""
#: Not by to_regclass(), which wants a right on the schema.
_LOGGED = """
    SELECT relpersistence = 'p' FROM pg_class WHERE relnamespace = to_regnamespace('pgherald') AND relname = 'command'
"""


def look(connection: postgres.Connection) -> Finding:
    """Look whether it is there, reaches the WAL, and takes rows of this role."""
    role = one(connection, "SELECT quote_ident(current_user)")
    logged = one(connection, _LOGGED)
    if logged is None:
        return _missing(connection)
    if not logged:
        return Finding("fault", f"{TABLE} is not logged", _WHY, f"ALTER TABLE {TABLE} SET LOGGED;")
    if one(connection, _MAY_INSERT):
        return Finding("ok", f"{TABLE} is there, and the role may ask by it")
    grant = f"GRANT USAGE ON SCHEMA pgherald TO {role}; GRANT INSERT ON {TABLE} TO {role};"
    why = f"{_WHY}; another role that may insert asks as well (PGHERALD_SOURCE__DSN)"
    return Finding("warning", f"the role {role} may not insert into {TABLE}", why, grant)


def _missing(connection: postgres.Connection) -> Finding:
    script = f"psql -f {SCRIPT}"
    if one(connection, _MAY_CREATE):
        what = f"{TABLE} is made by the first `pgherald snapshot`"
        return Finding("ok", what, "", script, statements(connection, SCRIPT.read_text()))
    return Finding("warning", f"there is no table {TABLE}", _WHY, f"as a superuser, in this database: {script}")
