"""What preflight says of the database that verify links change."""

from typing import Any

import pytest

from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings
from consumers.links.inspect import links
from tests.support.database import Database

WORKS = "UPDATE users SET verified = true WHERE id = :id AND id = :key::int"


def look(database: Database, verify_sql: str, **given: Any) -> list[Finding]:
    section = {"base_url": "https://app.example.org/verify", "secret": "s", "verify_sql": verify_sql}
    settings = Settings.model_validate(
        {
            "source": {"name": "t", "dsn": database.dsn, "tables": [{"name": "users"}]},
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "links": section | given,
        }
    )
    return list(links(settings))


@pytest.fixture
def users(database: Database) -> Database:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, email text, verified boolean)")
    database.execute("INSERT INTO users VALUES (0, 'ada@example.org', false)")
    return database


def test_what_works_is_said_and_nothing_is_changed(users: Database) -> None:
    assert [finding.severity for finding in look(users, WORKS)] == ["ok", "ok"]
    assert [finding.severity for finding in look(users, "")] == ["ok"]
    assert users.execute("SELECT verified FROM users") == [(False,)]


@pytest.mark.parametrize(
    ("verify_sql", "given", "says"),
    [
        ("UPDATE users SET verifed = true WHERE id = :id", {}, 'column "verifed"'),
        ("UPDATE user SET verified = true WHERE id = :id", {}, "syntax error"),
        ("UPDATE users SET verified = true WHERE email = :id", {}, "operator does not exist"),
        (WORKS, {"table": "nobody"}, "is not there"),
    ],
)
def test_what_does_not_work_is_a_fault(users: Database, verify_sql: str, given: dict[str, Any], says: str) -> None:
    (fault,) = [finding for finding in look(users, verify_sql, **given) if finding.severity == "fault"]
    assert says in fault.what


def test_a_right_that_the_role_lacks_is_named(users: Database) -> None:
    users.execute(f"CREATE ROLE {users.name} LOGIN PASSWORD 'x'; GRANT SELECT ON users TO {users.name}")
    dsn = f"{users.dsn} user={users.name} password=x"
    (fault,) = [finding for finding in look(users, WORKS, dsn=dsn) if finding.severity == "fault"]
    assert "permission denied" in fault.what
    assert "GRANT" in fault.remedy
