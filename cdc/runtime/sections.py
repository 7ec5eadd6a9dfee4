"""The sections of the settings file, each with its own bounds. Secrets also come from files (`KEY_file`)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from cdc.runtime.fields import Duration, Rate, SettingsPath, Table, parse_duration, settings_folder

#: Names that stand in topics, groups, event ids and lanes: nothing there needs quoting or parsing apart.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
#: A Kafka topic, or a function as Python's entry points write it. `topic` is therefore no name of a module.
_TARGET = re.compile(r"topic:[A-Za-z0-9._-]{1,249}|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_TOPIC = "topic:"
_EVENT_KIND = re.compile(r"created|deleted|changed:.+")
#: What an expression reads of the old row, and of the user.
_OLD_COLUMN = re.compile(r"""\bbefore(?:\.|\[['"])(\w+)""")
_USER_FIELD = re.compile(r"\buser\.(email|name|locale|plan)\b")


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


#: One secret or several, newest first: all are accepted, the first one signs.
Secrets = Annotated[list[SecretStr], BeforeValidator(_as_list), Field(min_length=1)]
#: The path of one secret, or of several.
SecretFile = SettingsPath | list[SettingsPath] | None


class Section(BaseModel):
    """A table of the settings file. Reads `KEY_file` into `KEY`, so that no secret need stand in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return dict(_with_secrets(cls, given))


def _with_secrets(section: type[Section], given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        yield key, value
        target = key.removesuffix("_file")
        field = section.model_fields.get(target)
        if target == key or field is None or not value:
            continue
        if given.get(target):
            raise ValueError(f"{target} and {key} exclude each other: keep one")
        yield target, _read_secret(value)


def _read_secret(value: Any) -> Any:
    """Read one secret a file; a list of files gives a list, newest first (key rotation)."""
    if isinstance(value, list):
        return [_read_secret(item) for item in value]
    path = settings_folder.get() / Path(value).expanduser()
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"can't read the secret in {path}: {type(exc).__name__}") from exc


class SourceTable(Section):
    """One captured table, and which of its columns leave the reader."""

    name: Table
    exclude: list[str] = []
    allow: list[str] = []
    hash: list[str] = []
    mask: list[str] = []


class Source(Section):
    """The PostgreSQL database that is read."""

    name: Name
    dsn: SecretStr
    dsn_file: SecretFile = None
    slot: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")] = "pgherald"
    snapshot: Literal["initial", "never"] = "initial"
    hash_key: SecretStr | None = None
    hash_key_file: SecretFile = None
    #: Changes that were written under one of these replication origins are left out.
    skip_origins: list[Annotated[str, StringConstraints(min_length=1)]] = []
    tables: Annotated[list[SourceTable], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_tables(self) -> Self:
        names = [table.name for table in self.tables]
        for twice in {str(name) for name in names if names.count(name) > 1}:
            raise ValueError(f"tables: {twice} stands twice")
        if self.hash_key is None and any(table.hash for table in self.tables):
            raise ValueError("hash_key_file: columns under hash need a key")
        return self


class Kafka(Section):
    """The Kafka cluster."""

    bootstrap_servers: Annotated[str, StringConstraints(min_length=3)]
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str = ""
    sasl_password: SecretStr | None = None
    sasl_password_file: SecretFile = None
    ssl_ca_file: SettingsPath | None = None
    ssl_certificate_file: SettingsPath | None = None
    ssl_key_file: SettingsPath | None = None
    partitions: Annotated[int, Field(ge=1, le=1000)] = 6
    replication_factor: Annotated[int, Field(ge=1, le=15)] = 1
    create_topics: bool = True
    retention: Duration = parse_duration("7d")
    transactional_id: str = ""


class Ledger(Section):
    """Where deliveries are kept; an empty dsn means the source's database."""

    dsn: SecretStr = SecretStr("")
    dsn_file: SecretFile = None
    retention_days: Annotated[int, Field(ge=1)] = 30


class Consume(Section):
    """How consumers take work."""

    max_backlog: Annotated[int, Field(ge=1)] = 1_000_000
    #: A final dot needs 5 s of it, and it is renewed every quarter.
    lease: Annotated[Duration, Field(ge=timedelta(seconds=8))] = parse_duration("60s")


class Metrics(Section):
    """Where /metrics, /live and /ready are served; empty: nowhere."""

    listen: Annotated[str, StringConstraints(pattern=r"^$|^.+:\d{1,5}$")] = ""


class User(Section):
    """How a row is read as a user: the names of its columns, or empty."""

    email: str = "email"
    name: str = ""
    locale: str = ""
    plan: str = ""


class Rule(Section):
    """On this event, when this holds, do that: one mail, the calls of a plan's services, or a target of the user's."""

    name: Name
    table: Table | None = None
    on: Annotated[list[str], BeforeValidator(_as_list)]
    when: str = ""
    still: str = ""
    mail: Name | None = None
    services: Literal["plans"] | None = None
    target: str | None = None
    consumer: Name
    max_age: Duration | None = None
    in_doubt: Literal["leave", "resend"] = "leave"
    essential: bool = True
    attempts: Annotated[int, Field(ge=1)] = 12
    give_up: Duration = parse_duration("3d")
    backoff_first: Duration = parse_duration("5s")
    backoff_max: Duration = parse_duration("1h")
    include_snapshot: bool = False

    @model_validator(mode="before")
    @classmethod
    def _choose_consumer(cls, given: Any) -> Any:
        """Name the consumer that a rule belongs to if it does not say so."""
        if isinstance(given, dict) and "consumer" not in given:
            if given.get("target"):
                raise ValueError("consumer: a rule with target names its own, which `pgherald consume NAME` runs")
            return given | {"consumer": "mail" if given.get("mail") else "services"}
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        for kind in self.on:
            if not _EVENT_KIND.fullmatch(kind):
                raise ValueError(f"on: {kind!r} is none of created, deleted, changed:COLUMN")
        if not self.on:
            raise ValueError("on: names no event")
        if self.still and "deleted" in self.on:
            raise ValueError("still: a deleted row can't be read again; make a rule of its own for deleted")
        if [self.mail, self.services, self.target].count(None) != 2:
            raise ValueError('say what to do: mail = "TEMPLATE", services = "plans" or target = "..."')
        if self.target and not _TARGET.fullmatch(self.target):
            raise ValueError('target: write "package.module:function" or "topic:NAME"')
        if self.services and self.consumer != "services":
            raise ValueError("consumer: rules with services belong to the consumer services")
        if not self.essential and self.mail is None:
            raise ValueError("essential: it is about mails, which one may unsubscribe from unless they are essential")
        return self

    @property
    def oldest(self) -> timedelta | None:
        """How old an event may be when it is planned: a mail's is a day unless the rule says otherwise."""
        return self.max_age or (parse_duration("24h") if self.mail else None)

    def needs_old_row(self, key: Collection[str], user: User) -> list[str]:
        """List the kinds of `on` for which the old row must be in the WAL, of a table with this key.

        A changed key tells its old one whatever is logged. What else a deleted row held, the old row alone tells: the
        address, the plan, what `when` asks for.
        """
        watched = [kind for kind in self.on if kind.startswith("changed:") and kind.removeprefix("changed:") not in key]
        if "deleted" in self.on and (self.services or not self._columns_of_the_deleted(user) <= set(key)):
            watched.append("deleted")
        return watched

    def _columns_of_the_deleted(self, user: User) -> set[str]:
        fields = [*_USER_FIELD.findall(self.when), *(["email"] if self.mail else [])]
        return {*_OLD_COLUMN.findall(self.when), *filter(None, (getattr(user, field) for field in fields))}

    @property
    def kind(self) -> Literal["mail", "service", "function", "topic"]:
        """What the rule does; its lanes' names begin with it."""
        if self.target:
            return "topic" if self.topic else "function"
        return "mail" if self.mail else "service"

    @property
    def topic(self) -> str:
        """The Kafka topic that the rule writes to, or nothing."""
        return self.target.removeprefix(_TOPIC) if self.target and self.target.startswith(_TOPIC) else ""


class Service(Section):
    """A dependent service that is called."""

    url: str
    secret: Secrets
    secret_file: SecretFile = None
    allow_private: bool = False
    ca_file: SettingsPath | None = None
    timeout: Duration = parse_duration("15s")
    rate: Rate = None
    connections: Annotated[int, Field(ge=1, le=256)] = 4

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        url = urlsplit(self.url)
        if url.scheme not in ("https", "http") or not url.hostname or url.username:
            raise ValueError("url: an https address without a user in it")
        if url.scheme == "http" and not self.allow_private:
            raise ValueError("url: plain http only with allow_private = true")
        return self
