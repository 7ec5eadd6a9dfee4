"""The audit of a consumers run: topic against ledger, ledger against what the relay and the services saw."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from cdc.contract.position import Position, position_of
from consumers.mail.message import message_id
from consumers.services.signing import identity
from tests.chaos.rounds import Report
from tests.support.application import PLANS
from tests.support.database import Database
from tests.support.deployment import Record
from tests.support.http import Endpoint
from tests.support.smtp import Relay

#: The rules that must not be sent again, and the one that says it may.
_LEAVE, _RESEND = ("welcome", "moved"), ("verify",)
_TARGETS = {"welcome": "welcome", "moved": "welcome", "verify": "verify"}
_FINAL = ("sent", "skipped", "dead", "unknown")
_CLOCKS_S = 0.1
#: A mailer that is well has recorded an answer by then.
_RECORDED_S = 2.0
_MESSAGE_ID = re.compile(rb"^Message-ID: *(<[^>\r\n]+>)", re.MULTILINE | re.IGNORECASE)
_DELIVERIES = """
    SELECT event_id, rule, target, lane, key, state, extract(epoch FROM finished_at)::float8, result->>'message_id',
        error->>'code'
    FROM pgherald.delivery
"""

#: (event id, rule, target)
Identity = tuple[str, str, str]


class Row(NamedTuple):
    """A delivery of the ledger."""

    event_id: str
    rule: str
    target: str
    lane: str
    key: str
    state: str
    finished_at: float | None
    message_id: str | None
    code: str | None

    @property
    def identity(self) -> Identity:
        return self.event_id, self.rule, self.target

    @property
    def expected_message_id(self) -> str:
        return message_id(self.event_id, self.rule, self.target, "example.org")

    @property
    def position(self) -> Position:
        return position_of(self.event_id)


def expected(records: Iterable[Record]) -> dict[Identity, bool]:
    """Say what must be planned for a topic, and whether it is to be skipped for want of an address."""
    return dict(planned for record in records if record.value for planned in _planned(record))


def _planned(record: Record) -> Iterator[tuple[Identity, bool]]:
    before, after = (record.value or {})["before"] or {}, (record.value or {})["after"] or {}
    rules = {"c": ("welcome", "verify"), "u": ("moved",), "d": ()}[record.op]
    if record.op == "u" and before["plan"] == after["plan"]:
        return
    for rule in rules:
        yield (record.event_id, rule, _TARGETS[rule]), after["email"] is None
    for service in _services(before) ^ _services(after):
        yield (record.event_id, "plans", service), False


def _services(row: Mapping[str, str]) -> set[str]:
    return set(PLANS[row["plan"]]) if row.get("plan") else set()


def rows(database: Database) -> list[Row]:
    """Read the ledger."""
    return [Row(*row) for row in database.execute(_DELIVERIES)]


def audit(
    report: Report,
    wanted: Mapping[Identity, bool],
    found: list[Row],
    relay: Relay,
    endpoint: Endpoint,
    refused: int,
    cut_off_at: Sequence[float] = (),
) -> None:
    """Hold the ledger against the topic and against what arrived, and report what violates guarantees 2 and 3."""
    report.facts["deliveries, by rule and state"] = dict(Counter(f"{row.rule} {row.state}" for row in found))
    report.facts["mails accepted"] = len(relay.accepted)
    report.facts["calls received"] = len(endpoint.requests)
    report.facts["mails that the relay saw left open"] = len(relay.left_open)
    known = {row.identity for row in found}
    report.violated("not planned", [" ".join(each) for each in wanted if each not in known])
    report.violated("planned without reason", [" ".join(each) for each in known if each not in wanted])
    report.violated("without an end", [_name(row) for row in found if row.state not in _FINAL])
    skipped = [row for row in found if (row.state == "skipped") != wanted.get(row.identity, False)]
    report.violated("skipped, or not, without reason", [_name(row) for row in skipped])
    dead = [row for row in found if row.state == "dead"]
    report.violated("dead without a refusal", [_name(row) for row in dead if not (row.code or "").startswith("550")])
    report.violated("more are dead than were refused", [_name(row) for row in dead[refused:]])
    _audit_mails(report, [row for row in found if row.lane.startswith("mail:")], relay, cut_off_at)
    audit_calls(report, [row for row in found if row.lane.startswith("service:")], endpoint)


def _audit_mails(report: Report, found: list[Row], relay: Relay, cut_off_at: Sequence[float]) -> None:
    """Hold the mails against the ledger. In doubt may be what the relay saw left open, or took just before a kill.

    The answer is recorded while the connection carries the next mail already.
    """
    of = {row.expected_message_id: row for row in found}
    arrived = [(_id(mail.content), mail.at) for mail in relay.accepted]
    count, left_open = Counter(id_ for id_, _ in arrived), Counter(map(_id, relay.left_open))
    left_open.update(id_ for id_, at in arrived if any(0 <= cut - at < _RECORDED_S for cut in cut_off_at))
    report.violated("mails that no delivery explains", [id_ for id_ in count if id_ not in of])
    sent = [row for row in found if row.state == "sent"]
    report.violated("sent and not at the relay", [_name(row) for row in sent if not count[row.expected_message_id]])
    report.violated("sent as another", [_name(row) for row in sent if row.message_id != row.expected_message_id])
    twice = [row for row in found if count[row.expected_message_id] > 1]
    report.violated("mailed twice", [_name(row) for row in twice if row.rule in _LEAVE])
    resent = [row for row in twice if count[row.expected_message_id] - 1 > left_open[row.expected_message_id]]
    report.violated("resent without doubt", [_name(row) for row in resent if row.rule in _RESEND])
    unknown = [row for row in found if row.state == "unknown"]
    report.violated("in doubt though resent", [_name(row) for row in unknown if row.rule in _RESEND])
    report.violated("in doubt without reason", [_name(r) for r in unknown if not left_open[r.expected_message_id]])
    late = [row for id_, at in arrived if (row := of.get(id_)) and at > (row.finished_at or at) + _CLOCKS_S]
    report.violated("mailed after the end was decided", [_name(row) for row in late])
    report.violated("mails out of order", _out_of_order(of[id_] for id_, _ in arrived if id_ in of))


def audit_calls(report: Report, found: list[Row], endpoint: Endpoint) -> None:
    """Hold calls against the ledger. One may come again, and its receiver knows it: only the first counts."""
    of = {identity(*row.identity): row for row in found}
    arrived = list(dict.fromkeys(request.headers["webhook-id"] for request in endpoint.requests))
    report.violated("calls that no delivery explains", [id_ for id_ in arrived if id_ not in of])
    missing = {id_ for id_, row in of.items() if row.state == "sent"} - set(arrived)
    report.violated("called and not at the service", [_name(of[id_]) for id_ in missing])
    report.violated("calls in doubt", [_name(row) for row in found if row.state == "unknown"])
    report.violated("calls out of order", _out_of_order(of[id_] for id_ in arrived if id_ in of))


def _out_of_order(arrived: Iterable[Row]) -> list[str]:
    queues: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in arrived:
        queues[row.lane, row.key].append(row)
    return [
        _name(later)
        for queue in queues.values()
        for earlier, later in pairwise(queue)
        if later.position < earlier.position
    ]


def _id(content: bytes) -> str:
    found = _MESSAGE_ID.search(content)
    return found[1].decode() if found else ""


def _name(row: Row) -> str:
    return f"{row.event_id} {row.lane} {row.state}"
