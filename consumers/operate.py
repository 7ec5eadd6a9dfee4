"""The operator's commands: deliveries, lanes.

Lists show identities, states and keys; what else a row held is shown by `deliveries show` alone.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from cdc.runtime.cli import with_settings
from cdc.runtime.fields import parse_duration, parse_rate
from cdc.runtime.settings import Settings
from consumers.operations import Filter, Operations, Row

_STATES = ("pending", "claimed", "sending", "sent", "skipped", "unknown", "dead", "cancelled")
_LIST = ("id", "state", "rule", "target", "key", "attempt", "created_at", "reason")
_LANES = ("lane", "paused", "unfinished", "oldest", "failures", "paused_until", "paused_by", "reason")


def _since(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise click.BadParameter("write how long ago (2h, 7d) or when (2026-11-23T08:00)") from None


def _rate(_context: click.Context, _option: click.Parameter, text: str) -> float | None:
    try:
        return parse_rate(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose deliveries."""
    options = [
        click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="One or more states."),
        click.option("--rule", help="A rule's name."),
        click.option("--lane", help="mail:RULE or service:NAME."),
        click.option("--key", help="A user's Kafka key, as the list shows it."),
        click.option("--since", callback=_since, help="Planned since: 2h, 7d, or a time."),
        click.option("--where", default="true", help="SQL over the columns of delivery and event."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would happen.")


@click.group()
def deliveries() -> None:
    """See what was sent, what waits and what failed and why; replay or cancel it."""


@deliveries.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1), help="Default: 50, or all with --json.")
@_json
@with_settings
def list_deliveries(settings: Settings, limit: int | None, as_json: bool, **given: Any) -> None:
    """List deliveries, newest first.

    \b
    pgherald deliveries list --state dead --since 1d
    pgherald deliveries list --rule welcome --where "envelope->'after'->>'plan' = 'pro'" --json
    """
    rows = Operations(settings.ledger_dsn).find(_wanted(given), limit or (None if as_json else 50))
    if as_json:
        _print_json(rows)
    else:
        _print_table(_LIST, [row | {"reason": (row["error"] or {}).get("reason")} for row in rows])


@deliveries.command("show")
@click.argument("delivery_id", metavar="ID", type=int)
@_json
@with_settings
def show(settings: Settings, delivery_id: int, as_json: bool) -> None:
    """Show one delivery and its event, with the row's values."""
    row = Operations(settings.ledger_dsn).show(delivery_id)
    if row is None:
        raise click.ClickException(f"there is no delivery {delivery_id}")
    if as_json:
        _print_json(row)
        return
    for name, value in row.items():
        if value is not None:
            click.echo(f"{name + ':':16}{_text(value)}")


@deliveries.command("replay")
@click.argument("ids", type=int, nargs=-1)
@_filters
@click.option("--rate", default="", callback=_rate, help='At most so many become due, e.g. "10/s".')
@_dry_run
@with_settings
def replay(settings: Settings, ids: Sequence[int], rate: float | None, dry_run: bool, **given: Any) -> None:
    """Make deliveries pending again, all attempts anew. Dead and unknown ones, unless --state says otherwise.

    A replay runs out of order: later events of the same user may have been delivered meanwhile. A mail that was sent is
    sent again, with the same Message-ID.

    \b
    pgherald deliveries replay 4711
    pgherald deliveries replay --rule welcome --since 1d --dry-run
    pgherald deliveries replay --state unknown --rule verify --rate 10/s
    """
    states = given["states"] or ("dead", "unknown")
    operations = Operations(settings.ledger_dsn)
    rows = _chosen(operations, ids, given, states)
    _print_reasons(operations, rows)
    if dry_run:
        return
    count = operations.replay(rows, states, rate)
    click.echo(f"{count} are pending again; they run out of order: later events of their users may have been delivered")
    if count < len(rows):
        click.echo(f"{len(rows) - count} stay as they are: they changed meanwhile, or never were deliveries", err=True)


@deliveries.command("cancel")
@click.argument("ids", type=int, nargs=-1)
@_filters
@_dry_run
@with_settings
def cancel(settings: Settings, ids: Sequence[int], dry_run: bool, **given: Any) -> None:
    """Cancel pending deliveries. What is being delivered now is not touched.

    \b
    pgherald deliveries cancel --rule welcome --since 1h
    """
    operations = Operations(settings.ledger_dsn)
    rows = _chosen(operations, ids, given, ("pending",))
    _print_reasons(operations, rows)
    if not dry_run:
        click.echo(f"{operations.cancel(rows)} are cancelled")


@click.group()
def lanes() -> None:
    """See, pause and resume lanes: a mail rule (mail:RULE) or a service (service:NAME)."""


@lanes.command("list")
@_json
@with_settings
def list_lanes(settings: Settings, as_json: bool) -> None:
    """List lanes: what waits in each, and whether and why it is paused."""
    rows = Operations(settings.ledger_dsn).lanes()
    _print_json(rows) if as_json else _print_table(_LANES, rows)


@lanes.command("pause")
@click.argument("lane")
@click.option("--reason", default="paused by hand", show_default=True)
@with_settings
def pause(settings: Settings, lane: str, reason: str) -> None:
    """Claim nothing of a lane until it is resumed. What is being delivered now ends."""
    Operations(settings.ledger_dsn).pause(_consumer_of(settings, lane), lane, reason, getpass.getuser())
    click.echo(f"{lane} is paused; pgherald lanes resume {lane} ends it")


@lanes.command("resume")
@click.argument("lane")
@with_settings
def resume(settings: Settings, lane: str) -> None:
    """End a pause, an operator's or pgherald's own."""
    if not Operations(settings.ledger_dsn).resume(_consumer_of(settings, lane), lane):
        click.echo(f"{lane} was not paused")
        return
    click.echo(f"{lane} goes on")


def _wanted(given: dict[str, Any], ids: Sequence[int] = ()) -> Filter:
    return Filter(**{**given, "states": list(given["states"]) or None, "ids": list(ids) or None})


def _chosen(operations: Operations, ids: Sequence[int], given: dict[str, Any], states: Sequence[str]) -> list[Row]:
    """Find what a change is for; `states` when none were asked for. A change of everything must be asked for."""
    asked = [given[name] for name in ("states", "rule", "lane", "key", "since")] + [given["where"] != "true"]
    if not ids and not any(asked):
        raise click.UsageError("say which: ids, --state, --rule, --lane, --key, --since or --where")
    return operations.find(_wanted(given | {"states": given["states"] or states}, ids))


def _consumer_of(settings: Settings, lane: str) -> str:
    kind, _, name = lane.partition(":")
    known = {"mail": [rule.name for rule in settings.rules if rule.mail], "service": list(settings.services)}
    if name not in known.get(kind, []):
        every = [f"{kind}:{name}" for kind, names in known.items() for name in names]
        raise click.UsageError(f"there is no lane {lane}; there are: {', '.join(every)}")
    return "mail" if kind == "mail" else "services"


def _print_reasons(operations: Operations, rows: Sequence[Row]) -> None:
    for row in operations.count_by_reason(rows):
        click.echo(f"{row['count']:>7}  {row['rule']}  {row['state']}  {row['class'] or ''}  {row['reason'] or ''}")
    click.echo(f"{len(rows):>7}  in all")


def _print_json(document: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(document, enc_hook=str)).decode())


def _print_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        # Values are the users': markup in them is text.
        table.add_row(*(_text(row[column]).replace("[", r"\[") for column in columns))
    Console().print(table)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)
