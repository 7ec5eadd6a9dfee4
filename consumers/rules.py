"""From an event to planned deliveries, by the rules of the settings; the names that rules and templates see. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cdc.contract.envelope import UNAVAILABLE, Envelope, Row
from cdc.runtime.errors import ConfigInvalid, EnvelopeInvalid, PermanentError, TemplateInvalid
from cdc.runtime.fields import TableName
from cdc.runtime.sections import Rule, User
from cdc.runtime.settings import Settings
from consumers.delivery import Planned
from consumers.events import Event, changed, committed_at, kind_of
from consumers.outcome import describe, skipped
from consumers.services import plans

Names = Mapping[str, Any]


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
        "user": SeenUser(key, *(_text(row, column) for column in (user.email, user.name, user.locale, user.plan))),
        "changed": changed(envelope),
    }


class Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which nothing undefined passes and a column called `items` or `keys` is a column."""

    def __init__(self, **options: Any) -> None:
        super().__init__(undefined=StrictUndefined, **options)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Read a row's column before a method of its mapping."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


class Rules:
    """The rules of one consumer. Raises ConfigInvalid with every `when` that does not compile."""

    def __init__(self, settings: Settings, consumer: str) -> None:
        self.by_name = {rule.name: rule for rule in settings.rules_of(consumer)}
        self.tables = {settings.table_of(rule) for rule in self.by_name.values()}
        self._settings = settings
        self._holds = _compile(self.by_name.values())

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
            if not _matches(rule, event):
                return []
            targets = self._targets(rule, event)
            reason = self._skip(rule, event, seen, now)
        except PermanentError as exc:
            return [Planned(rule.name, target, lane, "dead", describe(exc)) for target, lane in targets]
        if reason:
            return [Planned(rule.name, target, lane, "skipped", skipped(reason)) for target, lane in targets]
        return [Planned(rule.name, target, lane) for target, lane in targets]

    def _targets(self, rule: Rule, event: Event) -> list[tuple[str, str]]:
        """List (target, lane): the template, or each service that the plan or its change concerns."""
        if rule.mail:
            return [_target(rule)]
        previous, current = plans.of_envelope(event.envelope, self._settings.user.plan)
        kind = "created" if event.kind == "snapshot" else event.kind
        calls = plans.calls(kind, previous, current, self._settings.plans)
        return [(service, f"service:{service}") for service, _ in calls]

    def _skip(self, rule: Rule, event: Event, seen: Names, now: datetime) -> str:
        """Give the reason why nothing is to be done after all, or nothing."""
        if not event.notify:
            return "notify_off"
        if rule.oldest is not None and now - event.committed_at > rule.oldest:
            return "too_old"
        if rule.mail and not (seen["user"].email or "").strip():
            return "no_address"
        if rule.name in self._holds and not self._holds[rule.name](seen):
            return "when"
        return ""


def _target(rule: Rule) -> tuple[str, str]:
    if rule.mail:
        return rule.mail, f"mail:{rule.name}"
    # Which services can't be told (yet). In brackets: no service has such a name, and no replay takes it for one.
    return f"({rule.services})", f"service:({rule.services})"


def _matches(rule: Rule, event: Event) -> bool:
    """Tell whether the rule names what happened. Raises EnvelopeInvalid when only the old row could tell."""
    if event.kind == "snapshot":
        return rule.include_snapshot and "created" in rule.on
    if event.kind != "changed":
        return event.kind in rule.on
    watched = [kind.removeprefix("changed:") for kind in rule.on if kind.startswith("changed:")]
    if event.envelope.op == "u":
        _require_old_row(event.envelope, watched)
    return not changed(event.envelope).keys().isdisjoint(watched)


def _require_old_row(envelope: Envelope, watched: Sequence[str]) -> None:
    before, after = envelope.before or {}, envelope.after or {}
    if unknown := [column for column in watched if column in after and column not in before]:
        table = TableName(envelope.source.schema, envelope.source.table).sql()
        message = f"whether {', '.join(unknown)} changed can't be told without the old row"
        raise EnvelopeInvalid(message, hint=f"ALTER TABLE {table} REPLICA IDENTITY FULL")


def _compile(rules: Iterable[Rule]) -> dict[str, Callable[[Names], bool]]:
    environment = Environment()
    holds, faults = {}, []
    for rule in rules:
        if rule.when:
            try:
                # With its default, undefined_to_none, an undefined name would pass as false.
                expression = environment.compile_expression(rule.when, undefined_to_none=False)
                holds[rule.name] = _predicate(rule, expression)
            except TemplateSyntaxError as exc:
                faults.append(f"  rules.{rule.name}.when: {exc.message}")
    if faults:
        raise ConfigInvalid("\n".join(["settings do not fit:", *faults]))
    return holds


def _predicate(rule: Rule, expression: Callable[..., object]) -> Callable[[Names], bool]:
    def holds(seen: Names) -> bool:
        try:
            return bool(expression(**seen))
        except Exception as exc:
            # Never the error's text: `after[user.name]` puts a value there. The expression says enough.
            reason = f"rules.{rule.name}.when does not evaluate: {type(exc).__name__} in {rule.when}"
            raise TemplateInvalid(reason) from exc

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
