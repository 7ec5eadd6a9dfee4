"""How far Kafka is behind PostgreSQL, in seconds. Pure."""

from __future__ import annotations


class Lag:
    """Remembers the oldest change that was read and is not in Kafka yet; it outlives sessions, which may break."""

    def __init__(self) -> None:
        self._since_us = 0

    def read(self, committed_us: int) -> None:
        """Note a change, by the time of its commit."""
        self._since_us = self._since_us or committed_us

    def published(self, committed_us: int) -> None:
        """Note that everything up to this change is in Kafka; what comes next is no older."""
        self._since_us = committed_us

    def caught_up(self) -> None:
        """Note that nothing is left to read."""
        self._since_us = 0

    def seconds(self, now_s: float) -> float:
        """Tell how old the oldest change is that is not in Kafka yet."""
        return max(0.0, now_s - self._since_us / 1e6) if self._since_us else 0.0
