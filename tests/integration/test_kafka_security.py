"""Kafka with TLS, passwords and ACLs: both clients get in as they should, and end with the reason when they may not.

The broker is a local process on either backend: a container's would differ in where its files lie, and in nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdc import positions
from cdc.runtime import kafka as client
from cdc.runtime.errors import AccessDenied, BrokerUnavailable
from deploy.local.net import free_port, until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.mailer import TEMPLATES
from tests.support.secured import PASSWORD, SecuredKafka, secured
from tests.support.smtp import Relay
from tests.support.tls import Certificates

USERS = ("reader", "stranger", "plain", "scram")
WRONG_PASSWORD = "hunter2"
RULES = """
[templates]
path = "{templates}"
[smtp]
host = "127.0.0.1"
port = {port}
security = "none"
sender = "a@example.org"
[[rules]]
name = "welcome"
on = "created"
mail = "welcome"
"""


@pytest.fixture(scope="module")
def broker(certificates: Certificates) -> Iterator[SecuredKafka]:
    with secured(certificates, USERS) as started:
        yield started


@pytest.fixture
def deployment(
    tmp_path: Path, database: Database, broker: SecuredKafka, name: str, certificates: Certificates
) -> Iterator[Deployment]:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, email text)")
    with Deployment(tmp_path / "d", database, broker, name) as made:
        (made.folder / "password").write_text(PASSWORD)
        (made.folder / "wrong").write_text(WRONG_PASSWORD)
        yield made


def log_in(user: str, mechanism: str, password: str = "password") -> str:  # noqa: S107  the name of a file
    return f'sasl_mechanism = "{mechanism}"\nsasl_username = "{user}"\nsasl_password_file = "{password}"\n'


def use(
    deployment: Deployment, bootstrap: str, protocol: str, ca_file: Path, more: str, relay: Relay | None = None
) -> None:
    """Write settings for a listener, with topics that someone else creates."""
    deployment.bootstrap = bootstrap
    trust = f'security_protocol = "{protocol}"\nssl_ca_file = "{ca_file}"\n'
    rules = RULES.format(templates=TEMPLATES, port=relay.port if relay else 25)
    deployment.more = f"create_topics = false\n{trust}{more}{rules}"
    deployment.write()


def remedies(deployment: Deployment) -> list[str]:
    """Collect the commands for Kafka that preflight prints."""
    found = json.loads(deployment.run("preflight", "--json").stdout)
    faults = (finding for finding in found if finding["part"] == "kafka" and finding["severity"] == "fault")
    return [command for finding in faults for command in finding["remedy"].split("; ")]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", "certificate"])
def test_what_preflight_prints_is_all_that_reader_and_consumer_need(
    deployment: Deployment, broker: SecuredKafka, certificates: Certificates, relay: Relay, mechanism: str
) -> None:
    user, listener = mechanism.partition("-")[0].lower(), "SASL_SSL"
    how = log_in(user, mechanism)
    if mechanism == "certificate":  # the broker demands one, and reads the principal from it
        listener = "SSL"
        pair = certificates.issue(deployment.folder, user, user)
        how = f'ssl_certificate_file = "{pair[0].name}"\nssl_key_file = "{pair[1].name}"\n'
    use(deployment, broker.at(listener), listener, certificates.ca_file, how, relay)
    commands = remedies(deployment)
    assert {command.split()[0] for command in commands} == {"kafka-topics.sh", "kafka-acls.sh"}
    for command in commands:
        named = command.replace("User:PRINCIPAL", f"User:{user}")
        broker.apply(re.sub("(--operation (Read|Write) )+", "--operation Describe ", named))
    allowed = [command for command in commands if command.startswith("kafka-acls.sh")]
    until(lambda: remedies(deployment) == allowed, 20, "preflight to see the topics, and that to see is not to use")
    for command in allowed:
        broker.apply(command.replace("User:PRINCIPAL", f"User:{user}"))
    until(lambda: remedies(deployment) == [], 20, "preflight to be content with Kafka")
    reader = deployment.capture()
    assert remedies(deployment) == []
    deployment.start("consume", "mail")
    deployment.database.execute("INSERT INTO users VALUES (1, 'ada@example.org')")
    deployment.database.execute("SELECT pg_logical_emit_message(true, 'app', 'hello')")
    sent = "SELECT state, key FROM pgherald.delivery"
    ledger = "SELECT to_regclass('pgherald.delivery') IS NOT NULL"
    until(lambda: deployment.database.execute(ledger) == [(True,)], 20, "the ledger")
    until(lambda: deployment.database.execute(sent) == [("sent", '{"id":1}')], 20, "the mail to be sent")
    assert len(relay.mails_to("ada@example.org")) == 1
    messages = f"{deployment.name}.message"
    until(lambda: [record.op for record in deployment.stream_topic(messages)] == ["m"], 10, "the logical message")
    status = json.loads(deployment.run("status", "--json").stdout)
    assert not [part for part, answer in status.items() if "error" in answer]
    assert reader.count("streaming") == 1  # asked what it may, the principal was not fenced


@pytest.mark.parametrize(
    ("fault", "why", "hint"),
    [
        ("password", "Kafka refuses", "kafka.sasl_*"),
        ("authority", "Kafka's certificate is not accepted", "kafka.ssl_ca_file"),
        ("host name", "Kafka's certificate is not accepted", "kafka.bootstrap_servers"),
        ("own certificate", "Kafka refuses TLS", "kafka.ssl_certificate_file"),
        ("rights", "Kafka ", "ACLs"),
    ],
)
def test_whoever_may_not_enter_ends_with_the_reason_and_what_to_do(
    deployment: Deployment,
    broker: SecuredKafka,
    certificates: Certificates,
    tmp_path: Path,
    fault: str,
    why: str,
    hint: str,
) -> None:
    bootstrap, ca_file, protocol = broker.at("SASL_SSL"), certificates.ca_file, "SASL_SSL"
    more = log_in("reader", "PLAIN")
    if fault == "password":
        more = log_in("reader", "SCRAM-SHA-512", "wrong")
    elif fault == "authority":
        ca_file = Certificates(tmp_path).ca_file
    elif fault == "host name":
        bootstrap = bootstrap.replace("127.0.0.1", "localhost")
    elif fault == "own certificate":
        bootstrap, protocol, more = broker.at("SSL"), "SSL", ""
    else:
        more = log_in("stranger", "PLAIN")
    use(deployment, bootstrap, protocol, ca_file, more)
    reader, consumer = deployment.start("capture"), deployment.start("consume", "mail")
    preflight = deployment.run("preflight")
    assert preflight.returncode == 1
    assert (reader.exit_code(20), consumer.exit_code(20)) == (70, 70)
    for said in (reader.log.read_text(), consumer.log.read_text()):
        last = said.splitlines()[-1]
        assert last.startswith(f"pgherald: {why}")
        assert hint in last
        assert all(line.startswith(("{", "pgherald: ")) for line in said.splitlines())
        assert "trying_again" not in said
        assert WRONG_PASSWORD not in said
    assert why in preflight.stdout
    assert (hint if fault != "rights" else "kafka-acls.sh") in preflight.stdout


@pytest.mark.parametrize(("lacking", "says"), [("transactional-id", "TRANSACTIONAL_ID"), ("Write", "TOPIC")])
def test_one_right_that_is_missing_stops_the_reader_in_one_line(
    deployment: Deployment, broker: SecuredKafka, certificates: Certificates, lacking: str, says: str
) -> None:
    use(deployment, broker.at("SASL_SSL"), "SASL_SSL", certificates.ca_file, log_in("stranger", "PLAIN"))
    for command in remedies(deployment):
        if lacking == "Write" and "public.users" in command:
            command = command.replace("--operation Write ", "")
        if f"--{lacking} " not in command:
            broker.apply(command)
    deployment.database.execute("INSERT INTO users VALUES (1, 'ada@example.org')")
    process = deployment.start("capture")
    assert process.exit_code(20) == 70
    *before, last = process.log.read_text().splitlines()
    assert last.startswith(f"pgherald: Kafka refuses: {says}_AUTHORIZATION_FAILED")
    assert all(line.startswith("{") for line in before)
    assert "ada@" not in process.log.read_text()


@pytest.mark.parametrize("lacking", ["--operation Read", "any right"])
def test_a_consumer_that_may_not_read_one_of_its_topics_ends_with_the_reason(
    deployment: Deployment, broker: SecuredKafka, certificates: Certificates, lacking: str
) -> None:
    deployment.database.execute("CREATE TABLE orders (id int PRIMARY KEY, email text)")
    deployment.tables.append("orders")
    use(deployment, broker.at("SASL_SSL"), "SASL_SSL", certificates.ca_file, log_in("stranger", "PLAIN"))
    deployment.more += '[[rules]]\nname = "orders"\ntable = "orders"\non = "created"\nmail = "welcome"\n'
    deployment.write()
    for command in remedies(deployment):
        if "public.orders" in command and "kafka-acls" in command:
            if lacking == "any right":
                continue
            command = command.replace(lacking, "")
        broker.apply(command)
    process = deployment.start("consume", "mail")
    assert process.exit_code(20) == 70
    last = process.log.read_text().splitlines()[-1]
    assert last.startswith("pgherald: Kafka ")
    assert f"{deployment.name}.public.orders" in last
    assert "ACLs" in last


def test_a_topic_that_is_hidden_is_not_taken_for_one_that_is_empty(
    deployment: Deployment, broker: SecuredKafka, certificates: Certificates
) -> None:
    use(deployment, broker.at("SASL_SSL"), "SASL_SSL", certificates.ca_file, log_in("stranger", "PLAIN"))
    with pytest.raises(AccessDenied, match=re.escape(deployment.topic())):
        client.end_offsets(deployment.settings.kafka, [deployment.topic()])


def test_a_client_of_a_listener_without_login_is_let_in_every_time(
    deployment: Deployment, broker: SecuredKafka, certificates: Certificates
) -> None:
    pair = certificates.issue(deployment.folder, "again", "again")
    how = f'ssl_certificate_file = "{pair[0]}"\nssl_key_file = "{pair[1]}"\n'
    use(deployment, broker.at("SSL"), "SSL", certificates.ca_file, how)
    for _ in range(12):
        with closing(client.admin(deployment.settings.kafka)) as admin:
            assert admin.describe_cluster()["brokers"]


def test_a_broker_that_is_away_is_waited_for(
    deployment: Deployment, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(deployment, f"127.0.0.1:{free_port()}", "SASL_SSL", certificates.ca_file, log_in("reader", "PLAIN"))
    monkeypatch.setattr(positions, "_ANSWER_S", 1.0)
    with pytest.raises(BrokerUnavailable):
        positions.ensure_topics(deployment.settings)
    with pytest.raises(BrokerUnavailable):
        client.admin(deployment.settings.kafka)
