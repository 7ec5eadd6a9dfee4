"""What an operator changes in the ledger: page by page, each change noted with who made it in the same transaction.

A crash between two pages leaves the first ones changed and noted; the same command again goes on with what is left.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import msgspec

from cdc.runtime.backoff import delay_s
from cdc.runtime.errors import RetryableError
from consumers.ledger import Ledger
from consumers.operations import Row

T = TypeVar("T")
Pages = Iterable[Sequence[Row]]

#: A deadlock or a serialization failure is tried again so many times; then it is for the operator to try later.
_TRIES = 8


class Operator:
    """One person's changes. `who` is noted with each; `moved` is told of each page's length, for the progress."""

    events = 0  #: how many events have left the ledger so far

    def __init__(self, dsn: str, who: str, moved: Callable[[int], None] = lambda _length: None) -> None:
        self._dsn = dsn
        self._who = who
        self._moved = moved
        self._ledgers: dict[str, Ledger] = {}

    def close(self) -> None:
        """Close the connections."""
        for ledger in self._ledgers.values():
            ledger.close()

    def replay(self, pages: Pages, asked: Mapping[str, object], states: Sequence[str], rate: float | None) -> int:
        """Make deliveries pending again, oldest first; tell how many.

        With a rate they come due one after another. They run out of order: later events of their keys may have run.
        """
        values = {"states": list(states), "pause_s": 1.0 / rate if rate else 0.0}
        with self.noted("deliveries replay", asked) as operation:
            begin = 0
            for rows in (rows for page in pages for rows in _by_consumer(page)):
                begin += self._change("replay", rows, values | {"operation": operation, "begin": begin}).total()
            return begin

    def cancel(self, pages: Pages, asked: Mapping[str, object]) -> int:
        """Cancel those that are pending; tell how many."""
        with self.noted("deliveries cancel", asked) as operation:
            return sum(self._change("cancel", page, {"operation": operation}).total() for page in pages)

    def purge(self, pages: Pages, asked: Mapping[str, object], states: Sequence[str]) -> int:
        """Give finished deliveries up for good, and remove what no other delivery needs of their events."""
        with self.noted("deliveries purge", asked) as operation:
            values = {"states": list(states), "operation": operation}
            return sum(self._change("purge", page, values, drop="drop_payloads").total() for page in pages)

    def erase(self, pages: Pages, asked: Mapping[str, object], key: str, pseudonym: str) -> Counter[str]:
        """Remove a key and what the ledger knows of it; count by the state that each had.

        What is pending is cancelled, what is in work stays for a later page.
        """
        with self.noted("erase", asked) as operation:
            values = {"key": key, "pseudonym": pseudonym, "operation": operation}
            changed = sum((self._change("erase", page, values, drop="erase_payloads") for page in pages), Counter())
            self._of("").ask("erase_links", {"key": key, "pseudonym": pseudonym})
            return changed

    def pause(self, consumer: str, lane: str, reason: str) -> None:
        """Let nothing of a lane be claimed until someone resumes it; what is in work ends."""
        with self.noted("lanes pause", {"lane": lane, "reason": reason}, count=lambda: 1):
            self._of(consumer).ask("pause", {"lane": lane, "reason": reason, "by": self._who})

    def resume(self, consumer: str, lane: str) -> bool:
        """End a pause, whoever made it; tell whether there was one."""
        with self.noted("lanes resume", {"lane": lane}, count=lambda: 1):
            return (True,) in self._of(consumer).ask("resume", {"lane": lane})

    @contextmanager
    def noted(self, command: str, asked: Mapping[str, object], count: Callable[[], int] = lambda: 0) -> Iterator[int]:
        """Note that a command begins, and that it came to its end. It is noted before anything is changed.

        `count` tells at the end what it changed, where no page of deliveries did.
        """
        ledger = self._of("")
        given = {"who": self._who, "command": command, "filter": msgspec.json.encode(asked, enc_hook=str).decode()}
        ((operation,),) = ledger.ask("begin_operation", given)
        yield operation
        ledger.ask("end_operation", {"operation": operation, "count": count()})

    def _change(self, name: str, page: Sequence[Row], values: Mapping[str, object], drop: str = "") -> Counter[str]:
        """Change a page's deliveries; count by the state that each had."""
        changed: Counter[str] = Counter()
        for rows in _by_consumer(page):
            found, events = _again(partial(self._change_of, rows[0]["consumer"], name, rows, values, drop))
            changed.update(was for _, was in found)
            self.events += events
        self._moved(len(page))
        return changed

    def _change_of(
        self, consumer: str, name: str, rows: Sequence[Row], values: Mapping[str, object], drop: str
    ) -> tuple[list[tuple[int, str]], int]:
        queues = list({(row["lane"], row["key"]): None for row in rows})
        with self._of(consumer).changing(queues, drops_payloads=bool(drop)) as run:
            # A crash before the commit: nothing of this page is changed or noted. After it: all of it is both.
            changed = run(name, {**values, "ids": [row["id"] for row in rows]})
            removed = run(drop, {"ids": [id_ for id_, _ in changed]}) if drop else []
            return changed, len(removed)

    def _of(self, consumer: str) -> Ledger:
        return self._ledgers.setdefault(consumer, Ledger(self._dsn, consumer))


def _by_consumer(page: Sequence[Row]) -> Iterable[list[Row]]:
    of_consumer: defaultdict[str, list[Row]] = defaultdict(list)
    for row in page:
        of_consumer[row["consumer"]].append(row)
    return of_consumer.values()


def _again(change: Callable[[], T]) -> T:
    """Make a change that others' transactions may undo: PostgreSQL asks one of two in a deadlock to try again."""
    for attempt in range(1, _TRIES):
        try:
            return change()
        except RetryableError as exc:
            if not str(exc.fields.get("sqlstate", "")).startswith("40"):
                raise
        time.sleep(delay_s(attempt, 0.02, 1.0, random.random()))  # noqa: S311  spreads retries
    return change()
