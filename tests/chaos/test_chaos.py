"""A short run of each harness; `make chaos-capture` and `make chaos-consumers` play as many rounds as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.chaos import capture, deliveries
from tests.chaos.stage import Stage
from tests.support.database import Database
from tests.support.servers import KafkaServer, PostgresServer

ROUNDS = 25


@pytest.fixture
def stage(postgres: PostgresServer, kafka: KafkaServer, database: Database, tmp_path: Path) -> Stage:
    return Stage(postgres, kafka, database, tmp_path / "d")


@pytest.mark.timeout(400)
def test_capture_loses_repeats_and_reorders_nothing_in_25_rounds_of_faults(stage: Stage) -> None:
    assert "\n".join(capture.run(stage, ROUNDS, seed=1, console=Console()).violations) == ""


@pytest.mark.timeout(400)
def test_every_delivery_ends_and_none_is_doubled_in_silence_in_25_rounds_of_faults(stage: Stage) -> None:
    assert "\n".join(deliveries.run(stage, ROUNDS, seed=1, console=Console()).violations) == ""
