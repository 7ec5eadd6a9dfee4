"""The whole path with the real commands, killed at random moments under load, then audited from outside."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.net import until
from tests.support import audit
from tests.support.application import INSERT, TABLE, Registrations, World
from tests.support.database import Database
from tests.support.deployment import Deployment, Running
from tests.support.servers import KafkaServer

ROUNDS = 10
CONNECTIONS = 4
FINAL = ("sent", "skipped", "dead", "unknown", "cancelled")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "world") as made:
        yield made


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str, world: World) -> Iterator[Deployment]:
    database.execute(TABLE.read_text())
    with Deployment(tmp_path / "d", database, kafka, name, tables=['public."User"'], more=world.settings) as made:
        yield made


class Supervisor:
    """Keeps the commands running, and kills them."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._commands = ["capture", "consume mail", "consume mail", "consume services"]
        self._running: list[Running] = [self._start(command) for command in self._commands]
        self.kills: Counter[str] = Counter()
        # What is registered before the slot is made is history, and mails nobody.
        until(lambda: self._running[0].said("streaming"), 30, "the reader to stream")

    def _start(self, command: str) -> Running:
        return self._deployment.start(*command.split())

    def kill(self, place: int) -> None:
        command = self._commands[place]
        self._running[place].kill()
        self.kills[command] += 1
        self._running[place] = self._start(command)

    def stop(self) -> list[int]:
        return [process.stop() for process in self._running]


def unfinished(database: Database) -> int:
    query = "SELECT count(*) FROM pgherald.delivery WHERE finished_at IS NULL"
    return int(database.execute(query)[0][0])


def planned(database: Database, rule: str) -> int:
    return int(database.execute("SELECT count(*) FROM pgherald.delivery WHERE rule = %s", (rule,))[0][0])


@pytest.mark.timeout(300)
def test_ten_rounds_of_kills_lose_nothing_and_double_nothing_in_silence(
    deployment: Deployment, database: Database, world: World
) -> None:
    supervisor = Supervisor(deployment)
    registrations = Registrations(database, seed=7)
    chance = random.Random(7)
    for kills in range(ROUNDS):
        time.sleep(chance.uniform(0.7, 2.0))  # the moment of the kill is what is random here
        supervisor.kill(kills % 4)
    registrations.finish()

    users = {id_: (email, plan) for id_, email, plan in database.execute('SELECT id, email, plan FROM "User"')}
    until(lambda: planned(database, "welcome") >= len(users), 60, "every registration to be planned")
    until(lambda: unfinished(database) == 0, 90, "every delivery to reach its end", every_s=0.5)
    assert set(supervisor.stop()) == {0}

    # The topic tells the same as the table, once and in order.
    records = deployment.records("public.User")
    assert audit.repeated(records) == []
    assert audit.out_of_order(records) == []
    assert {key: row["email"] for key, row in audit.replayed(records).items()} == {
        f'{{"id":"{id_}"}}': email for id_, (email, _) in users.items()
    }

    # Every committed registration has exactly one welcome delivery, and no other has any.
    deliveries = database.execute("SELECT key, rule, state, result ->> 'message_id' FROM pgherald.delivery")
    welcomes = Counter(key for key, rule, _, _ in deliveries if rule == "welcome")
    assert welcomes == Counter({f'{{"id":"{id_}"}}': 1 for id_ in users})
    states = Counter((rule, state) for _, rule, state, _ in deliveries)
    without_address = sum(1 for email, _ in users.values() if email is None)
    assert states["welcome", "skipped"] == states["verify", "skipped"] == without_address
    assert not [state for _, state in states if state not in ("sent", "skipped", "unknown")]

    # Mails: one a delivery; in doubt is only what may have been on its way when a mailer was killed.
    mails = Counter(message_id for message_id, _ in world.mails())
    sent = {message_id for _, rule, state, message_id in deliveries if rule == "welcome" and state == "sent"}
    assert all(mails[message_id] == 1 for message_id in sent)
    in_doubt = states["welcome", "unknown"]
    assert states["verify", "unknown"] == 0  # it says in_doubt = "resend"
    assert in_doubt <= supervisor.kills["consume mail"] * CONNECTIONS
    resent = sum(count - 1 for count in mails.values())
    assert resent <= supervisor.kills["consume mail"] * CONNECTIONS
    welcomed = Counter(address for message_id, address in world.mails() if message_id in sent)
    assert set(welcomed.values()) <= {1}

    # Calls: each service of the plan, once a user.
    calls = Counter((service, key) for _, service, key in world.calls())
    services = {"free": ("newsletter",), "pro": ("newsletter", "storage")}
    assert calls == Counter(
        {(service, f'{{"id":"{id_}"}}'): 1 for id_, (_, plan) in users.items() for service in services[plan]}
    )


def test_a_registration_is_followed_by_its_mails_and_calls(
    deployment: Deployment, database: Database, world: World
) -> None:
    supervisor = Supervisor(deployment)
    database.execute(INSERT, ("ada", "Ada", "ada@example.org", "hunter2", "pro"))
    until(lambda: len(world.mails()) == 2 and len(world.calls()) == 2, 30, "two mails and two calls")
    assert {address for _, address in world.mails()} == {"ada@example.org"}
    assert {(service, key) for _, service, key in world.calls()} == {
        ("newsletter", '{"id":"ada"}'),
        ("storage", '{"id":"ada"}'),
    }
    assert set(supervisor.stop()) == {0}
    texts = [path.read_text(errors="replace") for path in deployment.folder.glob("*.log")]
    texts += [path.read_text() for path in (world.folder / "inbox").glob("[!.]*.eml")]
    assert not any("hunter2" in text for text in texts)
    assert not any("ada@example.org" in text for text in texts[: -len(world.mails())])
