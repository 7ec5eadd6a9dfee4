"""The reader's commands. Each imports what it needs when it runs: a reader stays small."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from cdc.runtime.cli import with_settings
from cdc.runtime.settings import Settings


def _event_ids(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    from cdc.contract.position import position_of
    from cdc.runtime.errors import EnvelopeInvalid

    for text in texts:
        try:
            position_of(text)
        except EnvelopeInvalid:
            raise click.BadParameter(f"{text} is no event id; the error that stopped capture names it") from None
    return texts


@click.command()
@with_settings
@click.option(
    "--skip",
    metavar="EVENT_ID",
    multiple=True,
    callback=_event_ids,
    help="Leave this change or row out; the error that stopped capture names it. May be repeated.",
)
def capture(settings: Settings, skip: tuple[str, ...]) -> None:
    """Run the reader: PostgreSQL's WAL into Kafka, until it is told to stop.

    One process reads a slot; a second one waits as its hot standby. Ends with 0 on SIGTERM and SIGINT.

    \b
    Example: pgherald capture --config pgherald.toml
    """
    import threading
    import time

    from cdc import capture as reader
    from cdc import measure
    from cdc.runtime import health, metrics
    from cdc.runtime.lifecycle import Stop
    from cdc.skip import Skip

    stop = Stop().on_signals()
    metrics.slot_lag_seconds.set_function(lambda: reader.lag.seconds(time.time()))
    health.serve(settings.metrics.listen, ready=lambda: reader.streaming)
    threading.Thread(target=measure.run, args=(settings, stop), name="measure", daemon=True).start()
    reader.run(settings, stop, Skip(skip))


@click.command()
@with_settings
@click.option("--fix", is_flag=True, help="Apply the remedies that are safe, and say what came of each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def preflight(settings: Settings, fix: bool, as_json: bool) -> None:
    """Look at every condition: what is wrong, why it matters, the statement that mends it.

    Ends with 1 when there is a fault. With --fix each statement that harms nobody is applied where the role may, and
    what came of it is said; the others (a restart, a large table's cost, rights) stay yours.

    \b
    Example: pgherald preflight --fix
    """
    from cdc.runtime.findings import findings

    found: list[dict[str, Any]] = []
    for part, finding in findings(settings):
        if not as_json:
            _print_finding(part, finding)
        outcome = ""
        if fix and finding.fix:
            finding, outcome = finding.mended()
            if not as_json:
                click.echo(f"        {outcome}")
        facts = {name: getattr(finding, name) for name in ("severity", "what", "why", "remedy")}
        found.append({"part": part, **facts, **({"outcome": outcome} if outcome else {})})
    if as_json:
        click.echo(json.dumps(found, indent=2))
    sys.exit(1 if any(finding["severity"] == "fault" for finding in found) else 0)


def _print_finding(part: str, finding: Any) -> None:
    mark = {"ok": click.style("ok     ", fg="green"), "warning": click.style("warning", fg="yellow")}
    click.echo(f"{mark.get(finding.severity, click.style('FAULT  ', fg='red'))} {part}: {finding.what}")
    if finding.why:
        click.echo(f"        why: {finding.why}")
    if finding.remedy:
        click.echo(f"        do:  {finding.remedy}")


@click.command()
@with_settings
@click.argument("table", metavar="TABLE | pause | resume")
@click.option("--where", default="", metavar="SQL", help="Only the rows for which this SQL expression holds.")
def snapshot(settings: Settings, table: str, where: str) -> None:
    """Publish the rows that a table has now once more, as `r`, while capture runs.

    Consumers take them for history. `pause` holds what is being read, `resume` lets it go on where it was held.
    Needs the right to insert into pgherald.command in the source database (deploy/sql/command.sql).

    \b
    Example: pgherald snapshot public.users --where "plan = 'pro'"
             pgherald snapshot pause
    """
    from cdc.ask import ask

    ask(settings, table, where)
    click.echo("asked for: `pgherald slot status` shows how far it is")


@click.group()
def slot() -> None:
    """Look at the replication slot, recover from its loss, or drop it.

    \b
    pgherald slot status
    """


@slot.command("status")
@with_settings
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def slot_status(settings: Settings, as_json: bool) -> None:
    """Tell how far the slot is behind and how far from loss.

    \b
    pgherald slot status
    pgherald slot status --json
    """
    from cdc.operate import slot_status as ask

    _print(ask(settings), as_json)


@slot.command("recover")
@with_settings
@click.confirmation_option(prompt="Make a new slot and publish every row again as `r`?")
def slot_recover(settings: Settings) -> None:
    """Start again after the slot was lost: a new epoch, a new slot, every row again as `r`.

    The rows say how the tables are now (source.snapshot is "recovery"), not what happened meanwhile: nobody is mailed
    for it. Rows that were deleted meanwhile are not there to be read.

    \b
    pgherald slot recover
    """
    from cdc.operate import recover

    epoch = recover(settings)
    click.echo(
        f"epoch {epoch} begins: start `pgherald capture`; it makes the slot and publishes every row as r (recovery)\n"
        f"Deletes since the old slot's end can't be known: a key whose newest record is of an older epoch (the second\n"
        f"part of pgherald-event-id) once capture says snapshot_done was deleted meanwhile, and no d will come for it"
    )


@slot.command("drop")
@with_settings
@click.confirmation_option(prompt="Drop the slot? Changes from now on reach nobody.")
def slot_drop(settings: Settings) -> None:
    """Drop the slot, so that PostgreSQL keeps no WAL for it.

    \b
    pgherald slot drop
    """
    from cdc.operate import drop

    click.echo("dropped" if drop(settings) else "there is no such slot")


@click.command()
@with_settings
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(settings: Settings, as_json: bool) -> None:
    """Show one screen: slot, topics, groups, lanes, deliveries by state.

    \b
    pgherald status
    pgherald status --json
    """
    from cdc.runtime.findings import status as ask

    _print(ask(settings), as_json)


def _print(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer, indent=2, default=str))
        return
    for name, value in answer.items():
        if isinstance(value, list):
            click.secho(name, bold=True)
            for row in value:
                click.echo("  " + "  ".join(f"{key}={item}" for key, item in row.items() if item is not None))
        elif isinstance(value, dict):
            click.secho(name, bold=True)
            for key, item in value.items():
                click.echo(f"  {key}: {item}")
        else:
            click.echo(f"{name}: {value}")
