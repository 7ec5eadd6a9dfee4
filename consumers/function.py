"""A function of the user's own as target: `target = "package.module:function"`.

It is called in a worker's thread with one `FunctionCall`, and what it raises decides: errors of cdc.runtime.errors and
SkipDelivery mean what they mean everywhere, any other is an attempt that failed. It may be called again for the same
delivery (a crash after its work and before the record of it), always under the same identity.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from cdc.contract.envelope import Row
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.sections import Rule
from cdc.runtime.settings import Settings
from consumers.delivery import Delivery, digest
from consumers.rules import SeenEvent, SeenUser, names


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """What a function is told: the names of templates, and whose delivery it is."""

    identity: str  #: the same in every attempt, and nobody else's: work once for each
    rule: str
    key: str | None
    attempt: int
    event: SeenEvent
    before: Row | None
    after: Row | None
    user: SeenUser
    changed: Row


Function = Callable[[FunctionCall], object]


class FunctionEffect:
    """Calls the functions of rules. Raises ConfigInvalid when it is made for one that can't be found."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._functions = load(settings.rules)

    def __call__(self, delivery: Delivery, sending: Callable[[], None]) -> dict[str, object]:
        """Call the function of a delivery's rule and give the ledger's result; raises what the function raises."""
        call = _call(delivery, self._settings)
        # A crash after this: the lease runs out and the function is called again, with the same identity.
        sending()
        try:
            self._functions[delivery.rule](call)
        except SystemExit as exc:
            raise RuntimeError("the function wanted to end the process") from exc
        return {"identity": call.identity}

    def close(self) -> None:
        """Hold nothing."""


def load(rules: Iterable[Rule]) -> dict[str, Function]:
    """Find the functions of all rules that have one, by the rule's name. Raises ConfigInvalid with every fault."""
    found, faults = {}, []
    for rule in rules:
        if rule.kind == "function":
            try:
                found[rule.name] = _find(str(rule.target))
            except Exception as exc:
                faults.append(f"  rules.{rule.name}.target: {rule.target} is no function: {type(exc).__name__}: {exc}")
    if faults:
        raise ConfigInvalid("\n".join(["settings do not fit:", *faults]))
    return found


def _find(target: str) -> Function:
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    if not callable(function):
        raise TypeError("it can't be called")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError("it would only begin when someone awaits or iterates it; write a plain function")
    return cast(Function, function)


def _call(delivery: Delivery, settings: Settings) -> FunctionCall:
    seen: Any = names(delivery.envelope, settings.user, delivery.event_id, delivery.key)
    identity = digest(delivery.event_id, delivery.rule, delivery.target)
    return FunctionCall(identity, delivery.rule, delivery.key, delivery.attempt, **seen)
