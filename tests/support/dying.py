"""A command of pgherald that kills itself at a moment which kills from outside hit too seldom.

    python -m tests.support.dying MOMENT FILE capture --config ...

It dies (SIGKILL) when it comes to the moment for the first time after FILE is there. Moments: `sent` (events went ahead
of their transaction's end, with a position), `produced` (all of them are on the broker, it is still open), `committed`
(it is not, and the slot does not know), `confirmed` (it knows).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from psycopg2 import extras

from cdc import publisher
from cdc.runtime import cli


def main() -> None:
    moment, armed = sys.argv.pop(1), Path(sys.argv.pop(1))

    def die_at(here: str) -> None:
        if here == moment and armed.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    class Dying(Producer):
        def flush(self, *given: Any) -> int:
            left = super().flush(*given)
            die_at("sent")
            return left

        def commit_transaction(self, *given: Any) -> None:
            if armed.exists():
                super().flush()
            die_at("produced")
            super().commit_transaction(*given)
            die_at("committed")

    class Telling(extras.ReplicationCursor):
        told = 0

        def send_feedback(self, *given: Any, **named: Any) -> None:
            super().send_feedback(*given, **named)  # type: ignore[no-untyped-call]
            if named["flush_lsn"] > self.told:
                die_at("confirmed")
            self.told = named["flush_lsn"]

    # What comes from libraries: a class of ours that is compiled has no other subclasses.
    vars(publisher)["Producer"], vars(extras)["ReplicationCursor"] = Dying, Telling
    cli.main()


if __name__ == "__main__":
    main()
