"""Loop 2 on a real PostgreSQL, with effects that do what a test tells them."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import pytest

from cdc.runtime.errors import (
    AccessDenied,
    ConnectionLost,
    Deferred,
    DependencyDown,
    MailRejected,
    ServiceError,
    TemplateInvalid,
)
from cdc.runtime.lifecycle import Stop
from cdc.runtime.settings import Settings
from consumers.breaker import ALIKE_MAX
from consumers.deliver import Deliver
from consumers.delivery import Delivery, Mark, Planned
from consumers.lanes import Lane, Lanes
from consumers.ledger import Ledger
from consumers.marks import Marks
from consumers.migrations import migrate
from consumers.operator import Operator
from consumers.outcome import Busy, SkipDelivery
from consumers.process import Crew
from consumers.rules import Rules
from deploy.local.net import until
from tests.support.database import Database
from tests.support.ledgers import LANE, RULES, assert_one_head_per_queue, entry, states
from tests.support.servers import PostgresServer

Answer = TypeVar("Answer", list[Delivery], set[int])
Step = Callable[[Delivery, Callable[[], None]], None]


@dataclass
class Effect:
    """Remembers what was sent, in order; `step` may do otherwise first."""

    step: Step = lambda _delivery, _sending: None
    sent: list[Delivery] = field(default_factory=list)
    running: int = 0

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        self.running += 1
        try:
            self.step(delivery, sending)
            sending()
            self.sent.append(delivery)
            return {"message_id": f"<{delivery.id}@test>"}
        finally:
            self.running -= 1


def settings(**rule: object) -> Settings:
    return Settings.model_validate(
        {
            "source": {"name": "t", "dsn": "", "tables": [{"name": "users"}]},
            "kafka": {"bootstrap_servers": "127.0.0.1:1"},
            "smtp": {"host": "127.0.0.1", "sender": "a@example.org"},
            "rules": [
                {"name": "welcome", "on": "created", "mail": "welcome", "backoff_first": "10ms", "backoff_max": "20ms"}
                | rule
            ],
        }
    )


class Worker:
    """What a consumer process runs beside its ingest."""

    def __init__(
        self,
        dsn: str,
        name: str,
        effect: Effect,
        given: Settings,
        workers: int,
        lease_s: float,
        opened: type[Ledger] = Ledger,
    ) -> None:
        self.stop = Stop()
        self.crew, self.writer = Crew(self.stop), Crew(self.stop)
        self.marks = Marks(partial(opened, dsn, "mail", name))
        self.deliver = Deliver(
            ledger=opened(dsn, "mail", name),
            marks=self.marks,
            effect=effect,
            rules=Rules(given, "mail"),
            lanes=Lanes([Lane(LANE, 2 * workers)], workers, workers, time.monotonic()),
            lease_s=lease_s,
            stop=self.stop,
        )
        self.writer.start("marks", self.marks.run)
        for number in range(workers):
            self.crew.start(f"worker-{number}", self.deliver.work)
        self.crew.start("claim", self.deliver.run)

    def end(self) -> None:
        self.stop.request()
        self.deliver.wake.set()
        self.crew.join(30)
        self.marks.end()
        self.writer.join(10)


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    migrate(database.dsn)
    with closing(Ledger(database.dsn, "mail", "test")) as opened:
        yield opened


Start = Callable[..., Worker]


@pytest.fixture
def start(database: Database, ledger: Ledger) -> Iterator[Start]:
    """Start workers that end with the test; one that failed fails it."""
    with ExitStack() as stack:

        def one(
            effect: Effect,
            name: str = "one",
            *,
            workers: int = 3,
            lease_s: float = 60.0,
            fails: bool = False,
            opened: type[Ledger] = Ledger,
            **rule: object,
        ) -> Worker:
            worker = Worker(database.dsn, name, effect, settings(**rule), workers, lease_s, opened)
            return stack.enter_context(running(worker, fails))

        yield one


@contextmanager
def running(worker: Worker, fails: bool) -> Iterator[Worker]:
    try:
        yield worker
    finally:
        worker.end()
        assert fails or not (worker.crew.failure or worker.writer.failure)


def until_ended(ledger: Ledger, timeout_s: float = 30) -> None:
    until(lambda: ledger.unfinished() == 0, timeout_s, "all deliveries to end", every_s=0.01)


def errors(database: Database) -> list[tuple[object, ...]]:
    return database.execute("SELECT state, attempt, error->>'class', error->>'reason' FROM pgherald.delivery")


def test_every_delivery_is_sent_once_in_the_order_of_its_key(ledger: Ledger, start: Start, database: Database) -> None:
    effect = Effect()
    for name in ("one", "two"):
        start(effect, name)
    for lsn in range(200):
        ledger.store([entry(lsn, f"k{lsn % 7}")])
    until_ended(ledger)
    assert max(Counter(delivery.id for delivery in effect.sent).values()) == 1
    assert len(effect.sent) == 200
    by_key = defaultdict(list)
    for delivery in effect.sent:
        by_key[delivery.key].append(delivery.event_id)
    assert all(ids == sorted(ids) for ids in by_key.values())
    result = database.execute(
        "SELECT DISTINCT state, result->>'message_id' = '<' || id || '@test>' FROM pgherald.delivery"
    )
    assert result == [("sent", True)]


def test_the_first_delivery_is_not_waited_for(ledger: Ledger, start: Start) -> None:
    effect = Effect()
    worker = start(effect)
    until(lambda: worker.deliver.turned_at, 5, "the loop to turn")
    began = time.monotonic()
    ledger.store([entry(1)])
    worker.deliver.wake.set()
    until(lambda: effect.sent, 5, "the delivery", every_s=0.001)
    assert time.monotonic() - began < 0.5


def test_a_deferred_delivery_is_tried_again_and_holds_back_its_key_only(ledger: Ledger, start: Start) -> None:
    tries: Counter[str] = Counter()

    def later(delivery: Delivery, _: object) -> None:
        tries[delivery.event_id] += 1
        if delivery.key == "slow" and delivery.attempt < 4:
            raise Deferred("451 4.7.1 later")

    effect = Effect(later)
    ledger.store([entry(1, "slow"), entry(2, "slow"), entry(3, "other")])
    start(effect)
    until_ended(ledger)
    assert [delivery.event_id[-4:-2] for delivery in effect.sent if delivery.key == "slow"] == ["01", "02"]
    assert sorted(tries.values()) == [1, 4, 4]
    assert effect.sent[0].key == "other"


def test_a_rejected_delivery_is_a_dead_letter_and_the_next_flows(
    ledger: Ledger, start: Start, database: Database
) -> None:
    def reject(delivery: Delivery, _: object) -> None:
        if delivery.event_id.endswith("1:1"):
            raise MailRejected("550 5.1.1 no such user", code=550)

    ledger.store([entry(1), entry(2)])
    start(Effect(reject))
    until_ended(ledger)
    assert sorted(errors(database), key=str) == [
        ("dead", 1, "MailRejected", "550 5.1.1 no such user"),
        ("sent", 1, None, None),
    ]


def test_what_needs_no_doing_any_more_is_skipped_with_its_reason_and_the_next_flows(
    ledger: Ledger, start: Start, database: Database
) -> None:
    def skip_first(delivery: Delivery, _: object) -> None:
        if delivery.event_id.endswith("1:1"):
            raise SkipDelivery("gone")

    effect = Effect(skip_first)
    ledger.store([entry(1), entry(2)])
    start(effect)
    until_ended(ledger)
    assert sorted(errors(database), key=str) == [("sent", 1, None, None), ("skipped", 1, "Skipped", "gone")]
    assert_one_head_per_queue(database)


def test_an_unexpected_error_counts_and_its_text_stays_out(ledger: Ledger, start: Start, database: Database) -> None:
    def broken(_delivery: Delivery, _: object) -> None:
        raise KeyError("ada@example.org")

    ledger.store([entry(1)])
    start(Effect(broken), attempts=2)
    until_ended(ledger)
    reason = "given up after 2 attempts: unexpected error, see the log"
    assert errors(database) == [("dead", 2, "KeyError", reason)]


def test_an_error_after_the_dot_is_unknown(ledger: Ledger, start: Start, database: Database) -> None:
    def cut(_delivery: Delivery, sending: Callable[[], None]) -> None:
        sending()
        raise ConnectionLost("the relay hung up")

    ledger.store([entry(1), entry(2)])
    start(Effect(cut))
    until_ended(ledger)
    assert states(database) == {1: "unknown", 2: "unknown"}


def test_a_relay_that_answers_no_dot_leaves_few_in_doubt(ledger: Ledger, start: Start, database: Database) -> None:
    def cut(_delivery: Delivery, sending: Callable[[], None]) -> None:
        sending()
        raise ConnectionLost("the relay hung up")

    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(200)])
    start(Effect(cut))
    failing = "SELECT coalesce(max(failures), 0) FROM pgherald.lane"
    until(lambda: database.execute(failing)[0][0] >= 3, 20, "the lane to rest for longer and longer")
    assert len([state for state in states(database).values() if state == "unknown"]) < 20


def test_an_error_after_the_dot_is_tried_again_where_the_rule_says_so(
    ledger: Ledger, start: Start, database: Database
) -> None:
    def cut_once(delivery: Delivery, sending: Callable[[], None]) -> None:
        if delivery.attempt == 1:
            sending()
            raise ConnectionLost("the relay hung up")

    effect = Effect(cut_once)
    ledger.store([entry(1)])
    start(effect, in_doubt="resend")
    until_ended(ledger)
    assert [delivery.attempt for delivery in effect.sent] == [2]
    # It may be there twice, and says so.
    assert database.execute("SELECT error, result->>'in_doubt' FROM pgherald.delivery") == [(None, "true")]


@pytest.mark.parametrize("end", [MailRejected("550 no"), SkipDelivery("suppressed")])
def test_what_may_have_arrived_says_so_at_its_end_whatever_came_in_between(
    ledger: Ledger, start: Start, database: Database, end: ServiceError
) -> None:
    def cut_once(delivery: Delivery, sending: Callable[[], None]) -> None:
        if delivery.attempt == 1:
            sending()
            raise ConnectionLost("the relay hung up")
        raise Deferred("451 later") if delivery.attempt == 2 else end

    ledger.store([entry(1)])
    start(Effect(cut_once), in_doubt="resend")
    until_ended(ledger)
    ((_, attempt, _, reason),) = errors(database)
    assert (attempt, reason) == (3, f"{end.message}, and an earlier attempt may have arrived")


def test_a_dependency_that_is_down_pauses_the_lane_and_spends_no_attempt(
    ledger: Ledger, start: Start, database: Database
) -> None:
    up = threading.Event()
    probes: list[float] = []

    def down(_delivery: Delivery, _: object) -> None:
        if not up.is_set():
            probes.append(time.monotonic())
            raise DependencyDown("connection refused", retry_after_s=0.1)

    effect = Effect(down)
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(20)])
    start(effect)
    until(lambda: len(probes) > 8, 30, "some probes")
    assert database.execute("SELECT max(failures) > 1 FROM pgherald.lane") == [(True,)]
    up.set()
    until_ended(ledger)
    assert len(effect.sent) == 20
    assert {delivery.attempt for delivery in effect.sent} == {1}
    assert database.execute("SELECT failures, paused_until FROM pgherald.lane") == [(0, None)]


def test_a_bad_release_stops_the_lane_and_after_its_mending_the_rest_is_sent(
    ledger: Ledger, start: Start, database: Database
) -> None:
    mended = threading.Event()

    def broken(_delivery: Delivery, _: object) -> None:
        if not mended.is_set():
            raise TemplateInvalid("welcome/body.txt.j2, line 3: UndefinedError")

    effect = Effect(broken)
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(200)])
    for name in ("one", "two"):
        start(effect, name, workers=2)
    until(lambda: ledger.paused_lanes() and not effect.running, 20, "the lane to stop")
    until(lambda: not database.execute("SELECT 1 FROM pgherald.delivery WHERE leased_by IS NOT NULL"), 10, "the rest")
    dead = Counter(states(database).values())["dead"]
    # What two processes of two workers had taken before: four each.
    assert ALIKE_MAX <= dead <= ALIKE_MAX + 2 * 4
    mended.set()
    with closing(Operator(database.dsn, "ada")) as operator:
        assert operator.resume("mail", LANE)
    until_ended(ledger)
    assert Counter(states(database).values()) == {"dead": dead, "sent": 200 - dead}
    assert database.execute("SELECT alike, alike_keys, paused_until, reason FROM pgherald.lane") == [
        (None, [], None, None)
    ]


def test_what_a_killed_worker_had_is_taken_over(ledger: Ledger, start: Start, database: Database) -> None:
    ledger.store([entry(1, "a"), entry(2, "b"), entry(3, "b")])
    with closing(Ledger(database.dsn, "mail", "killed")) as killed:
        (_, second) = killed.claim({LANE: 5}, RULES, 5, 30)
        assert killed.sending([second.id])
    database.execute("UPDATE pgherald.delivery SET leased_until = now() WHERE leased_by = 'killed'")
    effect = Effect()
    start(effect, lease_s=6.0)
    until_ended(ledger)
    assert states(database) == {1: "sent", 2: "unknown", 3: "sent"}
    assert [delivery.attempt for delivery in effect.sent if delivery.key == "a"] == [2]


class Deaf(Ledger):
    """A ledger whose first answers are lost, after their commits."""

    lost = 0

    def claim(self, room: Mapping[str, int], rules: Sequence[str], most: int, lease_s: float) -> list[Delivery]:
        return self._lose(super().claim(room, rules, most, lease_s), 2)

    def mark(self, marks: Sequence[Mark]) -> set[int]:
        return self._lose(super().mark(marks), 1)

    def _lose(self, answer: Answer, times: int) -> Answer:
        if answer and self.lost < times:
            self.lost += 1
            self.close()
            raise ConnectionLost("it went away")
        return answer


def test_answers_that_are_lost_cost_no_time_and_no_attempt_and_are_not_taken_for_anothers(
    ledger: Ledger, start: Start, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.store([entry(lsn, f"k{lsn % 3}") for lsn in range(9)])
    # It is the probe of a lane that failed: the next claim probes again.
    paused = "INSERT INTO pgherald.lane (consumer, lane, failures, paused_until) VALUES ('mail', %s, 1, now())"
    database.execute(paused, (LANE,))
    effect = Effect()
    start(effect, opened=Deaf)
    until_ended(ledger)
    assert len(effect.sent) == 9
    assert database.execute("SELECT DISTINCT state, attempt FROM pgherald.delivery") == [("sent", 1)]
    assert "delivery_taken_over" not in caplog.messages


def test_a_long_effect_keeps_its_lease(ledger: Ledger, start: Start, database: Database) -> None:
    released = threading.Event()
    begun: list[int] = []

    def long(delivery: Delivery, _: object) -> None:
        begun.append(delivery.id)
        released.wait(30)

    ledger.store([entry(1)])
    effect = Effect(long)
    start(effect, "one", lease_s=8.0)
    until(lambda: begun, 10, "the effect to begin")
    database.execute("UPDATE pgherald.delivery SET leased_until = now() + interval '4 s'")
    renewed = "SELECT leased_until > now() + interval '5 s' FROM pgherald.delivery"
    until(lambda: database.execute(renewed) == [(True,)], 10, "the lease to be renewed")
    released.set()
    until_ended(ledger)
    assert len(begun) == 1


def test_a_worker_that_wakes_up_late_sends_nothing(ledger: Ledger, start: Start, database: Database) -> None:
    woken, begun = threading.Event(), threading.Event()

    def paused(_delivery: Delivery, _: object) -> None:
        begun.set()
        woken.wait(30)

    ledger.store([entry(1)])
    effect = Effect(paused)
    start(effect)
    assert begun.wait(10)
    database.execute("UPDATE pgherald.delivery SET leased_by = 'another'")
    woken.set()
    until(lambda: not effect.running, 10, "the refusal")
    assert effect.sent == []
    assert database.execute("SELECT state, leased_by FROM pgherald.delivery") == [("claimed", "another")]


def test_a_permission_to_send_grows_old_and_is_then_given_back(
    ledger: Ledger, start: Start, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.deliver.DOT_S", 0.2)
    begun: list[str] = []

    def hold_up(delivery: Delivery, sending: Callable[[], None]) -> None:
        sending()
        begun.append(delivery.event_id[-3:])
        if len(begun) == 1:
            time.sleep(0.3)  # as a process does that is stopped and woken

    ledger.store([entry(1), entry(2)])
    effect = Effect(hold_up)
    start(effect, workers=1)
    until_ended(ledger)
    assert begun == ["1:1", "1:1", "2:1"]
    assert len(effect.sent) == 2
    assert errors(database) == [("sent", 1, None, None)] * 2


def test_a_stop_lets_what_runs_end_and_gives_the_rest_back(ledger: Ledger, start: Start, database: Database) -> None:
    released, begun = threading.Event(), threading.Semaphore(0)

    def slow(_delivery: Delivery, _: object) -> None:
        begun.release()
        released.wait(30)

    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(10)])
    effect = Effect(slow)
    worker = start(effect, workers=2)
    assert begun.acquire(timeout=10)
    assert begun.acquire(timeout=10)
    worker.stop.request()
    claimed = "SELECT count(*) FROM pgherald.delivery WHERE state = 'claimed'"
    until(lambda: database.execute(claimed) == [(2,)], 10, "the others to be given back")
    released.set()
    worker.end()
    assert Counter(row[:2] for row in errors(database)) == {("sent", 1): 2, ("pending", 0): 8}
    assert_one_head_per_queue(database)


def test_a_fatal_error_ends_the_process_and_gives_the_delivery_back(
    ledger: Ledger, start: Start, database: Database
) -> None:
    def refused(_delivery: Delivery, _: object) -> None:
        raise AccessDenied("no right")

    ledger.store([entry(1)])
    worker = start(Effect(refused), fails=True)
    until(lambda: worker.stop.requested, 10, "the stop")
    worker.end()
    assert isinstance(worker.crew.failure, AccessDenied)
    assert errors(database) == [("pending", 0, None, None)]


def test_a_restart_of_the_database_loses_and_doubles_nothing(
    ledger: Ledger, start: Start, database: Database, postgres: PostgresServer
) -> None:
    effect = Effect()
    ledger.store([entry(lsn, f"k{lsn % 50}") for lsn in range(300)])
    start(effect, workers=4)
    until(lambda: len(effect.sent) > 50, 20, "some deliveries", every_s=0.001)
    postgres.kill()
    postgres.start()
    until(lambda: ledger.unfinished() == 0, 60, "all deliveries to end", ignore=(Exception,), every_s=0.05)
    assert len(effect.sent) == 300
    assert set(states(database).values()) == {"sent"}


def test_what_a_process_has_no_room_for_while_its_connections_hang_is_left_to_another(
    ledger: Ledger, start: Start
) -> None:
    tried: list[int] = []

    def hangs(delivery: Delivery, _: object) -> None:
        tried.append(delivery.id)
        time.sleep(0.3)
        raise Busy("all connections wait", retry_after_s=0.01)

    stuck, free = Effect(hangs), Effect()
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(20)])
    start(stuck, "stuck")
    start(free, "free")
    until_ended(ledger)
    assert {delivery.attempt for delivery in free.sent} == {1}
    assert len(free.sent) == 20
    assert len(tried) <= 3  # one of each worker: what was claimed ahead does not wait in its turn


def test_services_of_one_user_do_not_wait_for_each_other(ledger: Ledger, start: Start) -> None:
    planned = [Planned("welcome", "welcome", LANE), Planned("welcome", "other", "mail:other")]
    ledger.store([entry(1, planned=planned)])
    effect = Effect()
    start(effect)
    until(lambda: ledger.unfinished() == 1, 10, "the lane that this worker has")
    assert len(effect.sent) == 1
