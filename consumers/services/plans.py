"""From plans to services: who is to be told what when a user comes, changes the plan or goes. Pure.

The rules engine plans deliveries with it and the effect finds the same call again, so a delivery need not say its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from cdc.contract.envelope import UNAVAILABLE, Envelope, Row

Plans = Mapping[str, Sequence[str]]
Call = Literal["subscribe", "unsubscribe"]


def services_of(plan: str | None, plans: Plans) -> list[str]:
    """List the services of a plan in the settings' order; no plan, and one that settings do not name, has none."""
    return list(dict.fromkeys(plans.get(plan, ()))) if plan is not None else []


def difference(before: Sequence[str], after: Sequence[str]) -> tuple[list[str], list[str]]:
    """Give (to unsubscribe, to subscribe), each in its own order."""
    return [name for name in before if name not in after], [name for name in after if name not in before]


def calls(kind: str | None, previous_plan: str | None, plan: str | None, plans: Plans) -> list[tuple[str, Call]]:
    """List (service, call) for an event: `created`, `deleted` or `changed`; of any other kind none.

    A service stands there once at most: its name identifies the delivery.
    """
    before = services_of(previous_plan, plans) if kind in ("changed", "deleted") else []
    after = services_of(plan, plans) if kind in ("changed", "created") else []
    leave, join = difference(before, after)
    gone: list[tuple[str, Call]] = [(name, "unsubscribe") for name in leave]
    return [*gone, *((name, "subscribe") for name in join)]


def of_envelope(envelope: Envelope, column: str) -> tuple[str | None, str | None]:
    """Read (previous plan, plan) from the rows of an event; without a row there is none."""
    previous, plan = _plan(envelope.before, column), _plan(envelope.after, column)
    return (None if previous == UNAVAILABLE else previous), (previous if plan == UNAVAILABLE else plan)


def _plan(row: Row | None, column: str) -> str | None:
    value = (row or {}).get(column)
    return None if value is None else str(value)
