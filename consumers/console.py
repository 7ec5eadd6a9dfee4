"""How the operator's commands print: tables for people, one JSON document for programs, progress on a terminal."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice

import click
import msgspec

#: A table is as wide as its rows want, so it is made of so many at a time: however many there are, memory stays flat.
_TABLE_ROWS = 1000
_LINE_MAX = 10_000


def print_json(document: object) -> None:
    """Print one document."""
    click.echo(_json(document))


def print_json_array(rows: Iterable[object]) -> None:
    """Print an array, however long, one row at a time."""
    array = JsonArray()
    for row in rows:
        array.add(row)
    array.end()


class JsonArray:
    """An array that is printed while it grows."""

    def __init__(self) -> None:
        self._begin = "["

    def add(self, row: object) -> None:
        """Print a row."""
        click.echo(f"{self._begin}\n{_json(row)}", nl=False)
        self._begin = ","

    def end(self) -> None:
        """Print the end."""
        click.echo("[]" if self._begin == "[" else "\n]")


def _json(document: object) -> str:
    return msgspec.json.format(msgspec.json.encode(document, enc_hook=str)).decode()


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Print the named columns of rows, however many, as one table after another."""
    from rich.console import Console
    from rich.table import Column, Table

    # A program or a pager takes lines of any length; a cell is never cut, as a key is what other commands take.
    console = Console() if sys.stdout.isatty() else Console(width=_LINE_MAX)
    rest = iter(rows)
    page = list(islice(rest, _TABLE_ROWS))
    while True:
        folding = (Column(name, overflow="fold") for name in columns)
        table = Table(*folding, box=None, header_style="bold", pad_edge=False)
        for row in page:
            # Values are the users': markup in them is text.
            table.add_row(*(text(row[column]).replace("[", r"\[") for column in columns))
        console.print(table)
        if not (page := list(islice(rest, _TABLE_ROWS))):
            return


def text(value: object) -> str:
    """Write a value for people. It may be anyone's: what would steer the terminal is shown as its code."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    written = msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in written)


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a long change is, on a terminal only; give what is to be told of each step."""
    if not sys.stderr.isatty():
        yield lambda _length: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("deliveries", total=total)
        yield lambda length: shown.advance(task, length)


def who() -> str:
    """Name who runs the command, for the audit trail: the login and the machine."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        login = f"uid {os.getuid()}"
    return f"{login}@{socket.gethostname()}"
