"""From an event to planned deliveries, by the rules of the settings; the names that rules and templates see. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cdc.contract.envelope import RECOVERY, UNAVAILABLE, Envelope, Row
from cdc.runtime.errors import ConfigInvalid, EnvelopeInvalid, PermanentError, TemplateInvalid
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Rule, User
from cdc.runtime.settings import Settings
from consumers import branches
from consumers.delivery import Delivery, Planned
from consumers.events import Event, changed, committed_at, kind_of
from consumers.outcome import SkipDelivery, skipped
from consumers.services import plans

_key = msgspec.json.Decoder(dict[str, Any])

Names = Mapping[str, Any]
Predicate = Callable[[Names], bool]


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """`event` in an expression or a template."""

    id: str
    op: str
    kind: str | None
    table: str
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class SeenUser:
    """`user` in an expression or a template: the row as settings read it."""

    key: str | None
    email: str | None
    name: str | None
    locale: str | None
    plan: str | None


def names(envelope: Envelope, user: User, event_id: str = "", key: str | None = None) -> dict[str, object]:
    """Build what templates and `when` see: event, before, after, user, changed.

    `changed` maps each changed column to its previous value. Raises EnvelopeInvalid when the event has no proper time.
    """
    row = _row(envelope)
    table = f"{envelope.source.schema}.{envelope.source.table}"
    kind = kind_of(envelope, event_id)
    return {
        "event": SeenEvent(event_id, envelope.op, kind, table, committed_at(envelope)),
        "before": envelope.before,
        "after": envelope.after,
        "user": _user(row, user, key),
        "changed": changed(envelope),
    }


def _user(row: Row, user: User, key: str | None) -> SeenUser:
    return SeenUser(key, *(_text(row, column) for column in (user.email, user.name, user.locale, user.plan)))


class Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which nothing undefined passes and a column called `items` or `keys` is a column."""

    def __init__(self, **options: Any) -> None:
        super().__init__(undefined=StrictUndefined, **options)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Read a row's column before a method of its mapping, and our own fields without asking what they may do."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, SeenEvent | SeenUser) and attribute in obj.__slots__:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


class Rules:
    """The rules of one consumer. Raises ConfigInvalid with every expression that does not compile."""

    def __init__(self, settings: Settings, consumer: str) -> None:
        self.by_name = {rule.name: rule for rule in settings.rules_of(consumer)}
        self.tables = {settings.table_of(rule) for rule in self.by_name.values()}
        self._settings = settings
        self._holds, self._stays = _compile(self.by_name.values())

    def plan(self, event: Event, now: datetime) -> list[Planned]:
        """Say what is to be done about an event: nothing, or deliveries, some of them finished with a reason."""
        source = event.envelope.source
        table = TableName(source.schema, source.table)
        rules = [rule for rule in self.by_name.values() if self._settings.table_of(rule) == table]
        if not rules:
            return []
        seen = names(event.envelope, self._settings.user, event.id, event.key)
        return [planned for rule in rules for planned in self._plan(rule, event, seen, now)]

    def _plan(self, rule: Rule, event: Event, seen: Names, now: datetime) -> list[Planned]:
        targets = [_target(rule)]
        try:
            if not _matches(rule, event, self._settings.user):
                return []
            targets = self._targets(rule, event)
            reason = self._skip(rule, event, seen, now)
        except PermanentError:
            # It fails again at the last look, where what fails so for everyone stops the lane instead of filling the
            # ledger with dead letters; and a replay looks by the rule as it is then.
            reason = ""
        if reason:
            return [Planned(rule.name, target, lane, "skipped", skipped(reason)) for target, lane in targets]
        return [Planned(rule.name, target, lane) for target, lane in targets]

    def _targets(self, rule: Rule, event: Event) -> list[tuple[str, str]]:
        """List (target, lane): the template, or each service that the plan or its change concerns."""
        if not rule.services:
            return [_target(rule)]
        previous, current = plans.of_envelope(event.envelope, self._settings.user.plan)
        kind = "created" if event.kind == "snapshot" else event.kind
        calls = plans.calls(kind, previous, current, self._settings.plans)
        return [(service, f"service:{service}") for service, _ in calls]

    def _skip(self, rule: Rule, event: Event, seen: Names, now: datetime) -> str:
        """Give the reason why nothing is to be done after all, or nothing."""
        if not event.notify:
            return "notify_off"
        # A snapshot row's event has no age: a rule that asks for the rows that were there wants them all.
        if rule.oldest is not None and event.kind != "snapshot" and now - event.committed_at > rule.oldest:
            return "too_old"
        if rule.mail and not (seen["user"].email or "").strip():
            return "no_address"
        if rule.name in self._holds and not self._holds[rule.name](seen):
            return "when"
        return ""

    def look(self, delivery: Delivery) -> None:
        """Look at a delivery once more before its effect. Raises SkipDelivery, or why its rule can't decide."""
        rule = self.by_name[delivery.rule]
        _require_old_row(rule, self._settings.user, delivery.envelope, delivery.key)
        if rule.name in self._holds and not self._holds[rule.name](self._names(delivery)):
            raise SkipDelivery("when")

    def rereads(self, delivery: Delivery) -> bool:
        """Tell whether the rule wants the row as it is now."""
        return delivery.rule in self._stays

    def look_again(self, delivery: Delivery, row: Row | None) -> None:
        """Look at the user as the row is now; None: it is gone. Raises SkipDelivery, TemplateInvalid.

        The expression sees that row as `row` and `after` and in `user`; `was` is the user at the time of the event.
        """
        if row is None:
            raise SkipDelivery("gone")
        seen = self._names(delivery)
        now = {"user": _user(row, self._settings.user, delivery.key), "after": row, "row": row, "was": seen["user"]}
        if not self._stays[delivery.rule]({**seen, **now}):
            raise SkipDelivery("still")

    def _names(self, delivery: Delivery) -> Names:
        return names(delivery.envelope, self._settings.user, delivery.event_id, delivery.key)


def _target(rule: Rule) -> tuple[str, str]:
    if target := rule.mail or rule.target:
        return target, f"{rule.kind}:{rule.name}"
    # Which services can't be told (yet). In brackets: no service has such a name, and no replay takes it for one.
    return f"({rule.services})", f"service:({rule.services})"


def _matches(rule: Rule, event: Event, user: User) -> bool:
    """Tell whether the rule names what happened. Raises EnvelopeInvalid when only the old row could tell."""
    if event.kind == "snapshot":
        # After a lost slot every row comes once more, under another id: it is `recover` that knows who lacks what.
        return rule.include_snapshot and "created" in rule.on and event.envelope.source.snapshot != RECOVERY
    if event.kind != "changed" and event.kind not in rule.on:
        return False
    _require_old_row(rule, user, event.envelope, event.key)
    return event.kind != "changed" or not changed(event.envelope).keys().isdisjoint(_watched(rule))


def _watched(rule: Rule) -> list[str]:
    return [kind.removeprefix("changed:") for kind in rule.on if kind.startswith("changed:")]


def _require_old_row(rule: Rule, user: User, envelope: Envelope, key: str | None) -> None:
    """Raise EnvelopeInvalid when the rule needs what a row was, and it is not there."""
    what = ""
    if envelope.op == "u" and (unknown := _unknown(_watched(rule), envelope, key)):
        what = f"whether {', '.join(unknown)} changed"
    elif envelope.op == "d" and "deleted" in rule.needs_old_row(_columns_of(key), user) and _is_bare(envelope, key):
        what = "who was deleted"
    if what:
        table = TableName(envelope.source.schema, envelope.source.table).sql()
        raise EnvelopeInvalid(
            f"{what} can't be told without the old row", hint=f"ALTER TABLE {table} REPLICA IDENTITY FULL"
        )


def _unknown(watched: Sequence[str], envelope: Envelope, key: str | None) -> list[str]:
    """List the columns whose old values are not there. A key's are: another key is another event."""
    before, after = envelope.before or {}, envelope.after or {}
    unknown = [column for column in watched if column in after and column not in before]
    return [column for column in unknown if column not in _columns_of(key)] if unknown else []


def _is_bare(envelope: Envelope, key: str | None) -> bool:
    """Tell whether nothing but the key may be left of a deleted row: all other columns are null then."""
    if envelope.old_row_whole:
        return False
    columns = _columns_of(key)
    rest = [value for column, value in (envelope.before or {}).items() if column not in columns]
    return bool(rest) and all(value is None for value in rest)


def _columns_of(key: str | None) -> Collection[str]:
    try:
        return _key.decode(key.encode()) if key else ()
    except msgspec.MsgspecError:
        return ()


def _compile(rules: Iterable[Rule]) -> tuple[dict[str, Predicate], dict[str, Predicate]]:
    """Compile `when` and `still` of the rules that have them, by the rule's name."""
    environment, faults = Environment(), []
    found: dict[str, dict[str, Predicate]] = {"when": {}, "still": {}}
    for rule, part in ((rule, part) for rule in rules for part in found):
        if text := str(getattr(rule, part)):
            try:
                # With its default, undefined_to_none, an undefined name would pass as false.
                expression = environment.compile_expression(text, undefined_to_none=False)
                found[part][rule.name] = _predicate(f"rules.{rule.name}.{part}", text, expression)
            except TemplateSyntaxError as exc:
                faults.append(f"  rules.{rule.name}.{part}: {exc.message}")
    if faults:
        raise ConfigInvalid("\n".join(["settings do not fit:", *faults]))
    return found["when"], found["still"]


def unknown_names(rules: Iterable[Rule]) -> Iterator[str]:
    """Find what `when` and `still` name and nobody gives them: the lane would stop at the first user."""
    user, environment = SeenUser.__slots__, Environment()
    known: branches.Known = {"event": SeenEvent.__slots__, "user": user, "before": None, "after": None, "changed": None}
    for rule in rules:
        for fault in branches.of_expression(environment, rule.when, known):
            yield f"rules.{rule.name}.when: {fault}"
        for fault in branches.of_expression(environment, rule.still, {**known, "row": None, "was": user}):
            yield f"rules.{rule.name}.still: {fault}"


def _predicate(setting: str, text: str, expression: Callable[..., object]) -> Predicate:
    def holds(seen: Names) -> bool:
        try:
            return bool(expression(**seen))
        except Exception as exc:
            # Never the error's text: `after[user.name]` puts a value there. The expression says enough.
            raise TemplateInvalid(f"{setting} does not evaluate: {type(exc).__name__} in {text}") from exc

    return holds


def _row(envelope: Envelope) -> Row:
    """Give the row as it is now, or as it was before it was deleted."""
    if envelope.after is None:
        return envelope.before or {}
    before = envelope.before or {}
    return {column: before.get(column) if value == UNAVAILABLE else value for column, value in envelope.after.items()}


def _text(row: Row, column: str) -> str | None:
    value = row.get(column) if column else None
    return None if value is None or value == UNAVAILABLE else str(value)
