"""Rules with a target of the user's own, run as `pgherald consume NAME` runs them, on a real Kafka and PostgreSQL."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from prometheus_client import REGISTRY

from cdc.contract.envelope import Envelope, Source
from cdc.runtime import kafka as runtime_kafka
from cdc.runtime.errors import CallRejected, DependencyDown
from cdc.runtime.lifecycle import Stop
from cdc.runtime.settings import Settings
from consumers import inspect
from consumers.breaker import ALIKE_MAX
from consumers.delivery import Delivery, Planned
from consumers.lanes import TARGET_CONNECTIONS
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.operator import Operator
from consumers.process import consume
from consumers.topic import TopicEffect
from deploy.local.net import free_port, until
from deploy.local.topics import committed
from tests.support import functions
from tests.support.database import Database
from tests.support.ledgers import entry
from tests.support.servers import KafkaServer
from tests.support.topic import Topic

NOW = datetime(2026, 11, 25, tzinfo=UTC)
Given = Callable[..., Settings]


@pytest.fixture
def given(database: Database, kafka: KafkaServer, name: str) -> Given:
    """Make settings of one rule; the ledger and the topics are there."""
    migrate(database.dsn)

    def one(target: str, **rule: Any) -> Settings:
        rule = {"name": "tell", "on": "created", "target": target, "consumer": "crm", "backoff_first": "10ms"} | rule
        settings = Settings.model_validate(
            {
                "source": {"name": name, "dsn": database.dsn, "tables": [{"name": "users"}]},
                "kafka": {"bootstrap_servers": kafka.bootstrap, "partitions": 3},
                "rules": [rule],
            }
        )
        runtime_kafka.ensure_topics(settings)
        return settings

    return one


@contextmanager
def consuming(settings: Settings) -> Iterator[None]:
    """Run the consumer as its process does; a failure of it fails the test."""
    stop, failures = Stop(), list[BaseException]()

    def run() -> None:
        try:
            consume(settings, "crm", stop)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.request()
        thread.join(30)
        assert not failures
        assert not thread.is_alive()


def ended(database: Database) -> dict[str, tuple[str, int, str | None]]:
    rows = database.execute(
        "SELECT key, state, attempt, error->>'reason' FROM pgherald.delivery WHERE finished_at IS NOT NULL"
    )
    return {key and json.loads(key)["id"]: (state, attempt, reason) for key, state, attempt, reason in rows}


def test_a_function_is_told_who_what_and_under_which_identity(given: Given, database: Database) -> None:
    settings = given("tests.support.functions:remember", attempts=3)
    functions.calls.clear()
    Topic(settings).register("ada", "clumsy", "refused", "unwanted", "quits")
    with consuming(settings):
        until(lambda: len(ended(database)) == 5, 60, "all deliveries to end")
    assert ended(database) == {
        "ada": ("sent", 1, None),
        "clumsy": ("sent", 3, None),
        "refused": ("dead", 1, "not one of ours"),
        "unwanted": ("skipped", 1, "unwanted"),
        "quits": ("dead", 3, "given up after 3 attempts: unexpected error, see the log"),
    }
    of_key = {json.loads(call.key or "")["id"]: call for call in functions.calls}
    ada = of_key["ada"]
    assert (ada.rule, ada.attempt, ada.event.kind) == ("tell", 1, "created")
    assert ada.after == {"id": "ada", "email": "ada@example.org"}
    assert ada.user.email == "ada@example.org"
    identities = {call.identity for call in functions.calls if call.key == of_key["clumsy"].key}
    assert len(functions.calls) == 1 + 3 + 1 + 1 + 3
    known = database.execute("SELECT result->>'identity' FROM pgherald.delivery WHERE state = 'sent' ORDER BY id")
    assert known == [(ada.identity,), *((identity,) for identity in identities)]
    assert database.execute("SELECT DISTINCT lane FROM pgherald.delivery") == [("function:tell",)]


def test_commands_come_in_the_order_of_their_key_with_their_identity(
    given: Given, database: Database, name: str
) -> None:
    settings = given(f"topic:{name}.commands")
    topic = Topic(settings)
    for number in range(10):
        topic.register("ada", "bob", "eve", after={"n": number})
    sent = "SELECT id FROM pgherald.delivery WHERE state = 'sent'"
    with consuming(settings):
        until(lambda: len(database.execute(sent)) == 30, 60, "the acks")
    records = list(committed(settings.kafka.bootstrap_servers, f"{name}.commands"))
    by_key = defaultdict(list)
    for record in records:
        by_key[record.key].append(json.loads(record.value or b""))
    assert set(by_key) == {b'{"id": "ada"}', b'{"id": "bob"}', b'{"id": "eve"}'}
    assert all([each["data"]["after"]["n"] for each in commands] == [*range(10)] for commands in by_key.values())
    first = by_key[b'{"id": "ada"}'][0]
    assert datetime.fromisoformat(first.pop("timestamp")).tzinfo
    assert first == {
        "type": "tell",
        "data": {
            "key": '{"id": "ada"}',
            "kind": "created",
            "before": None,
            "after": {"id": "ada", "email": "ada@example.org", "n": 0},
        },
    }
    known = database.execute("SELECT result->>'identity', event_id FROM pgherald.delivery")
    headers = [{key: value.decode() for key, value in record.headers} for record in records]
    assert {(each["pgherald-delivery-id"], each["pgherald-event-id"]) for each in headers} == set(known)


def test_a_record_that_did_not_decode_is_read_again_when_it_is_replayed(
    given: Given, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = given("tests.support.functions:remember", max_age="1s")
    functions.calls.clear()
    topic = Topic(settings)
    good = topic.event("ada")
    later = [(key, b"2" if key == "pgherald-schema" else value) for key, value in good["headers"]]
    topic.publish(good | {"headers": later}, {"key": b"\xff", "value": b"\x00"})
    replay = "UPDATE pgherald.delivery SET state = 'pending', head = true, attempt = 0, finished_at = NULL, replays = 1"
    outcomes = "SELECT rule, state, attempt, error->>'class' FROM pgherald.delivery ORDER BY rule, state DESC"
    with consuming(settings):
        until(lambda: len(ended(database)) == 2, 30, "both dead letters")
        database.execute(f"{replay} WHERE state = 'dead'")
        dead = ("(undecodable)", "dead", 1, "EnvelopeInvalid")
        until(lambda: database.execute(outcomes) == [dead, dead], 30, "both to be dead again")
        monkeypatch.setattr("cdc.contract.envelope.SCHEMA_VERSION", b"2")  # as an upgrade does
        database.execute(f"{replay} WHERE state = 'dead'")
        sent = [("(undecodable)", "sent", 1, None), dead, ("tell", "sent", 1, None)]
        until(lambda: database.execute(outcomes) == sent, 30, "the one that can be read now")
    assert [call.after for call in functions.calls] == [{"id": "ada", "email": "ada@example.org"}]


def test_a_when_that_breaks_for_everyone_stops_the_lane_and_the_mended_one_decides_for_all(
    given: Given, database: Database
) -> None:
    target, users = "tests.support.functions:remember", [f"user{number:02}" for number in range(60)]
    broken = given(target, when="after.nosuch")
    Topic(broken).register(*users)
    stopped = "SELECT reason FROM pgherald.lane WHERE lane = 'function:tell' AND paused_until = 'infinity'"
    count = "SELECT state, count(*) FROM pgherald.delivery GROUP BY 1 ORDER BY 1"
    with consuming(broken):
        ((reason,),) = until(lambda: database.execute(stopped), 30, "the lane to stop")
    assert "TemplateInvalid" in str(reason)
    (_, dead), (_, pending) = database.execute(count)
    assert ALIKE_MAX <= dead <= ALIKE_MAX + TARGET_CONNECTIONS
    assert pending == 60 - dead
    functions.calls.clear()
    with closing(Operator(database.dsn, "ada@host")) as operator:
        operator.resume("crm", "function:tell")
    database.execute("UPDATE pgherald.delivery SET state = 'pending', head = true, finished_at = NULL, attempt = 0")
    with consuming(given(target, when='user.key != \'{"id": "user07"}\'')):
        until(lambda: len(ended(database)) == 60, 30, "all to end")
    assert database.execute(count) == [("sent", 59), ("skipped", 1)]
    assert len(functions.calls) == 59


def test_rows_of_a_rule_that_is_gone_stay_and_are_said(given: Given, database: Database) -> None:
    settings = given("tests.support.functions:remember")
    with closing(Ledger(database.dsn, "crm")) as ledger:
        ledger.store([entry(1, planned=[Planned("renamed", "x:y", "function:renamed")])])
    with consuming(settings):
        orphans = partial(REGISTRY.get_sample_value, "pgherald_orphaned", {"rule": "renamed"})
        assert until(orphans, 30, "the gauge") == 1
    found = list(inspect.ledger(settings))
    assert [finding.remedy for finding in found if "renamed" in finding.what] == [
        "put the rule back, or pgherald deliveries cancel --rule 'renamed'"
    ]
    assert ended(database) == {}


def delivery(after: dict[str, Any]) -> Delivery:
    change = Envelope("c", Source("t", 1, "public", "users"), None, after)
    return Delivery(1, "crm", "t:1:1:1", "tell", "topic:x", "topic:tell", '{"id":1}', 1, 0, NOW, NOW, change)


def test_a_command_that_is_too_large_is_its_own_fault(given: Given, name: str) -> None:
    effect = TopicEffect(given(f"topic:{name}.large"))
    with pytest.raises(CallRejected, match="larger than"):
        effect(delivery({"bio": "x" * 2_000_000}), lambda: None)
    assert effect(delivery({"bio": "x"}), lambda: None)["offset"] == 0
    effect.close()


def test_a_broker_that_is_away_is_down_for_everyone(given: Given, name: str) -> None:
    settings = given(f"topic:{name}.commands")
    away = settings.kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{free_port()}"})
    effect = TopicEffect(settings.model_copy(update={"kafka": away}))
    with pytest.raises(DependencyDown, match="can't be written: Kafka does not answer"):
        effect(delivery({}), lambda: None)
    effect.close()
