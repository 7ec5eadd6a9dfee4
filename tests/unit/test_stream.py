"""When the reader's loop sends what it has read, and when it ends the Kafka transaction."""

from __future__ import annotations

import pytest

from cdc.contract.position import Position
from tests.support.lines import row, stream, transaction


def test_what_is_read_while_few_rows_are_on_their_way_joins_their_transaction() -> None:
    told = stream(*transaction(row(1), end=100), None, *transaction(row(2), end=200), None).told
    assert told == [
        ("publish", b'{"id":1}'),
        ("send", Position(100, 2)),
        ("publish", b'{"id":2}'),
        ("commit", Position(200, 2)),
    ]


def test_where_nothing_joins_the_end_tells_no_other_position() -> None:
    told = stream(*transaction(row(1)), None, None).told
    assert told[1:] == [("send", Position(100, 2)), ("commit", Position(100, 2))]


def test_each_transaction_is_sent_ahead_once() -> None:
    lines = [line for id_ in range(1, 5) for line in (*transaction(row(id_), end=id_ * 100), None)]
    kinds = [what for what, _ in stream(*lines).told]
    assert kinds == ["publish", "send", "publish", "commit"] * 2


def test_a_stop_behind_what_was_sent_ahead_still_commits_it() -> None:
    assert stream(*transaction(row(1))).told[-1] == ("commit", Position(100, 2))


def test_many_rows_are_not_sent_ahead_of_their_end() -> None:
    told = stream(*transaction(*(row(id_) for id_ in range(1, 100))), None, None).told
    assert [what for what, _ in told[-2:]] == ["publish", "commit"]


def test_of_a_backlog_the_first_rows_are_committed_sooner_than_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.capture.time.monotonic", lambda: 0.1)  # that old is every transaction of the fake
    told = stream(*transaction(*(row(id_) for id_ in range(1, 1000)))).told
    commits = [place for place, (what, _) in enumerate(told) if what == "commit"]
    assert len(commits) == 2
    assert commits[0] < 300
    assert told[-1] == ("commit", Position(100, 1000))
