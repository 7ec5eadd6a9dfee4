"""The command `pgherald`: its subcommands are entry points, so that this package need not know who adds them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

from cdc.runtime import log
from cdc.runtime.errors import ServiceError
from cdc.runtime.settings import load

#: The entry point group in which commands are found; a user's package may add its own.
GROUP = "pgherald.commands"


class _Commands(click.Group):
    """Loads a subcommand's module only when it is called: each command imports what it needs, nothing else."""

    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._entries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries().get(cmd_name)
        return entry.load() if entry else None


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="pgherald")
def pgherald() -> None:
    """Turn the rows of a users table into mails and service calls, without a line in the application.

    \b
    Start:      pgherald preflight        what is missing, and the statement that mends it
                pgherald capture          the reader: PostgreSQL's WAL into Kafka
                pgherald consume mail     the mailer
                pgherald consume services the service caller
    Look:       pgherald status           one screen
                pgherald deliveries list  what was sent, what waits, what failed and why
    """


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config to a command and call it with the settings as its first argument."""

    @click.option(
        "--config",
        type=click.Path(path_type=Path),
        default="pgherald.toml",
        envvar="PGHERALD_CONFIG",
        show_default=True,
        help="The settings file (or PGHERALD_CONFIG).",
    )
    @wraps(command)
    def call(config: Path, **given: Any) -> Any:
        return command(load(config), **given)

    return call


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code; a fault is one line on stderr, with what to do."""
    log.configure()
    try:
        code = pgherald.main(arguments, prog_name="pgherald", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except ServiceError as exc:
        click.echo(f"pgherald: {exc}", err=True)
        code = exc.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
