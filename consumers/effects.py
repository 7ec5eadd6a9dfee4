"""The effects of a consumer's rules: each delivery goes to what its rule does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from typing import Protocol

from cdc.runtime.sections import Rule
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery


class ClosableEffect(Protocol):
    """What a consumer does with a delivery, and the connections it keeps for it."""

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]: ...
    def close(self) -> None: ...


class Effects:
    """What the rules of one consumer do. Raises ConfigInvalid when it is made for rules that can't be carried out."""

    def __init__(self, settings: Settings, rules: Iterable[Rule]) -> None:
        self._kinds = {rule.name: rule.kind for rule in rules}
        self._made: dict[str, ClosableEffect] = {}
        with ExitStack() as opened:
            for kind in sorted(set(self._kinds.values())):
                self._made[kind] = opened.enter_context(closing(_make(kind, settings)))
            self._opened = opened.pop_all()

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        """Carry out a delivery and give the ledger's result; raises what its effect raises."""
        return self._made[self._kinds[delivery.rule]](delivery, sending)

    def close(self) -> None:
        """Close all connections."""
        self._opened.close()


def _make(kind: str, settings: Settings) -> ClosableEffect:
    """Import only what this consumer needs: the others' libraries cost memory."""
    if kind == "mail":
        from consumers.mail.effect import MailEffect

        return MailEffect(settings)
    if kind == "service":
        from consumers.services.effect import ServiceEffect

        return ServiceEffect(settings)
    if kind == "function":
        from consumers.function import FunctionEffect

        return FunctionEffect(settings)
    from consumers.topic import TopicEffect

    return TopicEffect(settings)
