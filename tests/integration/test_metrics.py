"""The reader's metrics and probes, over HTTP."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx

from deploy.local.net import until
from tests.support.database import Database
from tests.support.deployment import Deployment
from tests.support.servers import KafkaServer


def test_a_reader_tells_what_it_published_and_how_its_slot_is(
    tmp_path: Path, database: Database, kafka: KafkaServer, name: str
) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    with Deployment(tmp_path / "d", database, kafka, name, more='[metrics]\nlisten = "127.0.0.1:0"\n') as deployment:
        reader = deployment.capture()
        said = next(line for line in reader.log.read_text().splitlines() if "health_listening" in line)
        url = f"http://{json.loads(said)['address']}"
        assert httpx.get(f"{url}/live").status_code == httpx.get(f"{url}/ready").status_code == 200
        database.execute("INSERT INTO users VALUES (1), (2)")
        deployment.until_caught_up()
        text = until(lambda: _metrics(url, "pgherald_slot_lag_bytes [0-9]"), 30, "the slot to be measured")
        assert 'pgherald_events_published_total{op="c",table="public.users"} 2.0' in text
        assert re.search("pgherald_commit_to_kafka_seconds_count [12]", text)  # in one go, or each row in its own
        assert "pgherald_slot_safe_wal_bytes" in text


def _metrics(url: str, pattern: str) -> str:
    text = httpx.get(f"{url}/metrics").text
    return text if re.search(pattern, text) else ""
