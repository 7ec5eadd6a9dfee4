"""The operator's commands on a real ledger."""

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cdc.runtime.errors import RetryableError
from consumers import erase as erasures
from consumers import operations
from consumers.commands import deliveries, erase, lanes, ledger
from consumers.delivery import Delivery, Entry, Mark, Planned
from consumers.ledger import Ledger
from consumers.migrations import migrate
from consumers.outcome import Dead, Outcome, Sent, Unknown
from deploy.local.net import until
from tests.support.database import Database
from tests.support.ledgers import LANE, RULES, assert_one_head_per_queue, entry, states

REFUSED: dict[str, object] = {"class": "MailRejected", "code": 550, "reason": "550 5.1.1 no such user"}
SETTINGS = """
[source]
name = "t"
dsn = "{dsn}"
[[source.tables]]
name = 'public."User"'
[kafka]
bootstrap_servers = "127.0.0.1:1"
[smtp]
host = "127.0.0.1"
sender = "a@example.org"
[[rules]]
name = "welcome"
on = "created"
mail = "welcome"
"""


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Path:
    path = tmp_path / "pgherald.toml"
    path.write_text(SETTINGS.format(dsn=database.dsn))
    return path


@pytest.fixture
def kept(database: Database) -> Iterator[Ledger]:
    migrate(database.dsn)
    with closing(Ledger(database.dsn, "mail", "me")) as opened:
        yield opened


def run(command: Any, settings: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(command, [*arguments, "--config", str(settings)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def listed(settings: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(deliveries, settings, "list", "--json", *arguments).output)
    return found


def end(kept: Ledger, *outcomes: Outcome) -> list[Delivery]:
    """Claim as many as there are outcomes, and end them so."""
    claimed = kept.claim({LANE: len(outcomes)}, RULES, len(outcomes), 60)
    kept.mark([Mark(delivery, outcome, "me") for delivery, outcome in zip(claimed, outcomes, strict=True)])
    return claimed


def test_the_list_is_an_array_of_objects_named_as_the_columns(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1, '{"id":1}')])
    (row,) = listed(settings)
    assert (row["rule"], row["state"], row["key"], row["position_lsn"]) == ("welcome", "pending", '{"id":1}', "0/1")
    assert row["attempt"] == 0
    assert "envelope" not in row


def test_people_see_a_table_with_the_reason_and_no_markup(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1, "[bold]x[/bold]")])
    end(kept, Dead(REFUSED))
    output = run(deliveries, settings, "list").output
    assert "[bold]x[/bold]" in output
    assert "550 5.1.1 no such user" in output


def test_what_a_row_holds_neither_steers_the_terminal_nor_is_cut(kept: Ledger, settings: Path) -> None:
    key = "\x1b[31m\u202e\n" + "k" * 300
    kept.store([entry(1, key)])
    (row,) = listed(settings)
    assert row["key"] == key
    for output in (run(deliveries, settings, "list").output, run(deliveries, settings, "show", str(row["id"])).output):
        assert "\\x1b[31m\\u202e\\n" + "k" * 300 in output


def test_a_key_is_found_however_its_json_is_written(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1, '{"id":"a"}')])
    assert len(listed(settings, "--key", '{ "id": "\\u0061" }')) == 1
    assert len(listed(settings, "--key", '{"id":"b"}')) == 0


def test_filters_choose(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1, "a"), entry(2, "b"), entry(3, "c")])
    end(kept, Sent({}), Dead(REFUSED))
    assert [row["key"] for row in listed(settings, "--state", "dead")] == ["b"]
    assert [row["key"] for row in listed(settings, "--state", "dead", "--state", "sent")] == ["b", "a"]
    assert [row["key"] for row in listed(settings, "--key", "c")] == ["c"]
    assert [row["key"] for row in listed(settings, "--where", "envelope->'after'->>'id' = '2'")] == ["b"]
    assert [row["key"] for row in listed(settings, "--where", "key LIKE '%a%'")] == ["a"]
    assert listed(settings, "--rule", "other") == []
    assert listed(settings, "--lane", "mail:other") == []
    assert len(listed(settings, "--since", "1h")) == 3
    assert listed(settings, "--since", "2100-01-01") == []
    assert len(listed(settings, "--limit", "2")) == 2


def test_show_has_the_event(kept: Ledger, settings: Path) -> None:
    kept.store([entry(7, "a")])
    (row,) = listed(settings)
    shown = json.loads(run(deliveries, settings, "show", str(row["id"]), "--json").output)
    assert shown["envelope"]["after"] == {"id": 7}
    assert shown["record_offset"] == 7
    assert "envelope:" in run(deliveries, settings, "show", str(row["id"])).output
    assert run(deliveries, settings, "show", "999").exit_code == 1


def test_a_replay_is_the_same_row_with_all_its_attempts(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(1, "a"), entry(2, "a")])
    end(kept, Dead(REFUSED))
    end(kept, Sent({}))
    (dead,) = listed(settings, "--state", "dead")
    result = run(deliveries, settings, "replay", str(dead["id"]))
    assert "out of order" in result.output
    (row,) = listed(settings, "--state", "pending")
    assert (row["id"], row["attempt"], row["replays"], row["head"]) == (dead["id"], 0, 1, True)
    (again,) = end(kept, Sent({}))
    assert again.replays == 1
    assert set(states(database).values()) == {"sent"}


def test_a_replay_waits_for_the_head_of_its_queue(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(1, "a"), entry(2, "a")])
    end(kept, Unknown(REFUSED))
    run(deliveries, settings, "replay", "--state", "unknown")
    assert_one_head_per_queue(database)
    (first,) = kept.claim({LANE: 9}, RULES, 9, 60)
    assert first.event_id.endswith("2:1")
    kept.mark([Mark(first, Sent({}), "me")])
    assert len(kept.claim({LANE: 9}, RULES, 9, 60)) == 1


def test_a_dry_run_counts_by_reason_and_changes_nothing(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(lsn, f"k{lsn}") for lsn in range(3)])
    end(kept, Dead(REFUSED), Dead(REFUSED), Sent({}))
    output = run(deliveries, settings, "replay", "--rule", "welcome", "--dry-run").output
    assert "2  welcome  dead  MailRejected  550 5.1.1 no such user" in output
    assert sorted(states(database).values()) == ["dead", "dead", "sent"]


def test_only_dead_and_unknown_are_replayed_unless_asked(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(lsn, f"k{lsn}") for lsn in range(3)])
    end(kept, Dead(REFUSED), Unknown(REFUSED), Sent({}))
    run(deliveries, settings, "replay", "--rule", "welcome")
    assert sorted(states(database).values()) == ["pending", "pending", "sent"]
    run(deliveries, settings, "replay", "--state", "sent")
    assert set(states(database).values()) == {"pending"}


def test_a_replay_of_everything_must_be_asked_for(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1)])
    assert run(deliveries, settings, "replay").exit_code == 2


def test_a_rate_spreads_what_becomes_due(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(lsn, f"k{lsn}") for lsn in range(5)])
    end(kept, *[Dead(REFUSED)] * 5)
    run(deliveries, settings, "replay", "--state", "dead", "--rate", "1/m")
    assert len(kept.claim({LANE: 9}, RULES, 9, 60)) == 1
    spread = "SELECT round(extract(epoch FROM max(due_at) - min(due_at)) / 60) FROM pgherald.delivery"
    assert database.execute(spread) == [(4,)]


def test_a_rate_is_that_of_all_consumers_together(kept: Ledger, settings: Path, database: Database) -> None:
    with closing(Ledger(database.dsn, "services", "me")) as services:
        for opened in (kept, services):
            opened.store([entry(lsn, f"k{lsn}") for lsn in range(3)])
            end(opened, *[Dead(REFUSED)] * 3)
    run(deliveries, settings, "replay", "--state", "dead", "--rate", "1/m")
    due = [at for (at,) in database.execute("SELECT due_at FROM pgherald.delivery ORDER BY due_at")]
    assert [round((at - due[0]).total_seconds() / 60) for at in due] == list(range(6))


def test_a_record_that_did_not_decode_is_replayed_like_any_dead_letter(
    kept: Ledger, settings: Path, database: Database
) -> None:
    undecodable = Planned("(undecodable)", "(undecodable)", "mail:(undecodable)", "dead", REFUSED)
    kept.store([entry(1, planned=[undecodable])])
    run(deliveries, settings, "replay", "--rule", "(undecodable)")
    assert states(database) == {1: "pending"}
    ((replayed,),) = database.execute("SELECT replays FROM pgherald.delivery")
    assert replayed == 1


def test_cancel_ends_what_is_pending_and_lets_the_next_come(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(1, "a"), entry(2, "a"), entry(3, "b")])
    (taken,) = kept.claim({LANE: 1}, RULES, 1, 60)
    run(deliveries, settings, "cancel", "--key", "b")
    (waiting,) = listed(settings, "--key", "a", "--state", "pending")
    run(deliveries, settings, "cancel", str(waiting["id"]))
    assert states(database) == {1: "claimed", 2: "cancelled", 3: "cancelled"}
    kept.mark([Mark(taken, Sent({}), "me")])
    assert_one_head_per_queue(database)


def test_ids_that_a_change_does_not_concern_are_said(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1)])
    (row,) = listed(settings)
    assert "1 of the ids are not there, or not dead or unknown" in run(deliveries, settings, "replay", "999").output
    end(kept, Dead(REFUSED))
    cancelled = run(deliveries, settings, "cancel", str(row["id"]))
    assert "1 of the ids are not there, or not pending" in cancelled.output
    assert run(deliveries, settings, "cancel", "--state", "dead").exit_code == 2


def test_a_paused_lane_is_not_claimed_until_it_is_resumed(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1)])
    run(lanes, settings, "pause", LANE, "--reason", "relay moves")
    assert kept.claim({LANE: 1}, RULES, 1, 60) == []
    (lane,) = json.loads(run(lanes, settings, "list", "--json").output)
    assert (lane["lane"], lane["paused"], lane["reason"], lane["unfinished"]) == (LANE, True, "relay moves", 1)
    assert lane["rate_per_process"] is None
    assert "relay moves" in run(lanes, settings, "list").output
    assert "goes on" in run(lanes, settings, "resume", LANE).output
    assert "was not paused" in run(lanes, settings, "resume", LANE).output
    assert len(kept.claim({LANE: 1}, RULES, 1, 60)) == 1


def test_a_lane_that_settings_do_not_know_is_a_usage_error(kept: Ledger, settings: Path) -> None:
    result = run(lanes, settings, "pause", "mail:welcom")
    assert result.exit_code == 2
    assert "mail:welcome" in result.output


def test_sql_that_is_none_and_a_ledger_that_is_not_there_are_said(settings: Path, database: Database) -> None:
    with pytest.raises(Exception, match="pgherald ledger migrate"):
        run(deliveries, settings, "list")
    assert "0001_ledger" in run(ledger, settings, "migrate").output
    assert "up to date" in run(ledger, settings, "migrate").output
    with pytest.raises(Exception, match="--where: syntax error"):
        run(deliveries, settings, "list", "--where", "key =")
    with pytest.raises(Exception, match="--where: column"):
        run(deliveries, settings, "list", "--where", "nosuch = 1")


def test_a_condition_changes_nothing_and_is_one_condition(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(1)])
    with pytest.raises(Exception, match=r"--where: ; has no place"):
        run(deliveries, settings, "list", "--where", "true; DELETE FROM pgherald.delivery")
    with pytest.raises(Exception, match=r"--where: cannot execute nextval"):
        run(deliveries, settings, "list", "--where", "nextval('pgherald.delivery_id_seq') > 0")
    assert states(database) == {1: "pending"}


def test_a_long_list_is_printed_row_by_row(kept: Ledger, settings: Path) -> None:
    kept.store([entry(lsn, f"k{lsn}") for lsn in range(1500)])
    newest_first = [f"k{lsn}" for lsn in reversed(range(1500))]
    assert [row["key"] for row in listed(settings)] == newest_first
    assert re.findall(r"k\d+", run(deliveries, settings, "list", "--limit", "1500").output) == newest_first
    assert listed(settings, "--rule", "other") == []


def test_a_change_of_many_goes_page_by_page(
    kept: Ledger, settings: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_PAGE", 3)
    kept.store([entry(lsn, f"k{lsn % 4}") for lsn in range(10)])
    for _ in range(3):
        end(kept, *[Dead(REFUSED)] * 3)
    assert "9 are pending again" in run(deliveries, settings, "replay", "--rule", "welcome", "--rate", "1/m").output
    assert_one_head_per_queue(database)
    spread = "SELECT round(extract(epoch FROM max(due_at) - min(due_at)) / 60) FROM pgherald.delivery WHERE replays = 1"
    assert database.execute(spread) == [(8,)]
    assert "10 are cancelled" in run(deliveries, settings, "cancel", "--rule", "welcome").output
    assert set(states(database).values()) == {"cancelled"}


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("true", range(2500)),
        ("(envelope->'after'->>'id')::int % 2 = 0", range(0, 2500, 2)),
        ("(envelope->'after'->>'id')::int BETWEEN 999 AND 2000", range(999, 2001)),
        ("(envelope->'after'->>'id')::int = 2400 OR envelope->'after'->>'nosuch' <> 'x'", [2400]),
    ],
)
def test_pages_lose_and_repeat_nothing_whatever_the_condition_leaves_of_them(
    kept: Ledger,
    settings: Path,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    chosen: Sequence[int],
) -> None:
    monkeypatch.setattr(operations, "_PAGE", 1000)
    kept.store([entry(lsn, f"k{lsn}") for lsn in range(2500)])
    said = run(deliveries, settings, "cancel", "--state", "pending", "--where", where).output
    assert f"{len(chosen)} are cancelled" in said
    assert sorted(lsn for lsn, state in states(database).items() if state == "cancelled") == list(chosen)


def test_what_changed_is_one_document_on_request(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1), entry(2, "b")])
    end(kept, Dead(REFUSED), Sent({}))
    said = json.loads(run(deliveries, settings, "replay", "--rule", "welcome", "--dry-run", "--json").output)
    reason = {"rule": "welcome", "state": "dead", "class": "MailRejected", "reason": REFUSED["reason"], "count": 1}
    assert said == {"chosen": 1, "changed": 0, "dry_run": True, "reasons": [reason]}
    assert json.loads(run(deliveries, settings, "replay", "--rule", "welcome", "--json").output)["changed"] == 1


def test_who_did_what_is_kept_without_a_value_of_a_row(
    kept: Ledger, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    kept.store([entry(1, '{"id":1}'), entry(2, "b")])
    end(kept, Dead(REFUSED))
    run(deliveries, settings, "replay", "--key", '{"id":1}', "--where", "envelope->'after'->>'id' <> 'grace' AND 1 = 1")
    run(deliveries, settings, "cancel", "--key", '{"id":1}')
    run(deliveries, settings, "cancel", "--rule", "welcome", "--dry-run")
    run(lanes, settings, "pause", LANE, "--reason", "relay moves")
    run(lanes, settings, "resume", LANE)
    found = json.loads(run(ledger, settings, "history", "--json").output)
    assert [(row["command"], row["count"]) for row in found] == [
        ("lanes resume", 1),
        ("lanes pause", 1),
        ("deliveries cancel", 1),
        ("deliveries replay", 1),
    ]
    assert all(row["who"].startswith("ada@") and row["finished_at"] for row in found)
    assert found[-1]["filter"]["where"] == "envelope->?->>? <> ? AND ? = ?"
    assert found[1]["filter"] == {"lane": LANE, "reason": "relay moves"}
    assert '"id"' not in json.dumps([row["filter"] for row in found])
    assert "lanes pause" in run(ledger, settings, "history").output
    (row,) = listed(settings, "--state", "cancelled")
    shown = json.loads(run(deliveries, settings, "show", str(row["id"]), "--json").output)
    assert [(done["command"], done["was"]) for done in shown["operations"]] == [
        ("deliveries replay", "dead"),
        ("deliveries cancel", "pending"),
    ]


def test_a_purge_gives_up_for_good_and_keeps_the_facts(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(1), entry(2, "b")])
    end(kept, Dead(REFUSED), Unknown(REFUSED))
    assert "1 are purged" in run(deliveries, settings, "purge", "--rule", "welcome").output
    assert states(database) == {1: "cancelled", 2: "unknown"}
    assert len(database.execute("SELECT event_id FROM pgherald.event")) == 1
    (row,) = listed(settings, "--state", "cancelled")
    assert row["error"] == REFUSED
    assert "1 stay as they are" in run(deliveries, settings, "replay", "--state", "cancelled").output
    # The topic is read again: what was purged is known, and stays given up.
    assert kept.store([entry(1)]) == []
    run(deliveries, settings, "purge", "--rule", "welcome", "--state", "cancelled")
    assert len(database.execute("SELECT event_id FROM pgherald.event")) == 1


def test_a_purge_keeps_the_event_that_another_delivery_needs(kept: Ledger, settings: Path, database: Database) -> None:
    planned = [Planned("welcome", "welcome", LANE), Planned("verify", "verify", "mail:verify")]
    kept.store([entry(1, planned=planned)])
    with closing(Ledger(database.dsn, "services", "me")) as services:
        services.store([entry(1, planned=[Planned("plans", "storage", "service:storage")])])
    end(kept, Dead(REFUSED))
    run(deliveries, settings, "purge", "--rule", "welcome")
    (delivery,) = kept.claim({"mail:verify": 1}, ["verify"], 1, 60)
    assert delivery.envelope.after == {"id": 1}
    kept.mark([Mark(delivery, Dead(REFUSED), "me")])
    run(deliveries, settings, "purge", "--rule", "verify")
    run(deliveries, settings, "cancel", "--rule", "plans")
    assert len(database.execute("SELECT event_id FROM pgherald.event")) == 1
    run(deliveries, settings, "purge", "--rule", "plans", "--state", "cancelled")
    assert database.execute("SELECT event_id FROM pgherald.event") == []


def test_what_is_unfinished_is_not_purged(kept: Ledger, settings: Path) -> None:
    kept.store([entry(1)])
    result = run(deliveries, settings, "purge", "--state", "pending")
    assert result.exit_code == 2
    assert "cancel" in result.output


def test_a_change_that_meets_a_deadlock_is_made_again(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([entry(1), entry(2, "b")])
    first, second = end(kept, Dead(REFUSED), Dead(REFUSED))
    with closing(database.connect()) as session, session.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("SET deadlock_timeout = '1min'; BEGIN")
        lock = "SELECT FROM pgherald.delivery WHERE id = %s FOR UPDATE"
        cursor.execute(lock, (second.id,))
        replaying = pool.submit(run, deliveries, settings, "replay", "--rule", "welcome")
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'transactionid'"
        until(lambda: database.execute(waits, (database.name,)) == [(1,)], 10, "the replay to wait for the row")
        cursor.execute(lock, (first.id,))  # crosswise: the replay's session finds out, and is the one that gives way
        cursor.execute("COMMIT")
        assert "2 are pending again" in replaying.result(20).output
    assert_one_head_per_queue(database)


USER = '{"id":1}'
EVERYTHING = """
    SELECT row::text FROM (
        SELECT to_jsonb(delivery) FROM pgherald.delivery UNION ALL SELECT to_jsonb(event) FROM pgherald.event
        UNION ALL SELECT to_jsonb(operation) FROM pgherald.operation
    ) AS everything (row)
"""


def ada(lsn: int) -> Entry:
    value = b'{"op":"c","source":{"name":"t","ts_ms":1,"schema":"public","table":"User"},"after":{"email":"ada@x.org"}}'
    return entry(lsn, USER, value=value)


def test_an_erased_user_leaves_nothing_but_facts(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([ada(1), ada(2), ada(3), entry(4, "grace")])
    used = "INSERT INTO pgherald.link_use (token_hash, purpose, key) VALUES ('1', 'verify', %s), ('2', 'verify', %s)"
    database.execute(used, (USER, "grace"))
    end(kept, Sent({"message_id": "<x@y>", "reply": "250 ok <ada@x.org>"}), Sent({}))
    end(kept, Dead({"class": "MailRejected", "code": 550, "reason": "550 no <ada@x.org>"}))
    said = json.loads(run(erase, settings, USER, "--json").output)
    assert (said["deliveries"], said["cancelled"], said["events"]) == (3, 1, 3)
    left = " ".join(row for (row,) in database.execute(EVERYTHING))
    assert "ada@x.org" not in left
    assert '"id\\\\":1' not in left
    assert "<x@y>" in left
    assert states(database) == {1: "sent", 2: "cancelled", 3: "cancelled", 4: "sent"}
    errors = "SELECT error FROM pgherald.delivery WHERE state = 'cancelled' ORDER BY id"
    assert database.execute(errors) == [
        ({"class": "MailRejected", "code": 550, "reason": "erased"},),
        ({"class": "Erased", "code": None, "reason": "erased"},),
    ]
    assert {row["key"] for row in listed(settings)} == {said["key"], "grace"}
    links = "SELECT token_hash, key FROM pgherald.link_use ORDER BY 1"
    assert database.execute(links) == [("1", said["key"]), ("2", "grace")]
    # What is read again is known, and stays erased.
    assert kept.store([ada(1)]) == []
    assert "stay as they are" in run(deliveries, settings, "replay", "--key", said["key"], "--state", "sent").output
    _, done = json.loads(run(ledger, settings, "history", "--json").output)
    assert (done["command"], done["filter"], done["count"]) == ("erase", {"key": said["key"]}, 3)


def test_an_erasure_says_what_stays_elsewhere(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([ada(1)])
    dry = run(erase, settings, '{ "id": 1 }', "--dry-run").output
    assert "would be erased: 1 deliveries (1 of them cancelled)" in dry
    assert "until kafka.retention (7d)" in dry
    assert "t.public.User" in dry
    assert "on the suppression list" in dry
    assert states(database) == {1: "pending"}
    nobody = run(erase, settings, "nobody").output
    assert "erased: 0 deliveries" in nobody
    assert "no delivery has this key" in nobody


def test_an_erasure_waits_for_what_is_being_delivered(kept: Ledger, settings: Path, database: Database) -> None:
    kept.store([ada(1), ada(2)])
    (taken,) = kept.claim({LANE: 1}, RULES, 1, 60)
    with ThreadPoolExecutor(1) as pool:
        erasing = pool.submit(run, erase, settings, USER, "--json")
        until(lambda: "cancelled" in states(database).values(), 10, "what waits to be cancelled")
        assert states(database) == {1: "claimed", 2: "cancelled"}
        assert kept.mark([Mark(taken, Sent({"reply": "250 <ada@x.org>"}), "me")])
        assert json.loads(erasing.result(20).output)["deliveries"] == 2
    assert states(database) == {1: "sent", 2: "cancelled"}
    assert "ada@x.org" not in " ".join(row for (row,) in database.execute(EVERYTHING))


def test_an_erasure_that_can_not_end_says_so(kept: Ledger, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "_PATIENCE_S", 0.0)
    kept.store([ada(1)])
    kept.claim({LANE: 1}, RULES, 1, 60)
    with pytest.raises(RetryableError, match="Run it again"):
        run(erase, settings, USER)
