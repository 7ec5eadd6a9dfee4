"""Tells a bad release from bad luck: many users of a lane who fail alike in a row, with no success between them. Pure.

One user's dead letter is that user's. Twenty of them for one and the same reason are a broken template, a `when` that
does not evaluate, a service that changed its mind: the lane stops for an operator before the topic is emptied into dead
letters. What was in work then may still die; everyone else's deliveries stay pending.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from consumers.delivery import Mark
from consumers.outcome import Dead, Outcome, Retry, Sent

#: So many users stop their lane. Above what chance gives a small site, below what anybody wants to replay by hand.
ALIKE_MAX = 20


@dataclass(slots=True)
class Tally:
    """What a batch of outcomes says about its lane."""

    #: (how it failed, whom) of those behind the last success.
    failed: list[tuple[str, str]] = field(default_factory=list)


def tally(marks: Iterable[Mark]) -> dict[str, Tally]:
    """Sum up outcomes by lane, in the order in which lanes are to be locked."""
    by_lane = sorted(marks, key=lambda mark: mark.delivery.lane)
    return {lane: _tally(group) for lane, group in groupby(by_lane, lambda mark: mark.delivery.lane)}


def _tally(marks: Iterable[Mark]) -> Tally:
    found = Tally()
    for mark in marks:
        match mark.outcome:
            case Sent():
                found.failed.clear()
            case Dead(alike=alike) | Retry(alike=alike) if alike:
                # Without a key nobody knows whose it is: each counts.
                found.failed.append((alike, mark.delivery.key or str(mark.delivery.id)))
    return found


def is_counted(outcome: Outcome) -> bool:
    """Tell whether an outcome is a failure that others may share."""
    return isinstance(outcome, Dead | Retry) and bool(outcome.alike)


def reason(lane: str, alike: str) -> str:
    """Say why a lane stopped, and what to do."""
    return (
        f"systemic: {ALIKE_MAX} users in a row failed alike ({alike}). Mend the cause, then `pgherald lanes resume "
        f"{lane}`, and `pgherald deliveries replay --lane {lane} --state dead` for those who are dead"
    )
