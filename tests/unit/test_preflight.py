"""Preflight's judgement of a server's settings: what is wrong, and how it is changed where it runs."""

from __future__ import annotations

import pytest

from cdc.preflight import server
from cdc.preflight.managed import AZURE, AZURE_SINGLE, CLOUD_SQL, RDS, Provider, Server
from cdc.runtime.findings import Finding

WELL = {
    "server_version_num": "150018",
    "wal_level": "logical",
    "max_slot_wal_keep_size": "20480",
    "server_encoding": "UTF8",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
}


def judged(
    changed: dict[str, str],
    *,
    slots: int = 1,
    walsenders: int = 1,
    slot_exists: bool = False,
    roles: tuple[str, ...] = (),
) -> list[Finding]:
    found = server.look(Server(WELL | changed, roles), slots=slots, walsenders=walsenders, slot_exists=slot_exists)
    return [finding for finding in found if finding.severity != "ok"]


def test_a_server_that_is_well_has_no_fault() -> None:
    assert judged({}) == []


@pytest.mark.parametrize(
    ("settings", "roles", "provider"),
    [
        ({}, ["postgres"], None),
        ({"plpgsql.extra_errors": "none"}, [], None),
        ({"rds.logical_replication": "0"}, [], RDS),
        ({}, ["rds_superuser", "rds_replication"], RDS),
        ({"cloudsql.logical_decoding": "off"}, [], CLOUD_SQL),
        ({}, ["cloudsqlsuperuser"], CLOUD_SQL),
        ({"azure.extensions": ""}, ["azure_pg_admin"], AZURE),
        ({"azure.replication_support": "REPLICA"}, [], AZURE_SINGLE),
    ],
)
def test_who_runs_it_is_told_by_settings_and_roles(
    settings: dict[str, str], roles: list[str], provider: Provider | None
) -> None:
    assert Server(settings, roles).provider is provider


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ({}, "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL"),
        ({"rds.logical_replication": "0"}, "set rds.logical_replication = 1 in the DB parameter group"),
        ({"cloudsql.logical_decoding": "off"}, "set cloudsql.logical_decoding = on in the instance's database flags"),
        ({"azure.extensions": ""}, "set wal_level = logical in the server parameters, then restart"),
        ({"azure.replication_support": "REPLICA"}, "set azure.replication_support = LOGICAL in the server parameters"),
    ],
)
def test_wal_level_is_changed_the_providers_way(marker: dict[str, str], says: str) -> None:
    (finding,) = judged({"wal_level": "replica", **marker})
    assert finding.severity == "fault"
    assert says in finding.remedy
    assert finding.why
    assert ("ALTER SYSTEM" in finding.remedy) is (not marker)


@pytest.mark.parametrize(
    ("marker", "statement"),
    [
        ({}, 'ALTER ROLE "app" REPLICATION;'),
        ({"rds.extensions": ""}, 'GRANT rds_replication TO "app";'),
        ({"cloudsql.iam_authentication": "on"}, 'ALTER ROLE "app" REPLICATION;'),
    ],
)
def test_the_right_to_read_slots_is_given_the_providers_way(marker: dict[str, str], statement: str) -> None:
    assert Server(marker).allow_replication('"app"') == statement


def test_a_slot_without_limit_is_a_warning() -> None:
    (finding,) = judged({"max_slot_wal_keep_size": "-1"})
    assert finding.severity == "warning"
    assert "max_slot_wal_keep_size = '20GB'" in finding.remedy


@pytest.mark.parametrize(
    ("slots", "walsenders", "slot_exists", "severities"),
    [
        (10, 1, False, ["fault"]),
        (10, 1, True, []),
        (9, 1, False, ["fault"]),
        (8, 1, False, []),
        (1, 8, False, []),
        (1, 9, False, ["warning"]),
        (1, 10, False, ["fault"]),
    ],
)
def test_room_for_the_slot_and_its_reader_is_counted(
    slots: int, walsenders: int, slot_exists: bool, severities: list[str]
) -> None:
    found = judged({}, slots=slots, walsenders=walsenders, slot_exists=slot_exists)
    assert [finding.severity for finding in found] == severities


@pytest.mark.parametrize(
    ("changed", "told"), [({"server_version_num": "120022"}, "13"), ({"server_encoding": "LATIN1"}, "LATIN1")]
)
def test_what_can_not_be_read_is_a_fault(changed: dict[str, str], told: str) -> None:
    (finding,) = judged(changed)
    assert finding.severity == "fault"
    assert told in finding.what
