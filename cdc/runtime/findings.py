"""What `pgherald preflight` and `pgherald status` are made of: each part of pgherald adds its own, by entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any, Literal

from cdc.runtime.errors import ServiceError
from cdc.runtime.settings import Settings

#: Entry points: Settings -> Findings.
PREFLIGHT = "pgherald.preflight"
#: Entry points: Settings -> what stands under the entry's name in `pgherald status --json`.
STATUS = "pgherald.status"

Severity = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition, looked at."""

    severity: Severity
    #: What was looked at, and how it is.
    what: str
    #: Why it matters.
    why: str = ""
    #: The statement or command that mends it.
    remedy: str = ""
    #: Does what `remedy` says, where that is safe without asking anyone. Raises ServiceError.
    fix: Callable[[], None] | None = None

    def mended(self) -> tuple[Finding, str]:
        """Apply the remedy; give the condition as it then is, and what came of it."""
        try:
            if self.fix:
                self.fix()
        except ServiceError as exc:
            return self, f"not applied: {exc}"
        return replace(self, severity="ok"), "applied"


def findings(settings: Settings) -> Iterable[tuple[str, Finding]]:
    """Run every check, part by part; a part that can't be reached is a fault of its own."""
    for entry in sorted(entry_points(group=PREFLIGHT), key=lambda entry: entry.name):
        try:
            for finding in entry.load()(settings):
                yield entry.name, finding
        except ServiceError as exc:
            yield entry.name, Finding("fault", exc.message, remedy=exc.hint)


def status(settings: Settings) -> dict[str, Any]:
    """Ask every part how it is; a part that can't answer says why."""
    answers: dict[str, Any] = {}
    for entry in entry_points(group=STATUS):
        try:
            answers[entry.name] = entry.load()(settings)
        except ServiceError as exc:
            answers[entry.name] = {"error": str(exc)}
    return answers
