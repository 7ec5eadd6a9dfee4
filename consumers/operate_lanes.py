"""The operator's commands about lanes."""

from __future__ import annotations

from contextlib import closing

import click

from cdc.runtime.cli import with_settings
from cdc.runtime.settings import Settings
from consumers import console
from consumers import lanes as lanes_of
from consumers.operate import as_json
from consumers.operations import Operations
from consumers.operator import Operator

_LANES = ("lane", "paused", "unfinished", "oldest", "failures", "paused_until", "paused_by", "reason")


@click.group()
def lanes() -> None:
    """See, pause and resume lanes: a rule (mail:RULE, function:RULE, topic:RULE) or a service (service:NAME).

    \b
    pgherald lanes list
    """


@lanes.command("list")
@as_json
@with_settings
def list_lanes(settings: Settings, as_json: bool) -> None:
    """List lanes: what waits in each, and whether and why it is paused.

    A rate is per second and of each process; that of mails is shared by the mail lanes of the process.

    \b
    pgherald lanes list
    """
    rates = lanes_of.rates(settings)
    with closing(Operations(settings.ledger_dsn)) as operations:
        rows = [row | {"rate_per_process": rates.get(row["lane"])} for row in operations.lanes()]
    columns = _LANES if not any(row["rate_per_process"] for row in rows) else (*_LANES, "rate_per_process")
    console.print_json(rows) if as_json else console.print_table(columns, rows)


@lanes.command("pause")
@click.argument("lane")
@click.option("--reason", default="paused by hand", show_default=True, help="What `lanes list` says.")
@with_settings
def pause(settings: Settings, lane: str, reason: str) -> None:
    """Claim nothing of a lane until it is resumed. What is being delivered now ends.

    \b
    pgherald lanes pause mail:welcome --reason "new text"
    """
    consumer = _consumer_of(settings, lane)
    with closing(Operator(settings.ledger_dsn, console.who())) as operator:
        operator.pause(consumer, lane, reason)
    click.echo(f"{lane} is paused; pgherald lanes resume {lane} ends it")


@lanes.command("resume")
@click.argument("lane")
@with_settings
def resume(settings: Settings, lane: str) -> None:
    """End a pause, an operator's or pgherald's own.

    \b
    pgherald lanes resume service:newsletter
    """
    consumer = _consumer_of(settings, lane)
    with closing(Operator(settings.ledger_dsn, console.who())) as operator:
        was_paused = operator.resume(consumer, lane)
    click.echo(f"{lane} goes on" if was_paused else f"{lane} was not paused")


def _consumer_of(settings: Settings, lane: str) -> str:
    owners = lanes_of.owners(settings)
    if lane not in owners:
        raise click.UsageError(f"there is no lane {lane}; there are: {', '.join(owners)}")
    return owners[lane]
