"""The last look before an effect: whether its rule still wants it, and its user is still there as the rule asks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from cdc.runtime.settings import Settings
from consumers.delivery import Delivery
from consumers.effects import ClosableEffect
from consumers.fresh import FreshRows
from consumers.rules import Rules


class LastLook:
    """An effect that happens only if its rule still wants it. Any number of threads may call it."""

    def __init__(self, settings: Settings, rules: Rules, effect: ClosableEffect) -> None:
        self._rules, self._effect, self._rows = rules, effect, FreshRows(settings)

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        """Look, then do it. Raises SkipDelivery, PermanentError, DependencyDown, and what the effect raises."""
        self._rules.look(delivery)
        if self._rules.rereads(delivery):
            self._rules.look_again(delivery, self._rows.read(delivery))
        return self._effect(delivery, sending)

    def close(self) -> None:
        """Close the connections."""
        with closing(self._rows):
            self._effect.close()
