"""The rounds of a chaos run: a seed decides which fault comes when, and a run is told round by round."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

#: A fault that is injected and healed again; its moments and durations are drawn from what it is given.
Inject = Callable[[random.Random], None]


@dataclass(frozen=True)
class Fault:
    """One kind of fault, and how many rounds of a deck it gets."""

    inject: Inject
    count: int = 1


@dataclass(frozen=True)
class Round:
    """One round. The same seed gives the same fault, moments and durations."""

    number: int
    fault: str
    chance: random.Random


def schedule(deck: Mapping[str, Fault], rounds: int, seed: int) -> Iterator[Round]:
    """Deal the rounds: every deck has each fault as often as it counts, in an order of its own."""
    deal = random.Random(seed)
    cards: list[str] = []
    for number in range(1, rounds + 1):
        if not cards:
            cards = [name for name, fault in deck.items() for _ in range(fault.count)]
            deal.shuffle(cards)
        yield Round(number, cards.pop(), random.Random(f"{seed}:{number}"))


@dataclass
class Report:
    """What a run tells: a line a round, then a table, then what violates the guarantees."""

    console: Console
    violations: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    _took_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def play(self, each: Round, inject: Inject, settle: Callable[[], None]) -> None:
        """Play one round to its end. Time counts from the fault until all is well again."""
        began_at = time.monotonic()
        inject(each.chance)
        settle()
        took_s = time.monotonic() - began_at
        self._took_s[each.fault].append(took_s)
        self.console.print(f"{each.number:>4}  {each.fault:<58}{took_s:>6.1f} s")

    def violated(self, kind: str, what: list[str]) -> None:
        """Keep what violates a guarantee; a few examples are enough to find it."""
        if what:
            self.violations.append(f"{kind}: {len(what)}, e.g. {', '.join(what[:3])}")

    def end(self) -> None:
        """Print the table, the facts and the verdict."""
        table = Table("fault", "rounds", "median s", "longest s", box=None)
        for fault, took in sorted(self._took_s.items()):
            table.add_row(fault, str(len(took)), f"{statistics.median(took):.1f}", f"{max(took):.1f}")
        self.console.print(table)
        for name, fact in self.facts.items():
            self.console.print(f"{name:<40}{fact}")
        for violation in self.violations:
            self.console.print(f"VIOLATED  {violation}")
        self.console.print("nothing is violated" if not self.violations else f"{len(self.violations)} violations")
