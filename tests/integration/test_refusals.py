"""Bad input gets a clear error with what to do, from preflight and from the command itself, and loses nothing."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.net import free_port, until
from tests.support import local
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.role import ROLE, grant
from tests.support.servers import KafkaServer


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str) -> Iterator[Deployment]:
    database.execute("CREATE TABLE users (id bigint PRIMARY KEY, email text)")
    with Deployment(tmp_path / "d", database, kafka, name) as made:
        yield made


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """Make a role that may log in and nothing else; give its DSN."""
    name, password = f"r{secrets.token_hex(3)}", secrets.token_hex(8)
    database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    server = database.server
    yield f"host={server.host} port={server.port} user={name} password={password} dbname={database.name}"
    database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def told(deployment: Deployment, code: int = 70) -> tuple[str, str]:
    """Collect what preflight says, and what capture says when it refuses to start."""
    preflight = deployment.run("preflight")
    assert preflight.returncode == 1, preflight.stdout
    process = deployment.start("capture")
    assert process.exit_code() == code
    return preflight.stdout, process.log.read_text()


def use(deployment: Deployment, dsn: str) -> None:
    deployment.source_dsn = dsn
    deployment.write()


def test_all_is_well_and_preflight_ends_with_0(deployment: Deployment) -> None:
    found = deployment.run("preflight")
    assert found.returncode == 0, found.stdout
    assert "FAULT" not in found.stdout


def test_a_wrong_password_is_told_and_never_shown(deployment: Deployment, role: str) -> None:
    use(deployment, role.replace("password=", "password=wrong"))
    for said in told(deployment):
        assert "password authentication failed" in said
        assert "wrong" not in said.replace("wrong password", "")


def test_a_role_without_replication_gets_the_statement(deployment: Deployment, role: str) -> None:
    use(deployment, role)
    preflight, capture = told(deployment)
    assert "REPLICATION;" in preflight
    assert "GRANT SELECT" in preflight
    assert "REPLICATION" in capture


def test_a_table_that_is_not_there_is_named(deployment: Deployment) -> None:
    deployment.tables = ['public."Users"']
    deployment.write()
    for said in told(deployment):
        assert '"public"."Users"' in said


def test_a_key_that_looks_secret_is_a_fault_of_the_settings(deployment: Deployment) -> None:
    deployment.database.execute("CREATE TABLE sessions (token text PRIMARY KEY)")
    deployment.tables = ["sessions"]
    deployment.write()
    for said in told(deployment, 78):
        assert 'allow = ["token"]' in said


def test_a_certificate_file_that_is_none_is_a_fault_of_the_settings(deployment: Deployment) -> None:
    (deployment.folder / "ca.pem").write_text("no certificate")
    deployment.more = 'security_protocol = "SSL"\nssl_ca_file = "ca.pem"\n'
    deployment.write()
    for said in told(deployment, 78):
        assert "kafka.ssl_ca_file" in said
        assert "PEM files" in said
        assert "error:" not in said


def test_a_table_without_key_is_a_warning_and_its_inserts_flow(deployment: Deployment) -> None:
    deployment.database.execute("CREATE TABLE nopk (a int)")
    deployment.tables = ["nopk"]
    deployment.write()
    found = deployment.run("preflight")
    assert found.returncode == 0
    assert "no primary key" in found.stdout
    deployment.capture()
    deployment.database.execute("INSERT INTO nopk VALUES (1)")
    deployment.until_caught_up()
    assert [(record.key, record.op) for record in deployment.records("public.nopk")] == [(None, "c")]


def test_a_rule_on_a_change_needs_the_old_row(deployment: Deployment) -> None:
    deployment.more = (
        '[smtp]\nhost = "127.0.0.1"\nsecurity = "none"\nsender = "a@example.org"\n'
        '[[rules]]\nname = "moved"\non = "changed:email"\nmail = "welcome"\n'
    )
    deployment.write()
    found = deployment.run("preflight")
    assert found.returncode == 1
    assert 'ALTER TABLE "public"."users" REPLICA IDENTITY FULL;' in found.stdout
    deployment.more = deployment.more.replace("changed:email", "changed:emial")
    deployment.write()
    assert "watches emial" in deployment.run("preflight").stdout


def test_a_rule_needs_the_columns_that_it_reads_a_user_from(deployment: Deployment) -> None:
    mail = '[smtp]\nhost = "127.0.0.1"\nsecurity = "none"\nsender = "a@example.org"\n'
    deployment.more = mail + '[user]\nemail = "mail"\n[[rules]]\nname = "welcome"\non = "created"\nmail = "welcome"\n'
    deployment.write()
    found = deployment.run("preflight")
    assert found.returncode == 1
    assert 'the rule welcome reads user.email, which "public"."users" has not or which stays home: mail' in found.stdout


def test_an_unreachable_kafka_is_waited_for_and_said(deployment: Deployment) -> None:
    deployment.bootstrap = f"127.0.0.1:{free_port()}"
    deployment.write()
    assert deployment.run("preflight").returncode == 1
    process = deployment.start("capture")
    until(lambda: process.said("trying_again"), 30, "capture to say that it waits")
    said = process.log.read_text()
    assert "kafka.bootstrap_servers" in said
    assert said.index("kafka_unreachable") < said.index("trying_again"), "it waits in silence"
    assert process.stop() == 0


def test_an_unreachable_postgres_is_waited_for_and_said(deployment: Deployment) -> None:
    use(deployment, deployment.database.dsn.replace(f"port={deployment.database.server.port}", f"port={free_port()}"))
    process = deployment.start("capture")
    until(lambda: process.said("trying_again"), 30, "capture to say that it waits")
    assert process.stop() == 0


def test_settings_that_do_not_fit_end_with_78_and_all_faults(deployment: Deployment) -> None:
    deployment.path.write_text('[source]\nnaem = "x"\n[kafka]\npartitions = 0\n')
    for command in ("capture", "preflight", "status"):
        ended = deployment.run(command)
        assert ended.returncode == 78
        for key in ("source.name", "source.naem", "source.dsn", "kafka.partitions", "kafka.bootstrap_servers"):
            assert key in ended.stderr


@pytest.mark.parametrize("lets_pass", ["", "options"])
def test_a_pooler_before_postgres_is_told(deployment: Deployment, lets_pass: str) -> None:
    with local.pooler(deployment.database.dsn, {"ignore_startup_parameters": lets_pass}) as pooler:
        use(deployment, pooler.dsn)
        preflight, capture = told(deployment)
    assert ("leads to a connection pooler" if lets_pass else "unsupported startup parameter: options") in preflight
    assert "unsupported startup parameter" in capture
    for said in (preflight, capture):
        assert "Name PostgreSQL itself in the dsn" in said


def test_row_security_that_would_thin_out_the_snapshot_is_refused(deployment: Deployment) -> None:
    deployment.database.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY; INSERT INTO users VALUES (1)")
    preflight, capture = told(deployment)
    assert "BYPASSRLS" in preflight
    assert "row-level security" in capture


def test_a_standby_in_the_dsn_is_told_by_preflight(deployment: Deployment) -> None:
    with local.postgres() as primary, local.standby(primary) as standby:
        use(deployment, standby.dsn())
        found = deployment.run("preflight")
    assert found.returncode == 1
    assert "target_session_attrs=read-write" in found.stdout


def test_a_role_with_a_short_statement_timeout_still_snapshots(deployment: Deployment) -> None:
    deployment.database.execute("INSERT INTO users SELECT n FROM generate_series(1, 100000) n")
    grant(deployment.database, ["users"])
    timeout = f"ALTER ROLE {ROLE} IN DATABASE {deployment.name} SET statement_timeout = '20ms'"
    deployment.database.execute(timeout)
    deployment.capture()
    assert deployment.visible() >= 100_000


def test_a_role_that_only_reads_by_default_still_asks_for_rows(deployment: Deployment) -> None:
    deployment.database.execute("INSERT INTO users VALUES (1)")
    deployment.database.execute(
        f"ALTER ROLE {ROLE} IN DATABASE {deployment.name} SET default_transaction_read_only = on"
    )
    reader = deployment.capture()
    asked = deployment.run("snapshot", "users")
    assert (asked.returncode, asked.stderr) == (0, "")
    until(lambda: reader.count("snapshot_table_done") == 1, 20, "the rows to come again")
    assert [record.op for record in deployment.events()] == ["r", "r"]


def test_a_role_whose_sessions_may_not_last_keeps_its_reader(deployment: Deployment) -> None:
    database = deployment.database
    limits = database.execute(
        "SELECT name FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')"
    )
    for (limit,) in limits:
        database.execute(f"ALTER ROLE {ROLE} IN DATABASE {deployment.name} SET {limit} = '500ms'")
    reader = deployment.capture()
    idle = (
        "SELECT FROM pg_stat_activity WHERE usename = %s AND datname = %s AND clock_timestamp() - state_change > '1s'"
    )
    until(
        lambda: database.execute(f"SELECT EXISTS ({idle})", (ROLE, deployment.name)) == [(True,)], 20, "an idle session"
    )
    database.execute("ALTER TABLE users ADD n int")
    database.execute("INSERT INTO users VALUES (1)")
    deployment.until_caught_up()
    assert reader.count("streaming") == 1


def test_a_wal_level_that_is_not_logical_gets_the_statement(deployment: Deployment) -> None:
    with local.postgres({"wal_level": "replica", "max_wal_senders": "2"}) as server:
        Database("postgres", server).execute("CREATE TABLE users (id bigint PRIMARY KEY)")
        use(deployment, server.dsn())
        for said in told(deployment):
            assert "ALTER SYSTEM SET wal_level = logical" in said


def test_a_server_that_refuses_the_plugin_gets_the_statement(deployment: Deployment) -> None:
    known = deployment.database.execute("SELECT 1 FROM pg_settings WHERE name = 'output_plugin_libraries'")
    if not known:
        pytest.skip("this PostgreSQL takes any output plugin")
    database = deployment.database
    database.execute("ALTER SYSTEM SET output_plugin_libraries = pgoutput")
    try:
        database.execute("SELECT pg_reload_conf()")
        until(lambda: _plugins(database) == "pgoutput", 10, "the setting to be read")
        for said in told(deployment):
            assert "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json" in said
        use(deployment, database.dsn)  # a superuser's: others may not
        assert deployment.run("preflight", "--fix").returncode == 0
        deployment.capture()
    finally:
        database.execute("ALTER SYSTEM RESET output_plugin_libraries")
        database.execute("SELECT pg_reload_conf()")


def _plugins(database: Database) -> str:
    return str(database.execute("SHOW output_plugin_libraries")[0][0])


def test_a_right_that_every_role_has_and_a_new_slot_needs_is_asked_for_where_it_was_taken(
    deployment: Deployment,
) -> None:
    deployment.database.execute("REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM PUBLIC")
    for said in told(deployment):
        assert "refuses lo_create" in said
        assert "GRANT EXECUTE ON FUNCTION lo_create(oid), lo_unlink(oid) TO" in said
    deployment.database.execute(f"GRANT EXECUTE ON FUNCTION lo_create(oid) TO {ROLE}")
    deployment.capture()


def test_numbers_that_would_be_lost_and_columns_that_are_not_there_are_warned_of(deployment: Deployment) -> None:
    deployment.database.execute(
        "CREATE DOMAIN price AS numeric; ALTER TABLE users ADD score real, ADD balance numeric(12,2), ADD age numeric, "
        'ADD prices numeric[], ADD price price, ADD "Höhe" numeric, ADD secret_score real, ADD n int'
    )
    deployment.database.execute("ALTER TABLE users ADD CHECK (age BETWEEN 0 AND 200), ADD CHECK (balance <> 'NaN')")
    text = deployment.path.read_text()
    deployment.path.write_text(text.replace("name = 'users'\n", "name = 'users'\nexclude = ['scroe']\n"))
    found = deployment.run("preflight")
    assert found.returncode == 0
    assert "NaN and infinite numbers in score, Höhe would arrive as null" in found.stdout
    assert "has no column scroe" in found.stdout
    (remedy,) = re.findall(r"ALTER TABLE .* ADD CHECK .*;", found.stdout)
    deployment.database.execute(remedy)
    assert "would arrive as null" not in deployment.run("preflight").stdout
