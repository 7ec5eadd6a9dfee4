"""The application that the local stack pretends to be: Badgeyay's database, and the role that pgherald reads it as."""

from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2 import sql

from deploy.local.servers import LocalPostgres

DATABASE = "badgeyay"
ROLE = "pgherald"
_TABLE = Path(__file__).with_name("badgeyay.sql")
_ROLE = Path(__file__).parents[1] / "sql" / "role.sql"


def create(postgres: LocalPostgres, password: str) -> None:
    """Make what is not there yet; a set-up that was interrupted is finished by the next one."""
    with closing(psycopg2.connect(postgres.dsn())) as session:
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
            if not cursor.rowcount:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with closing(psycopg2.connect(postgres.dsn(DATABASE))) as session, session, session.cursor() as cursor:
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,))
        if not cursor.rowcount:
            cursor.execute(_TABLE.read_text() + _ROLE.read_text())
        cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD %s").format(sql.Identifier(ROLE)), (password,))
