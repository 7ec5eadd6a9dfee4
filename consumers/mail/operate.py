"""The operator's command `suppression`: who gets no mail. What it prints and keeps are hashes, never an address."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, cast

import click
import msgspec

from cdc.contract.envelope import decode
from cdc.runtime.cli import with_settings
from cdc.runtime.errors import MailRejected
from cdc.runtime.settings import Settings
from consumers import console
from consumers.mail import message
from consumers.mail.suppression import REASONS, Suppression, address_hash
from consumers.operate import as_json, since
from consumers.operations import Operations
from consumers.operator import Operator
from consumers.rules import SeenUser, names

_LIST = ("address_hash", "reason", "source", "created_at")

_reason = click.option("--reason", type=click.Choice(REASONS), help="Only with this reason.")
_since = click.option("--since", callback=since, help="Only since: 2h, 7d, or a time.")
_addresses = click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")


@click.group()
def suppression() -> None:
    """See and change who gets no mail: bounced, complained, unsubscribed. Essential mails reach who unsubscribed.

    An ADDRESS of `-` stands for a list on standard input, one a line, which no process list shows.

    \b
    pgherald suppression list --since 1d
    """


@suppression.command("list")
@_addresses
@_reason
@_since
@click.option("--limit", type=click.IntRange(1), help="Default: 50, or all with --json.")
@as_json
@with_settings
def list_suppressed(
    settings: Settings,
    addresses: Sequence[str],
    reason: str | None,
    since: datetime | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List entries, newest first, or what is known of some addresses.

    \b
    pgherald suppression list --reason bounce --since 1d
    pgherald suppression list ada@example.org
    """
    with closing(Suppression(settings.ledger_dsn)) as listed:
        rows = listed.find(_hashes(addresses) or None, reason, since, limit or (None if as_json else 50))
    console.print_json(rows) if as_json else console.print_table(_LIST, rows)


@suppression.command("add")
@_addresses
@click.option("--bounce", "bounces", multiple=True, metavar="ID", help="Whose mail came back to bounces+ID@...")
@click.option("--reason", type=click.Choice(REASONS), help="Default with --bounce: bounce.")
@with_settings
def add(settings: Settings, addresses: Sequence[str], bounces: Sequence[str], reason: str | None) -> None:
    """Send these addresses no more mail.

    \b
    pgherald suppression add --reason complaint ada@example.org
    pgherald suppression add --bounce 4711-9f3a2c1d00
    """
    if not addresses and not bounces:
        raise click.UsageError("say whom: addresses, `-` or --bounce")
    reason = reason or ("bounce" if bounces and not addresses else None)
    if reason is None:
        raise click.UsageError(f"say why: --reason {' or '.join(REASONS)}")
    hashes = [*_hashes(addresses), *_of_bounces(settings, bounces)]
    asked = {"reason": reason, "addresses": len(hashes), "bounces": list(bounces)}
    count = _changed(settings, "suppression add", asked, lambda listed: listed.add(hashes, reason, console.who()))
    click.echo(f"{count} were added, {len(set(hashes)) - count} were on the list")


@suppression.command("remove")
@_addresses
@_reason
@_since
@with_settings
def remove(settings: Settings, addresses: Sequence[str], reason: str | None, since: datetime | None) -> None:
    """Let these addresses get mail again: some addresses, or all entries of a reason or a time.

    \b
    pgherald suppression remove ada@example.org
    pgherald suppression remove --reason bounce --since 2h     # the relay was wrong
    """
    if not addresses and not reason and not since:
        raise click.UsageError("say which: addresses, `-`, --reason or --since")
    hashes = _hashes(addresses) if addresses else None
    asked = {"reason": reason, "since": since, "addresses": len(hashes) if hashes is not None else None}
    count = _changed(settings, "suppression remove", asked, lambda listed: listed.remove(hashes, reason, since))
    click.echo(f"{count} were removed")


def _changed(
    settings: Settings, command: str, asked: Mapping[str, object], change: Callable[[Suppression], int]
) -> int:
    """Change the list, tell how many entries, and note in the audit trail who did it."""
    said, count = {name: value for name, value in asked.items() if value}, 0
    dsn = settings.ledger_dsn
    with (
        closing(Operator(dsn, console.who())) as operator,
        closing(Suppression(dsn)) as listed,
        operator.noted(command, said, lambda: count),
    ):
        count = change(listed)
    return count


def _hashes(addresses: Sequence[str]) -> list[str]:
    given = [line.strip() for line in sys.stdin] if "-" in addresses else []
    given += [address for address in addresses if address != "-"]
    hashes = []
    for place, address in enumerate(filter(None, given), 1):
        try:
            hashes.append(address_hash(message.address(address)))
        except MailRejected as exc:
            raise click.UsageError(f"address {place}: {exc}") from None
    return hashes


def _of_bounces(settings: Settings, bounces: Sequence[str]) -> Iterator[str]:
    """Find the addresses of deliveries by what stands for {delivery} in smtp.envelope_from."""
    with closing(Operations(settings.ledger_dsn)) as operations:
        for bounce in bounces:
            number, _, _ = bounce.partition("-")
            row = operations.show(int(number)) if number.isascii() and number.isdigit() else None
            if row is None or bounce != message.bounce_id(row["id"], message.message_id(*_identity(row), "x")):
                raise click.UsageError(f"--bounce {bounce}: no delivery is named so")
            if row["envelope"] is None:
                raise click.UsageError(f"--bounce {bounce}: its event has left the ledger; name the address instead")
            yield address_hash(message.address(_email(settings, row)))


def _email(settings: Settings, row: dict[str, Any]) -> str | None:
    envelope = decode(msgspec.json.encode(row["envelope"]))
    return cast(SeenUser, names(envelope, settings.user, row["event_id"], row["key"])["user"]).email


def _identity(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["event_id"], row["rule"], row["target"]
