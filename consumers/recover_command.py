"""`pgherald recover`: the list of what was never planned, and its planning."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from cdc.runtime.cli import with_settings
from cdc.runtime.errors import RetryableError
from cdc.runtime.fields import TableName, parse_table
from cdc.runtime.settings import Settings
from consumers import condition, console
from consumers.operate import as_json, since
from consumers.operator import Operator
from consumers.recover import Missing, Recovery, Rows, chosen, open_rows

#: Rows between two words about how far it is.
_SAID_EVERY = 100_000


@click.command()
@click.option("--since", required=True, callback=since, help="Users who registered since: 2h, 7d, or a time.")
@click.option("--table", "table_name", help="Default: every table that has a rule on = created.")
@click.option("--created", help="The column that tells when a row was made; default: created_at or the like.")
@click.option("--where", default="true", help="SQL over the table's columns.")
@click.option("--apply", is_flag=True, help="Plan what is missing, as ordinary deliveries.")
@as_json
@with_settings
def recover(settings: Settings, as_json: bool, **given: Any) -> None:
    """List which users never got which mail or call, after a slot or records were lost; --apply makes up for it.

    The rows of the table are compared with the ledger, by the rules on = "created"; what the reader and the consumers
    still have before them is waited for. Without a column that tells when a row was made every row is listed, and
    --apply wants --created or --where. A timestamp without time zone counts as UTC. A user whose key changed is listed
    under the new one: look before you apply. Deliveries of deleted rows and of changes can't be told from the table.

    \b
    pgherald recover --since 2d
    pgherald recover --since 2026-11-23T08:00 --where "email NOT LIKE '%@test.example'" --apply
    """
    run = _Run(settings, as_json, **given)
    with closing(run.operator), open_rows(settings) as rows:
        epoch = rows.epoch()
        for table in run.tables():
            run.compare(table, rows, epoch)
    run.end()


class _Run:
    """One run of the command."""

    def __init__(
        self,
        settings: Settings,
        as_json: bool,
        *,
        since: datetime,
        table_name: str | None,
        created: str | None,
        where: str,
        apply: bool,
    ) -> None:
        self._settings, self._since, self._created, self._where, self._apply = settings, since, created, where, apply
        self._table_name = table_name
        self._array = console.JsonArray() if as_json else None
        self._counts: Counter[str] = Counter()
        self._rows = 0
        self.operator = Operator(settings.ledger_dsn, console.who())

    def tables(self) -> list[TableName]:
        """List the tables to compare."""
        every = {self._settings.table_of(rule) for rule in self._settings.rules if "created" in rule.on}
        if self._table_name is None:
            return sorted(every)
        try:
            table = parse_table(self._table_name)
        except ValueError as exc:
            raise click.UsageError(f"--table: {exc}") from None
        if table not in every:
            raise click.UsageError(f'no rule has on = "created" for {table}')
        return [table]

    def compare(self, table: TableName, rows: Rows, epoch: int) -> None:
        """Compare one table with the ledger, and plan what is missing if that is asked for."""
        with closing(Recovery(self._settings, table, rows, epoch)) as recovery:
            created = self._created or recovery.created()
            self._check(table, created)
            if behind := recovery.behind():
                if self._apply:
                    raise RetryableError(
                        behind, hint="Start it and let it catch up: else what is on its way comes twice"
                    )
                click.echo(f"{behind}: what is on its way to it is listed too", err=True)
            where = chosen(created, self._since, self._where)
            if not self._apply:
                recovery.missing(where, self._found, self._compared, apply=False)
                return
            asked = {"table": str(table), "since": self._since, "where": condition.masked(self._where)}
            with self.operator.noted("recover", asked, self._counts.total):
                recovery.missing(where, self._found, self._compared, apply=True)

    def end(self) -> None:
        """Say how many there are."""
        if self._array:
            self._array.end()
            return
        for rule, count in sorted(self._counts.items()):
            click.echo(f"{count:>7}  {rule}")
        done = "planned" if self._apply else "missing; with --apply they are planned"
        click.echo(f"{self._counts.total():>7}  {done}")

    def _check(self, table: TableName, created: str | None) -> None:
        if created is not None:
            click.echo(f"{table}: rows with {created} since {self._since:%Y-%m-%d %H:%M:%S %Z}", err=True)
        elif self._apply and self._where == "true":
            raise click.UsageError(f"{table}: say which rows are new: --created COLUMN, or --where SQL")
        else:
            click.echo(f"{table}: no column tells when a row was made (--created): every row counts", err=True)

    def _compared(self, rows: int) -> None:
        """Say on the way how many there were, where it takes a while."""
        before, self._rows = self._rows, self._rows + rows
        if self._rows // _SAID_EVERY > before // _SAID_EVERY:
            click.echo(f"{self._rows} rows are compared", err=True)

    def _found(self, missing: Missing) -> None:
        self._counts[missing.rule] += 1
        if self._array:
            self._array.add(asdict(missing))
        else:
            click.echo(f"{missing.rule}  {missing.target}  {missing.key}")
