"""Chaos for the consumers: mailers and callers are killed, stopped and moved, their servers fail, then an audit.

    python -m tests.chaos.deliveries --rounds 25 --seed 1        (make chaos-consumers ROUNDS=25 SEED=1)

Users come, change and go all the time. Ends with 1 when a delivery has no end, when a mail came twice or late, when
more is in doubt than the relay saw left open, or when an order was broken.
"""

from __future__ import annotations

import random
import time
from contextlib import suppress
from functools import partial

from rich.console import Console

from deploy.local.net import until
from tests.chaos import rounds, servers
from tests.chaos.deliveries_audit import Identity, audit, expected, rows
from tests.chaos.rounds import Fault, Report
from tests.chaos.stage import Stage, main
from tests.chaos.users import FULL_ROWS, Users
from tests.support.application import TABLE, make_keys, settings
from tests.support.database import Database
from tests.support.deployment import Deployment, Running
from tests.support.http import Answer, Endpoint
from tests.support.script import Fault as Misbehaviour
from tests.support.smtp import Relay

_MAILERS, _CALLERS = 3, 2
#: Longer than consume.lease, and until the next look for those that ran out.
_PAST_THE_LEASE_S = 11.0
_PLANS_ON = '["created", "changed:plan", "deleted"]'
_MOVED = """
[[rules]]
name = "moved"
on = "changed:plan"
mail = "welcome"
backoff_first = "100ms"
backoff_max = "2s"
"""
_COUNT = "SELECT count(*), count(*) FILTER (WHERE finished_at IS NULL) FROM pgherald.delivery"
_TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name IN ('pgherald mail', 'pgherald services')
"""


class Processes:
    """The reader, mailers and callers. Those that are stopped are woken when their time has come."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.reader = self._start("capture")
        until(lambda: self.reader.said("streaming"), 30, "the reader to stream")
        self.mailers = [self._start("consume mail") for _ in range(_MAILERS)]
        self.callers = [self._start("consume services") for _ in range(_CALLERS)]
        self._stopped: list[tuple[float, Running]] = []
        self.exit_codes: list[int] = []
        #: When processes were killed or stopped.
        self.cut_off_at: list[float] = []

    def kill_reader(self) -> None:
        self.reader.kill()
        self.reader = self._start("capture")

    def kill(self, team: list[Running], chance: random.Random) -> None:
        """Kill one and start another."""
        self.cut_off_at.append(time.time())
        team.pop(chance.randrange(len(team))).kill()
        self.add(team)

    def add(self, team: list[Running]) -> None:
        team.append(self._start("consume mail" if team is self.mailers else "consume services"))

    def dismiss(self, team: list[Running], chance: random.Random) -> None:
        """Let one end in order."""
        one = team.pop(chance.randrange(len(team)))
        one.wake()
        _until_started(one)
        self.exit_codes.append(one.stop(40))

    def stop(self, team: list[Running], chance: random.Random) -> None:
        """Stop one for longer than its lease, while the rounds go on."""
        one = chance.choice(team)
        self.cut_off_at.append(time.time())
        one.pause()
        self._stopped.append((time.monotonic() + _PAST_THE_LEASE_S, one))

    def wake(self, *, all_of_them: bool = False) -> None:
        due = [(at, one) for at, one in self._stopped if all_of_them or at < time.monotonic()]
        for each in due:
            self._stopped.remove(each)
            if each[1].running:
                each[1].wake()

    def end(self) -> None:
        """Stop everyone in order."""
        _until_started(*self.mailers, *self.callers)
        for process in (*self.mailers, *self.callers, self.reader):
            process.terminate()
        self.exit_codes += [process.exit_code(40) for process in (*self.mailers, *self.callers, self.reader)]

    def _start(self, command: str) -> Running:
        return self._deployment.start(*command.split())


def _until_started(*processes: Running) -> None:
    """Wait for those that came just now: before they listen to signals, SIGTERM just ends them."""
    until(lambda: all(each.said("consumer_started") for each in processes), 30, "the processes to be there")


class Faults:
    """What can happen, each as a method that does it and, but for those that sleep, heals it again."""

    def __init__(self, processes: Processes, stage: Stage, relay: Relay, endpoint: Endpoint) -> None:
        self.processes, self._stage = processes, stage
        self._relay, self._endpoint = relay, endpoint
        self.refused = 0

    def deck(self) -> dict[str, Fault]:
        """Give every fault with its share of 25 rounds."""
        mailers, callers = self.processes.mailers, self.processes.callers
        return {
            "a mailer is killed": Fault(lambda chance: self.processes.kill(mailers, chance), 4),
            "a caller is killed": Fault(lambda chance: self.processes.kill(callers, chance), 2),
            "the reader is killed": Fault(lambda _: self.processes.kill_reader(), 2),
            "a mailer is stopped past its lease, and woken": Fault(lambda c: self.processes.stop(mailers, c), 2),
            "a caller is stopped past its lease, and woken": Fault(lambda c: self.processes.stop(callers, c)),
            "a mailer comes and another goes": Fault(lambda chance: self._exchange(mailers, chance), 2),
            "a caller comes and another goes": Fault(lambda chance: self._exchange(callers, chance)),
            "the ledger's sessions are terminated": Fault(lambda _: self._terminate(), 2),
            "PostgreSQL is killed": Fault(partial(servers.kill, [self._stage.postgres])),
            "PostgreSQL is restarted": Fault(lambda _: self._stage.postgres.restart()),
            "a broker is killed": Fault(partial(servers.kill, self._stage.kafka.brokers)),
            "a broker hangs": Fault(partial(servers.pause, self._stage.kafka.brokers)),
            "the relay misbehaves": Fault(self._relay_misbehaves, 3),
            "the relay is down": Fault(self._relay_down),
            "the services misbehave": Fault(self._services_misbehave, 2),
        }

    def _exchange(self, team: list[Running], chance: random.Random) -> None:
        self.processes.add(team)
        time.sleep(chance.uniform(0.0, 1.0))
        self.processes.dismiss(team, chance)

    def heal(self) -> None:
        """Let everyone behave, and wake who sleeps."""
        for misbehaving in (self._relay, self._endpoint):
            misbehaving.script.clear()
            misbehaving.release()
        self.processes.wake(all_of_them=True)

    def _terminate(self) -> None:
        self._stage.database.execute(_TERMINATE)

    def _relay_misbehaves(self, chance: random.Random) -> None:
        """Refuse for now and for good, hang up before, in and after a text, hang before and after the dot."""
        script = self._relay.script
        script.next("rcpt", *chance.choices(("450 4.2.1 busy", "451 4.7.1 greylisted"), k=4))
        script.next("dot", *chance.choices(("451 4.3.0 later", "250 2.0.0 kept", Misbehaviour.DROP), k=5))
        script.next("mail", "421 4.7.0 too much", Misbehaviour.DROP)
        script.next("body", Misbehaviour.DROP)
        self.refused += 1
        script.next("rcpt", "550 5.7.1 not from you")
        time.sleep(chance.uniform(0.2, 1.0))
        script.next(chance.choice(("dot", "data")), Misbehaviour.HANG)
        time.sleep(chance.uniform(0.2, 1.0))
        self._relay.release()

    def _relay_down(self, chance: random.Random) -> None:
        self._relay.stop()
        time.sleep(chance.uniform(0.2, 1.0))
        self._relay.start()

    def _services_misbehave(self, chance: random.Random) -> None:
        answers = (Answer(500), Answer(503, {"retry-after": "1"}), Answer(429), Answer(409), Misbehaviour.DROP)
        self._endpoint.script.next("any", *chance.choices(answers, k=6))
        time.sleep(chance.uniform(0.2, 1.0))
        self._endpoint.script.next("any", Misbehaviour.HANG)
        time.sleep(chance.uniform(0.2, 1.0))
        self._endpoint.release()


def run(stage: Stage, number: int, seed: int, console: Console) -> Report:
    """Play the rounds, let everything come to its end, and audit it."""
    report, database = Report(console), stage.database
    database.execute(TABLE.read_text())
    database.execute(FULL_ROWS)
    stage.folder.mkdir(parents=True)
    keys = make_keys(stage.folder / "keys")
    with Relay() as relay, Endpoint() as endpoint:
        more = settings(relay.port, endpoint.port, keys, plans_on=_PLANS_ON) + _MOVED
        with Deployment(
            stage.folder, database, stage.kafka, database.name, tables=['public."User"'], more=more
        ) as deployment:
            faults = Faults(Processes(deployment), stage, relay, endpoint)
            _play(report, faults, Users(database, seed), number, seed)
            wanted = _end(faults, deployment)
            audit(report, wanted, rows(database), relay, endpoint, faults.refused, faults.processes.cut_off_at)
    report.violated("exit codes", [str(code) for code in faults.processes.exit_codes if code])
    return report


def _play(report: Report, faults: Faults, users: Users, number: int, seed: int) -> None:
    deck = faults.deck()
    users.start()
    try:
        for each in rounds.schedule(deck, number, seed):
            rest_s = each.chance.uniform(0.5, 2.5)
            report.play(each, deck[each.fault].inject, lambda rest_s=rest_s: time.sleep(rest_s))  # type: ignore[misc]
            faults.processes.wake()
    finally:
        users.finish()
    report.facts["transactions"] = users.transactions


def _end(faults: Faults, deployment: Deployment) -> dict[Identity, bool]:
    """Let everything behave and come to its end, as far as it does; give what must have been planned."""
    faults.heal()
    deployment.until_caught_up()
    wanted = expected(deployment.stream("public.User"))
    with suppress(TimeoutError):  # the audit says what it was that did not end
        until(lambda: _ended(deployment.database, len(wanted)), 120, "all to end", every_s=0.5)
    faults.processes.end()
    return wanted


def _ended(database: Database, wanted: int) -> bool:
    return database.execute(_COUNT) == [(wanted, 0)]


if __name__ == "__main__":
    main("deliveries", run)
