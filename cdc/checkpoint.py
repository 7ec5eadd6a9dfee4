"""Which LSN may be confirmed to the slot, and when the next message may be read. Pure.

Confirming too much loses changes for good, so this is the one place that decides. It also guards against psycopg2,
which confirms on its own: on a keepalive it raises flush to the server's position when the last message's data_start is
at or below what was confirmed before (psycopg/pqpath.c, pq_read_replication_message). In the middle of a long
transaction that would pass over an earlier one that is read and not yet in Kafka.
"""

from __future__ import annotations

from cdc.contract.lsn import format_lsn
from cdc.runtime.errors import PositionMismatch


class Checkpoint:
    """Follows the stream: messages read, transactions completed, acknowledged by Kafka, confirmed to the slot."""

    def __init__(self) -> None:
        #: End of the last transaction whose C was read.
        self._completed_lsn = 0
        #: End of the last transaction whose events are all in Kafka, committed.
        self._acknowledged_lsn = 0
        #: The last LSN that was given to send_feedback: psycopg2 compares with it.
        self.confirmed_lsn = 0
        #: The last message's data_start.
        self.read_lsn = 0

    def read(self, data_start: int) -> None:
        """Note a message, before it is interpreted."""
        self.read_lsn = data_start

    def complete(self, end_lsn: int) -> None:
        """Note the end of a transaction, or of a message outside of one. Raises PositionMismatch on a step back."""
        if end_lsn < self._completed_lsn:
            before, after = format_lsn(self._completed_lsn), format_lsn(end_lsn)
            raise PositionMismatch(f"the slot went back from {before} to {after}")
        self._completed_lsn = end_lsn

    def acknowledge(self) -> None:
        """Note that everything read so far is in Kafka, or needs not be."""
        self._acknowledged_lsn = self._completed_lsn

    def confirm(self, lsn: int) -> None:
        """Note what was given to send_feedback. Raises PositionMismatch when it is more than Kafka acknowledged."""
        if lsn > self._acknowledged_lsn or lsn < self.confirmed_lsn:
            raise PositionMismatch(
                f"{format_lsn(lsn)} may not be confirmed", acknowledged=format_lsn(self._acknowledged_lsn)
            )
        self.confirmed_lsn = lsn

    @property
    def waiting(self) -> bool:
        """Tell whether a completed transaction is not yet acknowledged."""
        return self._completed_lsn > self._acknowledged_lsn

    @property
    def must_drain(self) -> bool:
        """Tell whether reading on could make psycopg2 confirm what waits for Kafka: commit there first."""
        return self.read_lsn <= self.confirmed_lsn and self.waiting

    def safe_lsn(self) -> int:
        """Give what may be confirmed now: never past an acknowledged transaction.

        While something waits, the confirmed LSN also stays below the last message's data_start: psycopg2's own rule
        then can't fire before the next message is read, and `must_drain` is asked before that.
        """
        if not self.waiting or self._acknowledged_lsn < self.read_lsn:
            return max(self._acknowledged_lsn, self.confirmed_lsn)
        return self.confirmed_lsn
