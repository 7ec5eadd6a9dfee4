"""The sections of the settings file that are about mails: templates, the relay, signed links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urljoin

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, model_validator

from cdc.runtime.fields import Duration, Rate, SettingsPath, Table, parse_duration, parse_rate
from cdc.runtime.sections import SecretFile, Secrets, Section

#: A recipient's domain as it stands in an envelope.
Domain = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*$")]
#: A rate that is none can't be meant.
DomainRate = Annotated[float, BeforeValidator(parse_rate)]


class Templates(Section):
    """Where the templates lie, and where their links may lead besides the sender's domain and [links]."""

    path: Annotated[SettingsPath, Field(validate_default=True)] = Path("templates")
    link_hosts: list[Domain] = Field(default_factory=list)


class Smtp(Section):
    """The mail relay."""

    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: SettingsPath | None = None
    username: str = ""
    password: SecretStr | None = None
    password_file: SecretFile = None
    connections: Annotated[int, Field(ge=1, le=256)] = 8
    rate: Rate = None
    rates: dict[Domain, DomainRate] = Field(default_factory=dict)
    sender: Annotated[str, StringConstraints(min_length=3)]
    envelope_from: str = ""

    @model_validator(mode="after")
    def _plain_only_on_this_machine(self) -> Self:
        if self.security == "none" and not _is_loopback(self.host):
            raise ValueError('security: "none" is for a relay on 127.0.0.1; use "starttls" or "tls"')
        return self


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


_URL = r"^https?://[^\s?#<>\"]+$"


class Links(Section):
    """The signed links in mails."""

    base_url: Annotated[str, StringConstraints(pattern=_URL)]
    secret: Secrets
    secret_file: SecretFile = None
    max_age: Duration = parse_duration("48h")
    unsubscribe_url: Annotated[str, StringConstraints(pattern=f"^$|{_URL}")] = ""
    dsn: SecretStr = SecretStr("")
    dsn_file: SecretFile = None
    table: Table | None = None
    verify_sql: str = ""

    @property
    def unsubscribe_base(self) -> str:
        """Where unsubscribe links lead: beside base_url unless said otherwise."""
        return self.unsubscribe_url or urljoin(self.base_url, "unsubscribe")
