"""The settings of a deployment: `pgherald.toml`, overridden by `PGHERALD_SECTION__KEY` in the environment.

Unknown keys are faults, and all faults are reported at once, each with its key. One file serves every process.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cdc.contract.topics import message_topic, positions_topic, table_topic
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.fields import TableName, settings_folder
from cdc.runtime.sections import (
    Consume,
    Kafka,
    Ledger,
    Metrics,
    Name,
    Rule,
    Service,
    Source,
    User,
)
from cdc.runtime.sections_mail import Links, Smtp, Templates

#: Names without a double underscore (PGHERALD_CONFIG, PGHERALD_LOG) are not settings.
_PREFIX = "PGHERALD_"


class Settings(BaseModel):
    """Everything a deployment says. `load` reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    source: Source
    kafka: Kafka
    ledger: Ledger = Ledger()
    consume: Consume = Consume()
    templates: Templates = Field(default_factory=Templates)
    metrics: Metrics = Metrics()
    user: User = User()
    smtp: Smtp | None = None
    links: Links | None = None
    rules: list[Rule] = []
    plans: dict[str, list[Name]] = {}
    services: dict[Name, Service] = {}

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        if faults := [*_rule_faults(self), *_topic_faults(self)]:
            raise ValueError("\n".join(faults))
        return self

    def table_of(self, rule: Rule) -> TableName:
        """Name the table whose events a rule sees: its own, else the first captured one."""
        return rule.table or self.source.tables[0].name

    def rules_of(self, consumer: str) -> list[Rule]:
        """List the rules that a consumer runs."""
        return [rule for rule in self.rules if rule.consumer == consumer]

    @property
    def ledger_dsn(self) -> str:
        """The DSN of the ledger's database."""
        return self.ledger.dsn.get_secret_value() or self.source.dsn.get_secret_value()

    @property
    def transactional_id(self) -> str:
        """The reader's transactional id: one a slot."""
        return self.kafka.transactional_id or f"{self.source.name}.{self.source.slot}"


def _rule_faults(settings: Settings) -> Iterator[str]:
    captured = [table.name for table in settings.source.tables]
    names = [rule.name for rule in settings.rules]
    for rule in settings.rules:
        if names.count(rule.name) > 1:
            yield f"rules: the name {rule.name} stands twice"
        if settings.table_of(rule) not in captured:
            yield f"rules.{rule.name}.table: {rule.table} is not among source.tables"
        if rule.mail and settings.smtp is None:
            yield f"smtp: the rule {rule.name} sends mail, so smtp.host and smtp.sender are needed"
        if rule.topic in _own_topics(settings):
            yield f"rules.{rule.name}.target: {rule.topic} is a topic of pgherald's own"
        if not rule.essential and settings.links is None:
            yield f"links: the rule {rule.name} is not essential, so its mails need a link to unsubscribe"
        if rule.services and not settings.plans:
            yield f"plans: the rule {rule.name} calls the services of a plan, so [plans] is needed"
        if rule.services and not settings.user.plan:
            yield f"user.plan: the rule {rule.name} needs the column that holds the plan"
    for plan, services in settings.plans.items():
        for missing in sorted(set(services) - set(settings.services)):
            yield f"plans.{plan}: there is no [services.{missing}]"


def _own_topics(settings: Settings) -> list[str]:
    name = settings.source.name
    tables = [table_topic(name, *table.name) for table in settings.source.tables]
    return [*tables, message_topic(name), positions_topic(name)]


def _topic_faults(settings: Settings) -> Iterator[str]:
    """Kafka's names have fewer characters than PostgreSQL's: rows of two tables must not look like those of one."""
    topics = _own_topics(settings)
    for table, topic in zip(settings.source.tables, topics, strict=False):
        if topics.count(topic) > 1:
            yield f"source.tables: the topic of {table.name.sql()} would be {topic}, which is another one's already"


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings file and the environment. Raises ConfigInvalid with every fault, one a line."""
    try:
        given = tomllib.loads(path.read_text())
    except OSError as exc:
        hint = "Name the file with --config FILE or PGHERALD_CONFIG; deploy/pgherald.example.toml is a start"
        raise ConfigInvalid(f"can't read the settings in {path}: {exc.strerror}", hint=hint) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigInvalid(f"{path} is not TOML: {exc}") from exc
    folder = settings_folder.set(path.resolve().parent)
    try:
        return Settings(**_overridden(given, environment))
    except ValidationError as exc:
        raise ConfigInvalid("\n".join([f"{path} does not fit:", *_fault_lines(exc)])) from None
    finally:
        settings_folder.reset(folder)


def _overridden(given: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Lay `PGHERALD_SECTION__KEY` over what the file says; lists and tables are written as JSON."""
    for name, value in environment.items():
        if not name.startswith(_PREFIX) or "__" not in name:
            continue
        *sections, key = name.removeprefix(_PREFIX).lower().split("__")
        place = given
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = _from_json(name, value) if value[:1] in ("[", "{") else value
    return given


def _from_json(name: str, value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.MsgspecError as exc:
        raise ConfigInvalid(f"{name} looks like JSON but is not") from exc


def _fault_lines(exc: ValidationError) -> Iterator[str]:
    """Write each fault as `key: what is wrong`; the given value is left out, it may be a secret."""
    for fault in exc.errors(include_url=False, include_context=False, include_input=False):
        key = ".".join(str(part) for part in fault["loc"])
        for line in fault["msg"].removeprefix("Value error, ").splitlines():
            yield f"  {key}: {line}" if key else f"  {line}"
