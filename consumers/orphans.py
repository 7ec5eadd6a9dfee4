"""Unfinished deliveries of rules that this process does not know: renamed, removed, or of a version that is not here.

They stay: a process that knows the rule may come. That nobody may come is said again and again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from cdc.runtime.lifecycle import Stop
from consumers import journal
from consumers.ledger import Ledger
from consumers.patience import Patience
from consumers.planning import UNDECODABLE

_EVERY_S = 300.0


def run(ledger: Ledger, rules: Iterable[str], stop: Stop) -> None:
    """Look for them until a stop is requested."""
    patience, known = Patience(stop, "the ledger, to look for rules nobody knows"), [*rules, UNDECODABLE]
    while not stop.requested:
        journal.write_orphans(patience.insist(partial(ledger.orphans, known)))
        ledger.close()
        stop.wait(_EVERY_S)
