"""Migrations are known by their numbers."""

from collections import Counter
from pathlib import Path

import pytest

from cdc.runtime.errors import FatalError
from consumers import migrations
from consumers.migrations import FOLDER, migrate


def test_each_number_is_one_migrations_alone_and_none_is_left_out() -> None:
    numbers = Counter(int(path.name[:4]) for path in FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    assert numbers == Counter(range(1, len(numbers) + 1))


def test_two_migrations_of_one_number_apply_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0001_ledger", "0002_mine", "0002_yours"):
        (tmp_path / f"{name}.sql").touch()
    monkeypatch.setattr(migrations, "FOLDER", tmp_path)
    with pytest.raises(FatalError, match=r"0002_mine\.sql and 0002_yours\.sql have one number"):
        migrate("no database is asked")
