"""Migrations are known by their numbers."""

from collections import Counter

from consumers.migrations import FOLDER


def test_each_number_is_one_migrations_alone_and_none_is_left_out() -> None:
    numbers = Counter(int(path.name[:4]) for path in FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    assert numbers == Counter(range(1, len(numbers) + 1))
