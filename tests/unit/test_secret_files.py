"""Preflight finds the files of secrets that others may read, whichever section names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.preflight.secrets import secrets
from cdc.runtime.findings import Finding
from cdc.runtime.settings import load

SETTINGS = """
[source]
name = "shop"
dsn_file = "own"
hash_key_file = "{file}"
[[source.tables]]
name = "users"
[kafka]
bootstrap_servers = "127.0.0.1:9092"
ssl_ca_file = "public"
ssl_key_file = "{file}"
[links]
base_url = "https://app.example.org/verify"
secret_file = ["own", "{file}"]
[services.newsletter]
url = "https://newsletter.example.org"
secret_file = "{file}"
"""
KEYS = ["source.hash_key_file", "kafka.ssl_key_file", "links.secret_file", "services.newsletter.secret_file"]


def found(folder: Path, mode: int) -> list[Finding]:
    for name, of_file in (("own", 0o600), ("public", 0o644), ("a secret", mode)):
        (folder / name).touch(of_file)
        (folder / name).write_text("x" * 32)
        (folder / name).chmod(of_file)
    (folder / "pgherald.toml").write_text(SETTINGS.format(file="a secret"))
    return list(secrets(load(folder / "pgherald.toml", {})))


@pytest.mark.parametrize(("mode", "who"), [(0o640, "its group"), (0o604, "everyone"), (0o666, "everyone")])
def test_a_secret_that_others_may_read_is_warned_of_with_the_command(tmp_path: Path, mode: int, who: str) -> None:
    warned = found(tmp_path, mode)
    assert [finding.what.partition(":")[0] for finding in warned] == KEYS
    for finding in warned:
        assert finding.severity == "warning"
        assert who in finding.what
        assert finding.remedy == f"chmod go= '{tmp_path}/a secret'"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_for_its_owner_alone_is_fine(tmp_path: Path, mode: int) -> None:
    assert [finding.severity for finding in found(tmp_path, mode)] == ["ok"]
