"""What `--help` says of every command."""

from collections.abc import Iterator
from importlib.metadata import entry_points

import click
import pytest


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """List a command and all below it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from commands(sub, f"{path} {name}")


ALL = {
    path: command
    for entry in entry_points(group="pgherald.commands")
    for path, command in commands(entry.load(), f"pgherald {entry.name}")
}


@pytest.mark.parametrize("path", sorted(ALL))
def test_the_help_of_every_command_has_an_example_and_says_what_each_option_is_for(path: str) -> None:
    command = ALL[path]
    assert path in (command.help or "").partition("\b\n")[2]
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []
