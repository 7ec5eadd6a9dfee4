"""Changes under a replication origin: named in the envelope, or left out where the settings name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy.local.net import until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer


@pytest.fixture
def deployment(tmp_path: Path, database: Database, kafka: KafkaServer, name: str) -> Iterator[Deployment]:
    """Capture a table with two origins in its cluster, `<name> back` and `<name> away`."""
    database.execute("CREATE TABLE users (id bigint PRIMARY KEY)")
    origins = [f"{name} back", f"{name} away"]
    for origin in origins:
        database.execute("SELECT pg_replication_origin_create(%s)", (origin,))
    try:
        with Deployment(tmp_path / "d", database, kafka, name) as made:
            yield made
    finally:
        for origin in origins:
            database.execute("SELECT pg_replication_origin_drop(%s)", (origin,))


def skip(deployment: Deployment, *origins: str) -> None:
    named = ", ".join(f'"{deployment.name} {origin}"' for origin in origins)
    text = deployment.path.read_text()
    deployment.path.write_text(text.replace("[source]\n", f"[source]\nskip_origins = [{named}]\n"))


def insert(deployment: Deployment, id_: int, origin: str = "") -> None:
    with closing(deployment.database.connect()) as session, session.cursor() as cursor:
        if origin:
            cursor.execute("SELECT pg_replication_origin_session_setup(%s)", (f"{deployment.name} {origin}",))
        cursor.execute("INSERT INTO users VALUES (%s)", (id_,))


def origins(deployment: Deployment) -> dict[str | None, str | None]:
    return {record.key: record.value["source"]["origin"] for record in deployment.events() if record.value}


def test_the_envelope_names_the_origin_and_those_in_the_settings_are_left_out(deployment: Deployment) -> None:
    skip(deployment, "back")
    deployment.capture()
    for id_, origin in enumerate(["", "back", "away", "back", ""], 1):
        insert(deployment, id_, origin)
    deployment.until_caught_up()
    assert origins(deployment) == {'{"id":1}': None, '{"id":3}': f"{deployment.name} away", '{"id":5}': None}


def test_a_slot_of_which_everything_is_left_out_moves_on(deployment: Deployment) -> None:
    skip(deployment, "back")
    deployment.capture()
    insert(deployment, 1, "back")
    (end,) = deployment.database.execute("SELECT pg_current_wal_lsn()::text")[0]
    query = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
    until(
        lambda: deployment.database.execute(query, (end, deployment.name)) == [(True,)], 30, "the slot to be confirmed"
    )
    assert deployment.visible() == 0


def test_a_change_of_the_setting_takes_effect_with_the_next_start(deployment: Deployment) -> None:
    reader = deployment.capture()
    insert(deployment, 1, "back")
    deployment.until_caught_up()
    assert reader.stop() == 0
    skip(deployment, "back", "gone")
    preflight = deployment.run("preflight")
    assert preflight.returncode == 0
    assert f"no replication origin {deployment.name} gone" in preflight.stdout
    insert(deployment, 2, "back")
    insert(deployment, 3, "away")
    reader = deployment.capture()
    assert reader.said("no_such_origin")
    deployment.until_caught_up()
    assert origins(deployment).keys() == {'{"id":1}', '{"id":3}'}
