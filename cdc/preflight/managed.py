"""Who runs this PostgreSQL, told by its settings and roles, and how one changes a setting there. Pure.

On managed PostgreSQL nobody is a superuser and ALTER SYSTEM is refused: what helps is the provider's own parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Provider:
    """How a provider wants to be asked."""

    name: str
    #: Where its parameters are.
    where: str
    #: What wal_level = logical is called there: parameter and value.
    logical: tuple[str, str]
    #: Lets a role replicate; `{role}` is its name, quoted.
    replication: str = "ALTER ROLE {role} REPLICATION;"


RDS = Provider(
    "Amazon RDS",
    "the DB parameter group (Aurora: the cluster's)",
    ("rds.logical_replication", "1"),
    "GRANT rds_replication TO {role};",
)
CLOUD_SQL = Provider("Google Cloud SQL", "the instance's database flags", ("cloudsql.logical_decoding", "on"))
AZURE = Provider("Azure Database for PostgreSQL", "the server parameters", ("wal_level", "logical"))
#: Azure's older kind: it has a parameter of its own for it.
AZURE_SINGLE = Provider(AZURE.name, AZURE.where, ("azure.replication_support", "LOGICAL"))


@dataclass(frozen=True, slots=True)
class Server:
    """What was found of a server."""

    #: pg_settings: name to setting, in the setting's own unit.
    settings: Mapping[str, str]
    roles: Collection[str] = ()
    provider: Provider | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "provider", _provider(self.settings, self.roles))

    def change(self, name: str, value: str, *, restart: bool = False) -> str:
        """Say how a setting is changed here."""
        if self.provider is None:
            return f"ALTER SYSTEM SET {name} = {value}; " + (
                "then restart PostgreSQL" if restart else "SELECT pg_reload_conf();"
            )
        if name == "wal_level":
            name, value = self.provider.logical
        reboot = ", then restart the instance" if restart else ""
        return f"{self.provider.name}: set {name} = {value} in {self.provider.where}{reboot}"

    def allow_replication(self, role: str) -> str:
        """Give the statement that lets a role (quoted) read slots."""
        return (self.provider.replication if self.provider else "ALTER ROLE {role} REPLICATION;").format(role=role)


def _provider(settings: Mapping[str, str], roles: Collection[str]) -> Provider | None:
    prefixes = {name.partition(".")[0] for name in settings if "." in name}
    if "rds" in prefixes or "rds_superuser" in roles:
        return RDS
    if "cloudsql" in prefixes or "cloudsqlsuperuser" in roles:
        return CLOUD_SQL
    if "azure.replication_support" in settings:
        return AZURE_SINGLE
    return AZURE if "azure" in prefixes or "azure_pg_admin" in roles else None
