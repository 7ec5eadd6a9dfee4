"""What the consumers add to `pgherald preflight` and `pgherald status`: ledger, relay, groups, lanes, deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from cdc.contract.topics import group_id
from cdc.runtime import kafka, postgres
from cdc.runtime.errors import ServiceError
from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings
from consumers.operations import Operations
from consumers.planning import UNDECODABLE

_LEDGER = """
    SELECT to_regnamespace('pgherald') IS NOT NULL, to_regclass('pgherald.delivery') IS NOT NULL,
           has_database_privilege(current_database(), 'CREATE'), quote_ident(current_user),
           quote_ident(current_database())
"""


def ledger(settings: Settings) -> Iterator[Finding]:
    """Look at the database of the ledger."""
    if not settings.rules:
        return
    dsn = settings.ledger_dsn
    connection = postgres.connect(dsn, application_name="pgherald preflight")
    with closing(connection), postgres.errors(), closing(connection.cursor()) as cursor:
        cursor.execute(_LEDGER)
        schema, tables, may_create, role, database = cursor.fetchone() or (False, False, False, "", "")
    if tables:
        yield Finding("ok", "the ledger is there")
    elif schema or may_create:
        yield Finding("ok", "the ledger's tables are made at the first start of a consumer")
    else:
        remedy = f"CREATE SCHEMA pgherald AUTHORIZATION {role}; or GRANT CREATE ON DATABASE {database} TO {role};"
        yield Finding("fault", f"the role {role} may not make the ledger", "deliveries are kept there", remedy)
    yield from _orphans(settings) if tables else ()
    if not settings.ledger.dsn.get_secret_value():
        why = "every delivery's WAL passes the slot too, and is filtered there"
        yield Finding("warning", "the ledger shares the source's database", why, "set ledger.dsn to another database")


def _orphans(settings: Settings) -> Iterator[Finding]:
    """Look for unfinished deliveries that no consumer of these settings takes."""
    known = {(rule.consumer, rule.name) for rule in settings.rules} | {
        (rule.consumer, UNDECODABLE) for rule in settings.rules
    }
    for row in Operations(settings.ledger_dsn).states():
        if row["state"] in ("pending", "claimed", "sending") and (row["consumer"], row["rule"]) not in known:
            what = f"{row['count']} deliveries are {row['state']} of {row['rule']}, which {row['consumer']} has not"
            remedy = f"put the rule back, or pgherald deliveries cancel --rule '{row['rule']}'"
            yield Finding("warning", what, "no consumer takes them", remedy)


def relay(settings: Settings) -> Iterator[Finding]:
    """Look at the mail relay: connect, TLS, login."""
    if settings.smtp is None:
        return
    from consumers.mail.transport import probe

    try:
        probe(settings.smtp)
    except ServiceError as exc:
        yield Finding("fault", exc.message, "mails wait until it answers", exc.hint or "check [smtp]")
    else:
        yield Finding("ok", f"the relay {settings.smtp.host}:{settings.smtp.port} answers ({settings.smtp.security})")


def groups(settings: Settings) -> list[dict[str, Any]]:
    """Tell how far each consumer's group is behind."""
    consumers = sorted({rule.consumer for rule in settings.rules})
    found = []
    for consumer in consumers:
        name = group_id(settings.source.name, consumer)
        found.append({"group": name, **kafka.group_lag(settings.kafka, name)})
    return found


def lanes(settings: Settings) -> list[dict[str, Any]]:
    """List the lanes that have work or were paused."""
    with closing(Operations(settings.ledger_dsn)) as operations:
        return operations.lanes()


def deliveries(settings: Settings) -> list[dict[str, Any]]:
    """Count deliveries by consumer, rule and state."""
    with closing(Operations(settings.ledger_dsn)) as operations:
        return operations.states()
