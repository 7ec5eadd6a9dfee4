"""The ledger on a real PostgreSQL: heads, leases, transitions, lanes."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from cdc.runtime.errors import ConnectionLost, Deferred, MailRejected, TemplateInvalid
from consumers.breaker import ALIKE_MAX
from consumers.delivery import Delivery, Leased, Mark, Planned
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.outcome import Dead, GivenBack, Outcome, Pause, Retry, Sent, Skipped, Unknown, describe, skipped
from deploy.local.net import until
from tests.support.database import Database
from tests.support.ledgers import LANE, RULES, assert_one_head_per_queue, entry, states

ERROR: dict[str, object] = {"class": "Deferred", "code": 451, "reason": "later"}
OpenLedger = Callable[[str], Ledger]


@pytest.fixture
def open_ledger(database: Database) -> Iterator[OpenLedger]:
    """Open a ledger as a worker; closed after the test."""
    migrate(database.dsn)
    opened: list[Ledger] = []

    def open_one(worker: str) -> Ledger:
        opened.append(Ledger(database.dsn, "mail", worker))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: OpenLedger) -> Ledger:
    return open_ledger("me")


def claim(ledger: Ledger, most: int = 10, lease_s: float = 60.0, lane: str = LANE) -> list[Delivery]:
    return ledger.claim({lane: most}, RULES, most, lease_s)


def finish(ledger: Ledger, delivery: Delivery, outcome: Outcome) -> bool:
    return delivery.id in ledger.mark([Mark(delivery, outcome, ledger.worker)])


def begin_sending(ledger: Ledger, delivery: Delivery) -> bool:
    return delivery.id in ledger.sending([delivery.id])


def lsns(deliveries: list[Delivery]) -> list[int]:
    return [int(delivery.event_id.split(":")[2], 16) for delivery in deliveries]


def test_only_the_first_of_a_key_is_claimed(ledger: Ledger) -> None:
    ledger.store([entry(1, "a"), entry(2, "a"), entry(3, "b")])
    assert lsns(claim(ledger)) == [1, 3]
    assert claim(ledger) == []


def test_order_is_by_position_and_not_by_insertion(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(5), entry(3), entry(4, index=2), entry(4, index=1)])
    order = []
    while claimed := claim(ledger):
        order.append((claimed[0].envelope.after, claimed[0].event_id[-1]))
        finish(ledger, claimed[0], Sent({}))
        assert_one_head_per_queue(database)
    assert order == [({"id": 3}, "1"), ({"id": 4}, "1"), ({"id": 4}, "2"), ({"id": 5}, "1")]


@pytest.mark.parametrize("batch", [1, 5])
def test_an_epoch_comes_before_the_lsn(ledger: Ledger, batch: int) -> None:
    """A restored database begins again at lower LSNs, and `slot recover` with the next epoch."""
    order = [(1, 100), (1, 200), (2, 50), (2, 150), (10, 7)]
    entries = [entry(lsn, event_id=f"t:{epoch}:{lsn:016x}:1") for epoch, lsn in order]
    for begin in range(0, len(entries), batch):
        ledger.store(entries[begin : begin + batch])
    ran = []
    while claimed := claim(ledger):
        ran.append(claimed[0].event_id)
        finish(ledger, claimed[0], Sent({}))
    assert ran == [each.event_id for each in entries]


def test_an_event_id_of_no_epoch_stands_last(ledger: Ledger) -> None:
    ledger.store(
        [entry(lsn, event_id=id_) for lsn, id_ in enumerate(["t:1:1:1", "no id", "t:x:1:1", f"t:{2**70}:1:1"])]
    )
    ledger.store([entry(9, event_id="t:3:9:1")])
    ran = []
    while claimed := claim(ledger):
        ran.append(claimed[0].event_id)
        finish(ledger, claimed[0], Sent({}))
    assert ran[:2] == ["t:1:1:1", "t:3:9:1"]


def test_finishing_promotes_the_next_whatever_the_outcome(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(lsn) for lsn in range(1, 5)])
    for outcome in (Sent({}), Dead(ERROR), Unknown(ERROR), Sent({})):
        (delivery,) = claim(ledger)
        finish(ledger, delivery, outcome)
        assert_one_head_per_queue(database)
    assert states(database) == {1: "sent", 2: "dead", 3: "unknown", 4: "sent"}


def test_a_retry_holds_back_its_key_in_its_lane_and_nothing_else(ledger: Ledger) -> None:
    other = Planned("welcome", "storage", "service:storage")
    both = (Planned("welcome", "welcome", LANE), other)
    ledger.store([entry(1, "a", planned=both), entry(2, "a"), entry(3, "b")])
    first, third = claim(ledger)
    finish(ledger, first, Retry(3600, ERROR))
    finish(ledger, third, Sent({}))
    assert claim(ledger) == []
    assert lsns(claim(ledger, lane="service:storage")) == [1]


def test_patience_begins_with_the_first_attempt_that_counts(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    since = []
    for outcome in (Pause(0, ERROR), GivenBack(), Retry(0, ERROR), Retry(0, ERROR), Pause(0, ERROR)):
        (delivery,) = claim(ledger)
        since.append(delivery.failing_since)
        finish(ledger, delivery, outcome)
        database.execute("UPDATE pgherald.lane SET paused_until = NULL, failures = 0")
    (delivery,) = claim(ledger)
    assert since[:3] == [None, None, None]
    assert since[3] is not None
    assert since[3] == since[4] == delivery.failing_since


def test_a_stored_event_is_not_stored_again_and_takes_no_place(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    (first,) = claim(ledger)
    finish(ledger, first, Sent({}))
    assert ledger.store([entry(1), entry(2), entry(2), entry(3)]) == [("welcome", "pending")] * 2
    assert_one_head_per_queue(database)
    assert lsns(claim(ledger)) == [2]


def test_a_topic_that_is_read_again_brings_back_no_payload_that_has_left(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1), entry(2, "b")])
    database.execute("DELETE FROM pgherald.event")
    verify = Planned("verify", "verify", "mail:verify")
    ledger.store([entry(1), entry(2, "b", planned=[verify])])
    assert database.execute("SELECT record_offset FROM pgherald.event") == [(2,)]


def test_a_repeated_event_does_not_disturb_a_delivery_in_work(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    (delivery,) = claim(ledger)
    assert ledger.store([entry(1)]) == []
    assert_one_head_per_queue(database)
    assert finish(ledger, delivery, Sent({}))


def test_without_a_key_there_is_no_order(ledger: Ledger) -> None:
    ledger.store([entry(1, None), entry(2, None)])
    assert lsns(claim(ledger)) == [1, 2]
    ledger.store([entry(3, None)])
    assert lsns(claim(ledger)) == [3]


def test_skipped_and_dead_rows_are_born_finished(ledger: Ledger, database: Database) -> None:
    skipped = Planned("welcome", "welcome", LANE, "skipped", {"class": "Skipped", "code": None, "reason": "when"})
    assert ledger.store([entry(1, planned=[skipped]), entry(2)]) == [("welcome", "skipped"), ("welcome", "pending")]
    assert lsns(claim(ledger)) == [2]
    rows = database.execute("SELECT error->>'reason', head, finished_at IS NOT NULL FROM pgherald.delivery ORDER BY id")
    assert rows[0] == ("when", False, True)


@pytest.mark.parametrize(
    "value",
    [b'{"op":"c","source":{"name":"t","ts_ms":1,"schema":"s","table":"t"},"after":{"id":"\\u0000"}}'],
    ids=["NUL"],
)
def test_what_jsonb_cannot_hold_is_kept_as_bytes_and_delivered(
    ledger: Ledger, database: Database, value: bytes
) -> None:
    ledger.store([entry(1, "a", value=value), entry(2, "b")])
    assert database.execute("SELECT envelope IS NULL, raw IS NULL FROM pgherald.event ORDER BY event_id") == [
        (True, False),
        (False, True),
    ]
    first, second = claim(ledger)
    assert (first.envelope.after, second.envelope.after) == ({"id": "\0"}, {"id": 2})


def test_a_key_of_any_length_is_ordered(ledger: Ledger) -> None:
    long = "".join(f"{number:x}" for number in range(40_000))
    ledger.store([entry(1, long), entry(2, long)])
    (first,) = claim(ledger)
    finish(ledger, first, Sent({}))
    assert lsns(claim(ledger)) == [2]


def test_an_event_that_left_the_ledger_is_the_deliverys_fault(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    database.execute("DELETE FROM pgherald.event")
    (delivery,) = claim(ledger)
    assert delivery.unreadable


def test_a_claim_takes_no_more_than_asked_and_takes_turns(ledger: Ledger) -> None:
    late = Planned("welcome", "verify", "mail:verify")
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(1, 8)])
    ledger.store([entry(lsn, f"k{lsn}", planned=[late]) for lsn in range(10, 12)])
    claimed = ledger.claim({LANE: 10, "mail:verify": 10}, RULES, 4, 60)
    assert sorted(delivery.lane for delivery in claimed) == ["mail:verify", "mail:verify", LANE, LANE]


def test_rules_that_no_one_knows_are_left_alone(ledger: Ledger) -> None:
    ledger.store([entry(1, planned=[Planned("renamed", "welcome", LANE)])])
    assert claim(ledger) == []


def test_an_outcome_is_recorded_with_result_and_error(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    (first,) = claim(ledger)
    finish(ledger, first, Retry(0, ERROR))
    assert database.execute("SELECT state, attempt, error FROM pgherald.delivery") == [("pending", 1, ERROR)]
    (second,) = claim(ledger)
    finish(ledger, second, Sent({"message_id": "<x@y>", "reply": "250 \0\udcff"}))
    rows = database.execute(
        "SELECT state, attempt, error, result->>'message_id', sent_at IS NULL FROM pgherald.delivery"
    )
    assert rows == [("sent", 2, None, "<x@y>", False)]


def test_a_delivery_given_back_has_its_attempt_again(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    (delivery,) = claim(ledger)
    finish(ledger, delivery, GivenBack())
    assert database.execute("SELECT state, attempt, leased_by FROM pgherald.delivery") == [("pending", 0, None)]
    assert claim(ledger)


def test_two_workers_never_hold_the_same(open_ledger: OpenLedger) -> None:
    mine, theirs = open_ledger("me"), open_ledger("other")
    mine.store([entry(lsn, f"k{lsn}") for lsn in range(10)])
    first, second = claim(mine, 6), claim(theirs, 6)
    assert len(first) == 6
    assert len(second) == 4
    assert not {delivery.id for delivery in first} & {delivery.id for delivery in second}


def test_a_worker_whose_lease_was_taken_over_changes_nothing(open_ledger: OpenLedger, database: Database) -> None:
    paused, other = open_ledger("paused"), open_ledger("other")
    paused.store([entry(1)])
    (stale,) = claim(paused, lease_s=0.01)
    (leased,) = until(lambda: other.expired(RULES), 5, "the lease to run out")
    other.mark([Mark(leased, Retry(0, ERROR), leased.leased_by, expired=True)])
    (delivery,) = claim(other)
    assert not begin_sending(paused, stale)
    assert not finish(paused, stale, Dead(ERROR))
    assert paused.renew([stale.id], 60) == set()
    assert begin_sending(other, delivery)
    assert finish(other, delivery, Sent({}))
    assert states(database) == {1: "sent"}


def test_a_lease_that_was_renewed_meanwhile_is_not_taken_back(open_ledger: OpenLedger, database: Database) -> None:
    mine, other = open_ledger("me"), open_ledger("other")
    mine.store([entry(1)])
    (delivery,) = claim(mine, lease_s=0.01)
    (leased,) = until(lambda: other.expired(RULES), 5, "the lease to run out")
    assert mine.renew([delivery.id], 60) == {delivery.id}
    assert other.mark([Mark(leased, Unknown(ERROR), leased.leased_by, expired=True)]) == set()
    assert finish(mine, delivery, Sent({}))
    assert states(database) == {1: "sent"}


def test_of_two_that_take_a_lease_back_one_does(open_ledger: OpenLedger) -> None:
    mine, one, two = open_ledger("me"), open_ledger("one"), open_ledger("two")
    mine.store([entry(1)])
    claim(mine, lease_s=0.01)
    (seen,) = until(lambda: one.expired(RULES), 5, "the lease to run out")
    (also,) = two.expired(RULES)
    assert one.mark([Mark(seen, Retry(0, ERROR), seen.leased_by, expired=True)]) == {seen.id}
    assert two.mark([Mark(also, Retry(0, ERROR), also.leased_by, expired=True)]) == set()


def test_the_dot_is_not_written_with_under_five_seconds_of_lease(ledger: Ledger) -> None:
    ledger.store([entry(1), entry(2, "b")])
    (short,) = claim(ledger, 1, lease_s=4.9)
    assert not begin_sending(ledger, short)
    (long,) = claim(ledger, 1, lease_s=30)
    assert begin_sending(ledger, long)


def test_what_was_sending_says_so_when_its_lease_ends(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    (delivery,) = claim(ledger)
    begin_sending(ledger, delivery)
    ledger.renew([delivery.id], 0.01)
    (leased,) = until(lambda: ledger.expired(RULES), 5, "the lease to run out")
    assert (leased.state, leased.attempt, leased.leased_by) == ("sending", 1, "me")
    ledger.mark([Mark(leased, Unknown(ERROR), leased.leased_by, expired=True)])
    assert states(database) == {1: "unknown"}


def test_many_marks_are_one_transaction(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(lsn, f"k{lsn % 5}") for lsn in range(1, 11)])
    claimed = claim(ledger)
    kept = ledger.mark([Mark(delivery, Sent({}), "me") for delivery in claimed])
    assert kept == {delivery.id for delivery in claimed}
    assert_one_head_per_queue(database)
    assert lsns(claim(ledger)) == [6, 7, 8, 9, 10]


def test_deliveries_that_fail_together_are_one_failure_of_their_lane(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(8)])
    for delivery in claim(ledger, 7):
        finish(ledger, delivery, Pause(3600, ERROR))
    assert database.execute("SELECT failures, reason FROM pgherald.lane") == [(1, "later")]
    assert set(database.execute("SELECT state, attempt FROM pgherald.delivery")) == {("pending", 0)}
    assert claim(ledger) == []
    assert ledger.paused_lanes() == {LANE}


def test_after_a_pause_one_delivery_of_all_processes_probes(open_ledger: OpenLedger, database: Database) -> None:
    mine, other = open_ledger("me"), open_ledger("other")
    mine.store([entry(lsn, f"k{lsn}") for lsn in range(8)])
    (first,) = claim(mine, 1)
    finish(mine, first, Pause(0, ERROR))
    (probe,) = claim(mine)
    assert probe.lane_failures == 1
    assert claim(other) == []
    finish(mine, probe, Pause(0, ERROR))
    assert database.execute("SELECT failures FROM pgherald.lane") == [(2,)]
    (again,) = claim(other)
    finish(other, again, Sent({}))
    assert len(claim(mine)) == 7


NO_ANSWERS = [
    GivenBack(),
    Skipped(skipped("gone")),
    Dead(describe(TemplateInvalid("no name"))),
    Dead(describe(MailRejected("no mail address", code="address_invalid"))),
    Retry(0, describe(KeyError("a bug"))),
    Retry(0, describe(Deferred("hung up in this mail"))),
    Unknown(describe(ConnectionLost("no answer to the final dot"))),
]


@pytest.mark.parametrize("unanswered", NO_ANSWERS)
def test_a_probe_without_an_answer_lets_one_other_probe(
    ledger: Ledger, database: Database, unanswered: Outcome
) -> None:
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(4)])
    finish(ledger, claim(ledger, 1)[0], Pause(0, ERROR))
    finish(ledger, claim(ledger)[0], unanswered)
    assert database.execute("SELECT failures FROM pgherald.lane") == [(1,)]
    (probe,) = claim(ledger)
    assert probe.lane_failures == 1


@pytest.mark.parametrize("refused", [Dead(describe(MailRejected("no", code="550 5.1.1"))), Retry(9, {"code": "451"})])
def test_a_probe_that_is_refused_for_itself_opens_the_lane(ledger: Ledger, refused: Outcome) -> None:
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(4)])
    finish(ledger, claim(ledger, 1)[0], Pause(0, ERROR))
    finish(ledger, claim(ledger)[0], refused)
    assert len(claim(ledger)) == 3


def test_a_probe_that_is_killed_leaves_its_lane_paused(open_ledger: OpenLedger, database: Database) -> None:
    killed, other = open_ledger("killed"), open_ledger("other")
    killed.store([entry(lsn, f"k{lsn}") for lsn in range(4)])
    finish(killed, claim(killed, 1)[0], Pause(0, ERROR))
    (probe,) = claim(killed, lease_s=0.2)
    assert claim(other) == []
    (leased,) = until(lambda: other.expired(RULES), 5, "the lease to run out")
    other.mark([Mark(leased, Retry(0, ERROR), leased.leased_by, expired=True)])
    assert database.execute("SELECT failures FROM pgherald.lane") == [(1,)]
    (again,) = claim(other)
    assert again.lane_failures == 1
    assert again.id != probe.id


def stopped(database: Database) -> list[tuple[object, ...]]:
    return database.execute("SELECT paused_until = 'infinity', paused_by, reason FROM pgherald.lane")


DIES = Dead(ERROR | {"class": "TemplateInvalid"}, "TemplateInvalid")


def test_many_users_who_fail_alike_in_a_row_stop_the_lane_whatever_the_process(
    open_ledger: OpenLedger, database: Database
) -> None:
    processes = [open_ledger("one"), open_ledger("two")]
    processes[0].store([entry(lsn, f"k{lsn}") for lsn in range(100)])
    count = 0
    while claimed := claim(processes[count % 2], 1):
        finish(processes[count % 2], claimed[0], DIES)
        count += 1
    assert count == ALIKE_MAX
    ((forever, paused_by, reason),) = stopped(database)
    assert (forever, paused_by) == (True, None)
    assert str(reason).startswith("systemic: 20 users in a row failed alike (TemplateInvalid)")
    assert f"pgherald lanes resume {LANE}" in str(reason)
    assert processes[0].paused_lanes() == {LANE}
    assert processes[0].unfinished() == 80


def test_one_success_or_another_way_to_fail_begins_the_count_again(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(100)])
    for number, delivery in enumerate(claim(ledger, 100)):
        other = Sent({}) if number % 20 == 10 else Dead(ERROR, "EnvelopeInvalid")
        finish(ledger, delivery, other if number % 10 == 0 else DIES)
    assert stopped(database) == [(None, None, None)]


def test_one_user_who_fails_again_and_again_stops_nobody(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(lsn, "a") for lsn in range(50)])
    while claimed := claim(ledger):
        finish(ledger, claimed[0], DIES)
    assert stopped(database) == [(None, None, None)]


def test_a_batch_of_deaths_stops_the_lane_and_one_of_successes_does_not(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(60)])
    claimed = claim(ledger, 60)
    mixed = [Mark(delivery, Sent({}) if delivery is claimed[15] else DIES, "me") for delivery in claimed[:30]]
    ledger.mark(mixed)
    assert stopped(database) == [(None, None, None)]
    ledger.mark([Mark(delivery, DIES, "me") for delivery in claimed[30:36]])
    assert stopped(database)[0][0] is True


def test_a_lane_that_stopped_is_opened_by_an_operator_alone(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(9)])
    finish(ledger, claim(ledger, 1)[0], Pause(0, ERROR))
    (probe,) = claim(ledger)
    finish(ledger, probe, Pause(math.inf, ERROR))
    assert stopped(database) == [(True, None, "later")]
    database.execute("UPDATE pgherald.delivery SET state = 'claimed', leased_by = 'me' WHERE id = %s", (probe.id,))
    for outcome in (Pause(0, ERROR), GivenBack(), Sent({})):
        database.execute("UPDATE pgherald.delivery SET leased_by = 'me', state = 'claimed' WHERE id = %s", (probe.id,))
        assert finish(ledger, probe, outcome)
        assert stopped(database) == [(True, None, "later")]
        assert claim(ledger) == []
    assert set(database.execute("SELECT attempt FROM pgherald.delivery WHERE state = 'pending'")) == {(0,)}


def test_a_failure_does_not_end_an_operators_pause(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1), entry(2, "b")])
    (delivery, _) = claim(ledger)
    database.execute(
        "INSERT INTO pgherald.lane (consumer, lane, paused_until, paused_by) VALUES ('mail', %s, 'infinity', 'ada')",
        (LANE,),
    )
    finish(ledger, delivery, Pause(0, ERROR))
    assert claim(ledger) == []


def test_the_ledger_counts_what_is_unfinished(ledger: Ledger) -> None:
    ledger.store([entry(1, "a"), entry(2, "a"), entry(3, "b")])
    assert ledger.unfinished() == 3
    finish(ledger, claim(ledger, 1)[0], Unknown(ERROR))
    assert ledger.unfinished() == 2
    ((lane, count, oldest_s),) = ledger.figures()
    assert (lane, count) == (LANE, 2)
    assert 0 <= oldest_s < 60
    assert ledger.in_doubt() == [("welcome", 1)]


def test_unfinished_rows_of_rules_that_nobody_knows_are_counted_and_stay(ledger: Ledger) -> None:
    other = Planned("renamed", "renamed", "mail:renamed")
    ledger.store([entry(1), entry(2, planned=[other]), entry(3, planned=[other]), entry(4, "b", planned=[other])])
    assert ledger.orphans(["welcome"]) == [("renamed", 3)]
    assert ledger.orphans(["welcome", "renamed"]) == []
    assert claim(ledger, lane="mail:renamed") == []


def test_another_consumers_rows_are_not_ours(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1)])
    with closing(Ledger(database.dsn, "services", "them")) as services:
        services.store([entry(1, planned=[Planned("welcome", "welcome", LANE)])])
        assert len(claim(services)) == 1
    assert len(claim(ledger)) == 1


def test_the_database_refuses_a_second_head(ledger: Ledger, database: Database) -> None:
    ledger.store([entry(1), entry(2)])
    with pytest.raises(Exception, match="delivery_one_head"):
        database.execute("UPDATE pgherald.delivery SET head = true")


def test_expired_leases_of_others_are_seen_with_what_a_mark_needs(ledger: Ledger) -> None:
    ledger.store([entry(1, "a")])
    claim(ledger, lease_s=0.01)
    (leased,) = until(lambda: ledger.expired(RULES), 5, "the lease to run out")
    assert leased == Leased(leased.id, "welcome", LANE, "a", "claimed", 1, "me")


def test_a_claim_does_not_wade_through_what_is_dead(ledger: Ledger, database: Database) -> None:
    """A long transaction keeps every dead row: the next claim begins where the last one ended, behind them."""
    ledger.store([entry(lsn, f"k{lsn}") for lsn in range(2000)])
    database.execute("UPDATE pgherald.delivery SET due_at = due_at - interval '1 h'")
    database.execute("VACUUM pgherald.delivery")  # of what this very test left at the present time
    with closing(database.connect()) as session, session.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgherald.lane")
        while claimed := claim(ledger, 500):
            ledger.mark([Mark(delivery, Sent({}), "me") for delivery in claimed])
        ledger.store([entry(5000), entry(5001)])
        finish(ledger, claim(ledger)[0], Sent({}))
        before = entries_read(ledger, database)
        assert lsns(claim(ledger)) == [5001]  # promoted: due from now on, not since it was stored
        assert entries_read(ledger, database) - before < 100


def entries_read(ledger: Ledger, database: Database) -> int:
    """Ask when the ledger's session has ended: one that goes on reports its figures when it likes."""
    ledger.close()
    mine = "datname = current_database() AND application_name = 'pgherald mail'"
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE {mine}"  # noqa: S608  a constant
    until(lambda: database.execute(sessions) == [(0,)], 5, "the session to end")
    read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'delivery_due'"
    return int(database.execute(read)[0][0])
