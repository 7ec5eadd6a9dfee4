"""The consumers' commands: consume, check, preview, ledger; those of the operator are in operate.py.

Each imports what it needs when it runs: a mailer holds no HTTP client, a list no Kafka client.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from cdc.runtime.cli import with_settings
from cdc.runtime.errors import ServiceError
from cdc.runtime.lifecycle import Stop
from cdc.runtime.settings import Settings
from consumers.operate import as_json, deliveries, dry_run, since
from consumers.operate_lanes import lanes

__all__ = ["check", "consume", "deliveries", "erase", "lanes", "ledger", "preview"]


@click.command()
@click.argument("name")
@with_settings
def consume(settings: Settings, name: str) -> None:
    """Run one consumer: `mail` takes the rules with mail, `services` those with services, NAME those that name it.

    It reads events from Kafka, plans deliveries in the ledger and performs them, until SIGTERM or SIGINT. Start it
    twice and the two share the work; kill it and no delivery is lost.

    \b
    pgherald consume mail
    pgherald consume services
    pgherald consume crm           rules with consumer = "crm"
    """
    from consumers.process import consume as run

    run(settings, name, Stop().on_signals())


@click.command()
@with_settings
def check(settings: Settings) -> None:
    """Check settings, rules, and every template in every locale against its sample, with no server.

    Ends with 1 when there is a fault.

    \b
    pgherald check
    """
    from consumers.links import look
    from consumers.mail import check as mail

    faults = [*_setup_faults(settings), *mail.check(settings), *look.check(settings)]
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        sys.exit(1)
    click.echo("settings, rules and templates are in order")


def _setup_faults(settings: Settings) -> Iterator[str]:
    """Make what the consumers make at their start; nothing of it opens a connection."""
    from consumers import function
    from consumers.rules import Rules, unknown_names
    from consumers.services.effect import ServiceEffect

    faults = []
    for consumer in sorted({rule.consumer for rule in settings.rules}):
        faults += _fault(lambda consumer=consumer: Rules(settings, consumer))  # type: ignore[misc]
    yield from faults or unknown_names(settings.rules)
    yield from _fault(lambda: ServiceEffect(settings).close())
    yield from _fault(lambda: function.load(settings.rules))


def _fault(make: Callable[[], object]) -> list[str]:
    try:
        make()
    except ServiceError as exc:
        return [str(exc)]
    return []


@click.command()
@click.argument("template")
@click.option("--locale", default="", help="The user's locale; without it the template's default.")
@click.option(
    "--sample", type=click.Path(exists=True, path_type=Path), help="An event; default: the template's sample."
)
@click.option("--open", "in_browser", is_flag=True, help="Show the HTML part in a browser.")
@with_settings
def preview(settings: Settings, **given: Any) -> None:
    """Show what a mail will be: headers, text and HTML, from a sample event. Sends nothing.

    Also the pages behind links, which have no sample.

    \b
    pgherald preview welcome
    pgherald preview verify --locale fr --open
    pgherald preview _pages/ask_verify --open      a page of `pgherald links`
    """
    from consumers.links import look
    from consumers.mail import preview as mail

    if given["template"].startswith(look.PREFIX):
        look.preview(settings, given["template"], given["locale"], given["in_browser"])
    else:
        mail.preview(settings, **given)


@click.group()
def ledger() -> None:
    """Look after the ledger's tables, and see who changed something in them.

    \b
    pgherald ledger history --since 1d
    """


@ledger.command("migrate")
@with_settings
def ledger_migrate(settings: Settings) -> None:
    """Make or update the schema `pgherald`. Consumers do so too when they start, if their role may.

    \b
    pgherald ledger migrate
    """
    from consumers.migrations import migrate

    applied = migrate(settings.ledger_dsn)
    click.echo("\n".join(applied) if applied else "the ledger is up to date")


@ledger.command("history")
@click.option("--since", callback=since, help="2h, 7d, or a time.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@as_json
@with_settings
def ledger_history(settings: Settings, as_json: bool, **given: Any) -> None:
    """List who replayed, cancelled, purged, erased, paused or resumed what, newest first.

    Filters are kept without a value of a row: a key as its hash, `--where` without its literals. One delivery's own
    history is in `pgherald deliveries show`.

    \b
    pgherald ledger history --since 7d
    """
    from consumers import console
    from consumers.operations import Operations

    with closing(Operations(settings.ledger_dsn)) as operations:
        rows = operations.history(**given)
    console.print_json(rows) if as_json else console.print_table(("at", "who", "command", "filter", "count"), rows)


@click.command()
@click.argument("key")
@dry_run
@as_json
@with_settings
def erase(settings: Settings, key: str, is_dry_run: bool, as_json: bool) -> None:
    """Remove what the ledger knows of one user: events, servers' answers, and the KEY itself.

    KEY is the user's Kafka key, as `deliveries list` shows it; a user whose key changed has had several. The rows of
    facts stay under its hash. What is pending is cancelled, a farewell call to a service too: let it end first. Then
    delete the row in the application, and run this once more when its events have passed: they bring the key again.

    \b
    pgherald erase '{"id":"4711"}'
    """
    from consumers import console
    from consumers.erase import Erasure

    with closing(Erasure(settings, console.who())) as erasure:
        found = erasure.look(key) if is_dry_run else erasure.erase(key)
    if not found["deliveries"]:
        click.echo("no delivery has this key: write it as `pgherald deliveries list` shows it", err=True)
    if as_json:
        console.print_json(found)
        return
    verb = "would be erased" if is_dry_run else "erased"
    click.echo(f"{verb}: {found['deliveries']} deliveries ({found['cancelled']} of them cancelled)")
    if not is_dry_run:
        click.echo(f"left the ledger: {found['events']} events; what stays there has the key {found['key']}")
    for what in found["stays"]:
        click.echo(f"stays: {what}")
