"""TLS to PostgreSQL: `sslmode=verify-full` lets the reader in where the certificate is right, and nowhere else.

The server is a local process with either backend: what is tried is libpq's work and our words for its refusals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.runtime.errors import AccessDenied
from cdc.runtime.postgres import connect
from deploy.local.net import until
from deploy.local.servers import LocalPostgres
from tests.support import database as databases
from tests.support import local
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer
from tests.support.tls import Certificates


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[LocalPostgres]:
    with local.postgres_with_tls(certificates, "localhost") as started:
        yield started


@pytest.fixture
def secured(server: LocalPostgres, name: str) -> Iterator[Database]:
    with databases.fresh(server, name) as made:
        made.execute("CREATE TABLE users (id int PRIMARY KEY)")
        yield made


def over_tls(database: Database, ca_file: Path, host: str = "localhost") -> str:
    return database.dsn.replace("host=127.0.0.1", f"host={host}") + f" sslmode=verify-full sslrootcert={ca_file}"


def test_the_reader_reads_over_a_connection_whose_server_it_has_verified(
    tmp_path: Path, secured: Database, kafka: KafkaServer, name: str, certificates: Certificates
) -> None:
    dsn = over_tls(secured, certificates.ca_file)
    with Deployment(tmp_path / "d", secured, kafka, name, source_dsn=dsn) as deployment:
        deployment.capture()
        secured.execute("INSERT INTO users VALUES (1)")
        deployment.until_caught_up()
        assert [record.key for record in deployment.events()] == ['{"id":1}']
        query = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name ^@ %s"
        assert secured.execute(query, ("pgherald",)) == [(True,)]


@pytest.mark.parametrize("fault", ["authority", "name"])
def test_a_server_that_is_not_the_one_meant_stops_the_reader(
    tmp_path: Path, secured: Database, kafka: KafkaServer, name: str, certificates: Certificates, fault: str
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    ca_file = Certificates(others).ca_file if fault == "authority" else certificates.ca_file
    dsn = over_tls(secured, ca_file, "127.0.0.1" if fault == "name" else "localhost")
    with Deployment(tmp_path / "d", secured, kafka, name, source_dsn=dsn) as deployment:
        process = deployment.start("capture")
        assert process.exit_code() == 70
        said = process.log.read_text()
        assert "sslrootcert" in said
        assert secured.server.dsn().split("password=")[1].split()[0] not in said


@pytest.fixture
def role(secured: Database, name: str) -> Iterator[str]:
    """Make a role that gets in by a certificate and by nothing else; its databases are told by pg_hba.conf."""
    own = f"r{name}"
    ((file,),) = secured.execute("SHOW hba_file")
    before = Path(file).read_text()
    Path(file).write_text(f"hostssl all {own} 127.0.0.1/32 cert\n" + before)
    secured.execute(f"CREATE ROLE {own} LOGIN REPLICATION; GRANT ALL ON users TO {own}; SELECT pg_reload_conf()")
    yield own
    secured.execute(f"DROP OWNED BY {own}; DROP ROLE {own}")
    Path(file).write_text(before)


def as_role(database: Database, role: str, ca_file: Path, pair: tuple[Path, Path] | None) -> str:
    server = database.server
    own = f" sslcert={pair[0]} sslkey={pair[1]}" if pair else ""
    return (
        f"host=localhost port={server.port} user={role} dbname={database.name} sslmode=verify-full"
        f" sslrootcert={ca_file}{own}"
    )


def test_the_reader_gets_in_by_a_certificate_of_its_own(
    tmp_path: Path, secured: Database, kafka: KafkaServer, name: str, certificates: Certificates, role: str
) -> None:
    dsn = as_role(secured, role, certificates.ca_file, certificates.issue(tmp_path, role, role))
    with Deployment(tmp_path / "d", secured, kafka, name, source_dsn=dsn) as deployment:
        deployment.capture()
        secured.execute("INSERT INTO users VALUES (1)")
        deployment.until_caught_up()
        assert [record.key for record in deployment.events()] == ['{"id":1}']
        query = (
            "SELECT bool_and(client_dn LIKE %s) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = %s"
        )
        assert secured.execute(query, (f"%/CN={role}", role)) == [(True,)]


@pytest.mark.parametrize("fault", ["none", "of another role", "of another authority", "no file", "key open to others"])
def test_a_certificate_that_does_not_let_in_stops_the_reader(
    tmp_path: Path, secured: Database, name: str, certificates: Certificates, role: str, fault: str
) -> None:
    issuer = Certificates(tmp_path) if fault == "of another authority" else certificates
    own = "somebody" if fault == "of another role" else role
    pair = issuer.issue(tmp_path, own, own)
    if fault == "no file":
        pair[0].unlink()
    elif fault == "key open to others":
        pair[1].chmod(0o644)
    dsn = as_role(secured, role, certificates.ca_file, None if fault == "none" else pair)
    with pytest.raises(AccessDenied) as caught:
        connect(dsn, application_name="test")
    assert "sslcert=FILE sslkey=FILE" in caught.value.hint


def test_a_role_that_pg_hba_rejects_is_not_tried_again(
    secured: Database, certificates: Certificates, role: str
) -> None:
    ((file,),) = secured.execute("SHOW hba_file")
    Path(file).write_text(f"hostssl all {role} 127.0.0.1/32 reject\n" + Path(file).read_text())
    secured.execute("SELECT pg_reload_conf()")

    def rejected() -> bool:
        with pytest.raises(AccessDenied) as caught:
            connect(as_role(secured, role, certificates.ca_file, None), application_name="test")
        return "pg_hba.conf" in caught.value.hint  # until the line is read, a certificate is asked for

    until(rejected, 10, "the line to be read")


def test_a_server_without_tls_stops_a_reader_that_asks_for_it(
    tmp_path: Path, database: Database, kafka: KafkaServer, name: str
) -> None:
    dsn = database.dsn + " sslmode=require"
    with Deployment(tmp_path / "d", database, kafka, name, source_dsn=dsn) as deployment:
        process = deployment.start("capture")
        assert process.exit_code() == 70
        assert "ssl = on" in process.log.read_text()
