"""How a loop waits out what will pass: with growing back-off, said once, and once more when it is over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from cdc.runtime.backoff import delay_s
from cdc.runtime.errors import RetryableError
from cdc.runtime.lifecycle import Stop
from cdc.runtime.log import get_logger

T = TypeVar("T")

_FIRST_S, _MAX_S = 0.1, 10.0
_SAY_AGAIN_S = 30.0
_log = get_logger("consumers")


class Patience:
    """The back-off of one loop of one thread. `what` names the thing waited for, in the log."""

    def __init__(self, stop: Stop, what: str) -> None:
        self._stop = stop
        self._what = what
        self._failures = 0
        self._said_at = 0.0

    def insist(self, call: Callable[[], T]) -> T:
        """Call until it succeeds. Raises what is not retryable, and after a stop request the last error."""
        while True:
            try:
                result = call()
            except RetryableError as exc:
                if not self.wait(exc):
                    raise
            else:
                self.over()
                return result

    def wait(self, error: RetryableError) -> bool:
        """Wait for the next try; false: no more, the process is to end."""
        self._failures += 1
        if time.monotonic() - self._said_at > _SAY_AGAIN_S or self._failures == 1:
            _log.warning("waiting", waits_for=self._what, why=str(error), failures=self._failures)
            self._said_at = time.monotonic()
        own = delay_s(self._failures, _FIRST_S, _MAX_S, random.random())  # noqa: S311  spreads retries
        return not self._stop.wait(max(own, error.retry_after_s or 0.0))

    def over(self) -> None:
        """Say that it works again, if it did not."""
        if self._failures:
            _log.info("works_again", waited_for=self._what, failures=self._failures)
            self._failures = 0
