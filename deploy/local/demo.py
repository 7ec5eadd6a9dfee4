"""The demo: users register in every way, mails and calls follow, two processes are killed, and all is audited.

    python -m deploy.local.demo        (make demo; KEEP=1 leaves everything running)

Ends with 0 only if the audit holds: every committed user has each mail and each call once, and nobody else has any.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import chain
from statistics import median

from rich.console import Console

from deploy.local.audit import Audit
from deploy.local.commands import Commands
from deploy.local.net import until
from deploy.local.process import ServerFailed
from deploy.local.registrations import Application
from deploy.local.stack import Stack
from deploy.local.watch import Watch

console = Console(highlight=False, soft_wrap=True)


def step(text: str, act: Callable[[], object]) -> None:
    """Say what happens, then let it happen."""
    console.print(f"[bold]{text}[/bold]")
    act()


def play(application: Application, commands: Commands, watch: Watch) -> float:
    """Register users in every way, then kill a process of each side in the middle.

    Gives the median of the milliseconds from commit to inbox, of users who registered one by one.
    """
    step("INSERT: a user registers", lambda: application.insert(1))
    watch.until_all_have_mail()
    step("INSERT: three more, in transactions of their own", lambda: application.insert(3))
    watch.until_all_have_mail()
    step("an ORM session (SQLAlchemy): three users", lambda: application.orm(3))
    watch.until_all_have_mail()
    typical_ms = median(chain.from_iterable(watch.after_ms.values()))
    step("a registration that rolls back: nobody may hear of it", application.rolled_back)
    step("a user without an e-mail address: skipped, with the reason in the ledger", application.without_email)
    step("COPY: fifteen users", lambda: application.copy(15))
    watch.until_all_have_mail()
    step("kill -9 of the reader, amid forty users in bulk", lambda: _killed(application, commands, "capture"))
    step("kill -9 of the mailer, amid forty more", lambda: _killed(application, commands, "consume mail"))
    step("a plan changes: an event, and no call yet", application.change_plan)
    return typical_ms


def _killed(application: Application, commands: Commands, command: str) -> None:
    """Write one half, kill, write the other half, and start the command again, as a supervisor would."""
    application.bulk(20)
    commands.kill(command)
    application.bulk(20)
    commands.start(command)


def run(stack: Stack) -> bool:
    """Play the demo on a stack that is up; tell whether the audit holds."""
    began = time.monotonic()
    with (
        Application(stack) as application,
        Commands(stack) as commands,
        Watch(stack, application, commands, console) as watch,
    ):
        commands.start("capture")
        commands.start("consume mail")
        commands.start("consume services")
        until(lambda: commands.said("capture", "streaming"), 30, "the reader to stream")
        typical_ms = play(application, commands, watch)
        audit = Audit(stack, application)
        until(audit.finished, 60, "every delivery to reach its end", every_s=0.2)
        held = audit.report(console)
    console.print(f"first mail {watch.first_at - began:.1f} s after the stack was up")
    console.print(f"commit to inbox of users who registered one by one: {typical_ms:.0f} ms (median)")
    console.print(f"users, kills and audit took {time.monotonic() - began:.0f} s")
    return held


def farewell(stack: Stack, *, keep: bool) -> None:
    """Say where everything lies and what to try next."""
    console.print(f"the mails lie in {stack.mails}/*.eml, the calls in {stack.calls}, the logs in {stack.logs}/")
    config = f"--config {stack.settings}"
    console.print("try next (`make up` starts the stack again):" if not keep else "everything runs on; try next:")
    for command in ("status", "deliveries list --state skipped", "preview welcome --locale de", "preflight"):
        console.print(f"  build/venv/bin/pgherald {command} {config}")
    if keep:
        console.print("  make down    stops it")


def main() -> int:
    """Start the stack, play, report; stop what was started unless KEEP is set."""
    keep = os.environ.get("KEEP", "") not in ("", "0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stack = Stack()
    try:
        began = time.monotonic()
        stack.up()
        console.print(
            f"PostgreSQL, Kafka, an inbox and a webhook receiver are up after {time.monotonic() - began:.1f} s"
        )
        held = run(stack)
    except (ServerFailed, TimeoutError) as error:
        console.print(f"[red]the demo did not come to its end:[/red] {error}; the logs are in {stack.logs}")
        return 1
    finally:
        if not keep:
            stack.down()
    farewell(stack, keep=keep)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
