"""Chaos for capture: a reader and its hot standby under everything that can happen to them, then an audit.

    python -m tests.chaos.capture --rounds 25 --seed 1        (make chaos-capture ROUNDS=25 SEED=1)

Writers write all the time, and every round is one fault. Ends with 1 when the topics do not tell exactly what was
committed, once and in order, or when a position went back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console

from deploy.local.net import until
from tests.chaos import rounds, servers
from tests.chaos.capture_audit import Positions, audit
from tests.chaos.commits import Commits
from tests.chaos.rounds import Fault, Report
from tests.chaos.stage import Stage, main
from tests.chaos.writers import SCHEMA, TABLES, Administrator, Session, Writer
from tests.support.database import Database
from tests.support.deployment import Deployment, Running
from tests.support.proxy import Proxy
from tests.support.servers import KafkaServer, PostgresServer

_WRITERS = 3
#: Longer than the reader's transaction.timeout.ms: the broker takes the open transaction away.
_PAST_THE_TRANSACTION_S = 16.5
#: What a reader may need at most, whatever happens (its bar for a large transaction too).
_MEMORY_KB = 80 * 1024
_STATES = ("streaming", "standing_by", "trying_again")


class Readers:
    """Two readers of one slot, each over a line of its own to PostgreSQL, both over the same ones to Kafka."""

    def __init__(self, deployment: Deployment, postgres: PostgresServer, kafka: KafkaServer) -> None:
        self._deployment, self._postgres = deployment, postgres
        self.lines = [Proxy(postgres.port), Proxy(postgres.port)]
        self.to_kafka = [Proxy(broker.line.far, port=broker.line.near) for broker in kafka.brokers]
        self.running: list[Running] = []
        self.peak_kb = 0

    def __enter__(self) -> Readers:
        for proxy in (*self.lines, *self.to_kafka):
            proxy.start()
        for place in (0, 1):
            self.running.append(self._start(place))
            until(lambda: self.holder() is not None, 30, "a reader to stream")
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in (*self.lines, *self.to_kafka):
            proxy.stop()

    def holder(self) -> int | None:
        """Tell which of the two reads the slot, by what they say."""
        for place, process in enumerate(self.running):
            process.must_run()
            if process.last(*_STATES) == "streaming":
                return place
        return None

    def both(self) -> tuple[int, int]:
        """Wait for a holder; give its place and the other's."""
        until(lambda: self.holder() is not None, 60, "a reader to stream")
        place = self.holder() or 0
        return place, 1 - place

    def until_it_says(self, place: int, event: str) -> None:
        """Wait until the last thing that a reader says of its state is this."""
        process = self.running[place]
        until(lambda: process.said(event) and process.last(*_STATES) == event, 30, f"reader {place} to say {event}")

    def kill(self, place: int) -> None:
        self.measure()
        self.running[place].kill()
        self.running[place] = self._start(place)

    def terminate_walsender(self) -> None:
        query = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active"
        self._deployment.database.execute(query, (self._deployment.name,))

    def measure(self) -> None:
        self.peak_kb = max(self.peak_kb, *(process.peak_kb for process in self.running))

    def stop(self) -> list[int]:
        self.measure()
        return [process.stop() for process in self.running]

    def _start(self, place: int) -> Running:
        dsn = self._deployment.database.dsn.replace(f"port={self._postgres.port}", f"port={self.lines[place].port}")
        brokers = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.to_kafka)
        return self._deployment.start("capture", PGHERALD_SOURCE__DSN=dsn, PGHERALD_KAFKA__BOOTSTRAP_SERVERS=brokers)


class Faults:
    """What can happen, each as a method that does it and heals it again."""

    def __init__(self, readers: Readers, database: Database, postgres: PostgresServer, kafka: KafkaServer) -> None:
        self._readers, self._database, self._postgres, self._kafka = readers, database, postgres, kafka
        self._first = 0

    def deck(self) -> dict[str, Fault]:
        """Give every fault with its share of 25 rounds."""
        return {
            "the reader is killed": Fault(self._kill_holder, 4),
            "both readers are killed": Fault(self._kill_both),
            "the standby is killed, which disturbs nobody": Fault(self._kill_standby),
            "the reader is killed in a large transaction": Fault(self._kill_in_large, 3),
            "the reader is stopped, taken over from, and woken": Fault(self._stop_and_wake),
            "the reader is stopped for a moment": Fault(self._stop_shortly),
            "its walsender is terminated": Fault(self._terminate_walsender, 2),
            "its walsender is terminated in a large transaction": Fault(self._terminate_in_large),
            "PostgreSQL is restarted": Fault(lambda _: self._postgres.restart()),
            "PostgreSQL is killed": Fault(partial(servers.kill, [self._postgres]), 2),
            "PostgreSQL hangs": Fault(partial(servers.pause, [self._postgres])),
            "a broker is killed": Fault(partial(servers.kill, self._kafka.brokers), 2),
            "the brokers are restarted": Fault(lambda _: self._kafka.restart()),
            "a broker hangs": Fault(partial(servers.pause, self._kafka.brokers)),
            "a broker is away longer than the transaction may last": Fault(self._lose_brokers),
            "the line to PostgreSQL goes silent": Fault(self._silence_postgres),
            "a line to Kafka goes silent": Fault(self._silence_kafka),
        }

    def _kill_holder(self, chance: random.Random) -> None:
        place, _ = self._readers.both()
        time.sleep(chance.uniform(0, 0.5))
        self._readers.kill(place)

    def _kill_both(self, _: random.Random) -> None:
        for place in (0, 1):
            self._readers.kill(place)

    def _kill_standby(self, chance: random.Random) -> None:
        holder, standby = self._readers.both()
        process = self._readers.running[holder]
        streamed = process.count("streaming")
        self._readers.kill(standby)
        self._readers.until_it_says(standby, "standing_by")
        time.sleep(chance.uniform(0, 0.5))
        assert process.count("streaming") == streamed, "a standby's start disturbed the reader"

    def _kill_in_large(self, chance: random.Random) -> None:
        place, _ = self._readers.both()
        self._write_large(chance)
        self._readers.kill(place)

    def _stop_and_wake(self, chance: random.Random) -> None:
        """As if every timeout had passed: the server has given the slot free, and the stopped one does not know."""
        stopped, other = self._readers.both()
        self._readers.running[stopped].pause()
        self._readers.lines[stopped].abandon()
        self._readers.until_it_says(other, "streaming")
        time.sleep(chance.uniform(0, 1.0))
        self._readers.lines[stopped].resume()
        self._readers.running[stopped].wake()
        self._readers.until_it_says(stopped, "standing_by")

    def _stop_shortly(self, chance: random.Random) -> None:
        place, _ = self._readers.both()
        self._readers.running[place].pause()
        time.sleep(chance.uniform(0.2, 2.0))
        self._readers.running[place].wake()

    def _terminate_walsender(self, chance: random.Random) -> None:
        time.sleep(chance.uniform(0, 0.5))
        self._readers.terminate_walsender()

    def _terminate_in_large(self, chance: random.Random) -> None:
        self._write_large(chance)
        self._readers.terminate_walsender()

    def _lose_brokers(self, chance: random.Random) -> None:
        """Out of reach but alive, or stopped: the transaction's time runs out there with no rival in sight."""
        if chance.random() < 0.5:
            servers.pause(self._kafka.brokers, chance, _PAST_THE_TRANSACTION_S)
            return
        silent = servers.some(self._readers.to_kafka, chance)
        for line in silent:
            line.blackhole()
        time.sleep(_PAST_THE_TRANSACTION_S)
        for line in silent:
            line.resume()

    def _silence_postgres(self, chance: random.Random) -> None:
        """Let the server notice first: it gives the slot free, and the other reader comes over a good line."""
        place, other = self._readers.both()
        self._readers.lines[place].blackhole()
        time.sleep(chance.uniform(0, 1.0))
        self._readers.lines[place].abandon()
        self._readers.until_it_says(other, "streaming")
        time.sleep(chance.uniform(0, 1.0))
        self._heal(self._readers.lines[place], chance)

    def _silence_kafka(self, chance: random.Random) -> None:
        silent = servers.some(self._readers.to_kafka, chance)
        for line in silent:
            line.blackhole()
        time.sleep(chance.uniform(0.5, 3.0))
        for line in silent:
            self._heal(line, chance)

    def _heal(self, line: Proxy, chance: random.Random) -> None:
        """Let what was held back pass, or reset the connections."""
        if chance.random() < 0.5:
            line.cut()
        line.resume()

    def _write_large(self, chance: random.Random) -> None:
        """Commit many rows at once, and wait for a moment at which they are likely to be on their way."""
        self._first -= 1_000_000_000_000
        rows = chance.randint(10_000, 30_000)
        insert = "INSERT INTO people (id, email) SELECT %s - i, 'large' FROM generate_series(1, %s) i"
        self._database.execute(insert, (self._first, rows))
        time.sleep(chance.uniform(0, 0.6))


def run(stage: Stage, number: int, seed: int, console: Console) -> Report:
    """Play the rounds and audit what they left."""
    report, database = Report(console), stage.database
    database.execute(SCHEMA)
    commits = Commits(database, database.name, TABLES)
    with (
        Deployment(stage.folder, database, stage.kafka, database.name, tables=list(TABLES)) as deployment,
        Readers(deployment, stage.postgres, stage.kafka) as readers,
    ):
        deck = Faults(readers, database, stage.postgres, stage.kafka).deck()
        positions = Positions(deployment)
        with _writing(database, seed) as sessions:
            for each in rounds.schedule(deck, number, seed):
                # Now and then the next fault comes before this one is digested.
                settles = each.chance.random() < 0.7
                report.play(each, deck[each.fault].inject, deployment.until_caught_up if settles else readers.measure)
                commits.read()
                positions.read()
        report.facts["transactions"] = sum(session.transactions for session in sessions)
        deployment.until_caught_up()
        commits.read()
        positions.read()
        report.violated("exit codes of stopped readers", [str(code) for code in readers.stop() if code])
        report.facts["peak memory of a reader, MiB"] = readers.peak_kb // 1024
        report.violated("memory in kB", [str(readers.peak_kb)] if readers.peak_kb > _MEMORY_KB else [])
        audit(report, deployment, commits)
        report.facts["position records"] = len(positions.places)
        report.violated("positions that went back", positions.gone_back())
    return report


@contextmanager
def _writing(database: Database, seed: int) -> Iterator[list[Session]]:
    writers = [Writer(database, seed, number) for number in range(1, _WRITERS + 1)]
    sessions: list[Session] = [*writers, Administrator(database, seed)]
    for session in sessions:
        session.start()
    try:
        yield sessions
    finally:
        for session in sessions:
            session.finish()


if __name__ == "__main__":
    main("capture", run)
