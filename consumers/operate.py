"""The operator's commands about deliveries.

Lists show identities, states and keys; what else a row held is shown by `deliveries show` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import click

from cdc.runtime.cli import with_settings
from cdc.runtime.fields import parse_duration, parse_rate
from cdc.runtime.settings import Settings
from consumers import audit, console
from consumers.operations import Filter, Operations, as_kafka_writes
from consumers.operator import Operator, Pages

_STATES = ("pending", "claimed", "sending", "sent", "skipped", "unknown", "dead", "cancelled")
_FINISHED = ("sent", "skipped", "unknown", "dead", "cancelled")
_LIST = ("id", "state", "rule", "target", "key", "attempt", "created_at", "reason")


def since(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """Read how long ago, or when."""
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
        click.option("--lane", help="mail:RULE, service:NAME, function:RULE or topic:RULE."),
        click.option("--key", help="A user's Kafka key, as the list shows it."),
        click.option("--since", callback=since, help="Planned since: 2h, 7d, or a time."),
        click.option("--where", default="true", help="SQL over the columns of delivery and event."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
dry_run = click.option("--dry-run", "is_dry_run", is_flag=True, help="Only say what would happen.")


def _changing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every change of deliveries takes."""
    return click.argument("ids", type=int, nargs=-1)(_filters(dry_run(as_json(with_settings(command)))))


@click.group()
def deliveries() -> None:
    """See what was sent, what waits and what failed and why; replay, cancel or purge it.

    \b
    pgherald deliveries list --state dead
    pgherald deliveries replay --state dead --rule welcome --dry-run
    """


@deliveries.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1), help="Default: 50, or all with --json.")
@as_json
@with_settings
def list_deliveries(settings: Settings, limit: int | None, as_json: bool, **given: Any) -> None:
    """List deliveries, newest first.

    \b
    pgherald deliveries list --state dead --since 1d
    pgherald deliveries list --rule welcome --where "envelope->'after'->>'plan' = 'pro'" --json
    """
    with closing(Operations(settings.ledger_dsn)) as operations:
        rows = operations.find(_wanted(given), limit or (None if as_json else 50))
        if as_json:
            console.print_json_array(rows)
        else:
            console.print_table(_LIST, (row | {"reason": (row["error"] or {}).get("reason")} for row in rows))


@deliveries.command("show")
@click.argument("delivery_id", metavar="ID", type=int)
@as_json
@with_settings
def show(settings: Settings, delivery_id: int, as_json: bool) -> None:
    """Show one delivery and its event, with the row's values, and what operators did to it.

    \b
    pgherald deliveries show 4711
    """
    with closing(Operations(settings.ledger_dsn)) as operations:
        row = operations.show(delivery_id)
    if row is None:
        raise click.ClickException(f"there is no delivery {delivery_id}")
    if as_json:
        console.print_json(row)
        return
    for name, value in row.items():
        if value is not None:
            click.echo(f"{name + ':':16}{console.text(value)}")


@deliveries.command("replay")
@click.option("--rate", default="", callback=_rate, help='At most so many become due, e.g. "10/s".')
@_changing
def replay(settings: Settings, rate: float | None, **given: Any) -> None:
    """Make deliveries pending again, all attempts anew. Dead and unknown ones, unless --state says otherwise.

    A replay runs out of order: later events of the same user may have been delivered meanwhile. A mail that was sent is
    sent again, with the same Message-ID. What left the ledger after ledger.retention_days can't be replayed.

    \b
    pgherald deliveries replay 4711
    pgherald deliveries replay --rule welcome --since 1d --dry-run
    pgherald deliveries replay --state unknown --rule verify --rate 10/s
    """
    wanted = _chosen(given, ("dead", "unknown"))

    def change(operator: Operator, pages: Pages, asked: Mapping[str, object]) -> int:
        return operator.replay(pages, {**asked, **({"rate": rate} if rate else {})}, wanted.states or (), rate)

    _change(
        settings,
        wanted,
        given,
        change,
        done="{count} are pending again; they run out of order: later events of their users may have been delivered",
        left="{left} stay as they are: they changed meanwhile, or their event has left",
    )


@deliveries.command("cancel")
@_changing
def cancel(settings: Settings, **given: Any) -> None:
    """Cancel pending deliveries. What is being delivered now is not touched.

    \b
    pgherald deliveries cancel --rule welcome --since 1h
    """
    if set(given["states"]) - {"pending"}:
        raise click.UsageError("only what is pending can be cancelled; what is finished: `pgherald deliveries purge`")
    _change(
        settings,
        _chosen(given, ("pending",)),
        given,
        lambda operator, pages, asked: operator.cancel(pages, asked),
        done="{count} are cancelled",
        left="{left} stay as they are: they are not pending, or are being delivered now",
    )


@deliveries.command("purge")
@_changing
def purge(settings: Settings, **given: Any) -> None:
    """Give dead letters up for good: their events leave the ledger, what is left of them is `cancelled`.

    The row of facts stays, with its reason: without it a topic that is read again would plan the delivery anew. An
    event that another delivery still needs stays until that one ends too. Dead ones, unless --state says otherwise.

    \b
    pgherald deliveries purge --rule welcome --where "error->>'code' = '550'" --dry-run
    """
    wanted = _chosen(given, ("dead",))
    if unfinished := sorted(set(wanted.states or ()) - set(_FINISHED)):
        raise click.UsageError(f"what is {' or '.join(unfinished)} is not over: `pgherald deliveries cancel` first")
    _change(
        settings,
        wanted,
        given,
        lambda operator, pages, asked: operator.purge(pages, asked, wanted.states or ()),
        done="{count} are purged",
        left="{left} stay as they are: they changed meanwhile",
    )


def _wanted(given: Mapping[str, Any]) -> Filter:
    chosen = {name: given[name] for name in ("rule", "lane", "since", "where")}
    key = None if given["key"] is None else as_kafka_writes(given["key"])
    return Filter(ids=list(given.get("ids", ())) or None, states=list(given["states"]) or None, key=key, **chosen)


def _chosen(given: Mapping[str, Any], states: Sequence[str]) -> Filter:
    """Say what a change is for; `states` when none were asked for. A change of everything must be asked for."""
    if _wanted(given) == Filter():
        raise click.UsageError("say which: ids, --state, --rule, --lane, --key, --since or --where")
    return _wanted({**given, "states": given["states"] or states})


def _change(
    settings: Settings,
    wanted: Filter,
    given: Mapping[str, Any],
    change: Callable[[Operator, Pages, Mapping[str, object]], int],
    *,
    done: str,
    left: str,
) -> None:
    """Say what is chosen, by reason; then, unless it is a dry run, change it page by page."""
    with closing(Operations(settings.ledger_dsn)) as operations:
        reasons = operations.count_by_reason(wanted)
        total, last = sum(row["count"] for row in reasons), max((row.pop("last") for row in reasons), default=0)
        if not given["as_json"]:
            _print_reasons(reasons, total)
        if missed := len(set(wanted.ids or ())) - total if wanted.ids else 0:
            states = " or ".join(wanted.states or ())
            click.echo(f"{missed} of the ids are not there, or not {states}: `pgherald deliveries show ID`", err=True)
        changed = 0
        if not given["is_dry_run"]:
            # Up to what was counted: what is planned meanwhile was not chosen.
            pages, asked = operations.pages(wanted, last), audit.asked(wanted)
            with console.progress(total) as moved, closing(Operator(settings.ledger_dsn, console.who(), moved)) as by:
                changed = change(by, pages, asked)
    if given["as_json"]:
        console.print_json({"chosen": total, "changed": changed, "dry_run": given["is_dry_run"], "reasons": reasons})
    elif not given["is_dry_run"]:
        click.echo(done.format(count=changed))
        if changed < total:
            click.echo(left.format(left=total - changed), err=True)


def _print_reasons(reasons: Sequence[Mapping[str, Any]], total: int) -> None:
    for row in reasons:
        click.echo(f"{row['count']:>7}  {row['rule']}  {row['state']}  {row['class'] or ''}  {row['reason'] or ''}")
    click.echo(f"{total:>7}  in all")
