"""Questions of several threads that wait for one connection go together: whoever gets it asks for all that wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class _Asked(Generic[Q, A]):
    """A question of one thread, and what came of it."""

    def __init__(self, question: Q) -> None:
        self.question = question
        self.answer: A | None = None
        self.error: Exception | None = None
        self.done = False


class Together(Generic[Q, A]):
    """Asks one time for many. Any thread may ask; `ask` runs in one at a time, and is free to use one connection."""

    def __init__(self, ask: Callable[[Sequence[Q]], Mapping[Q, A]], usual: A) -> None:
        self._ask, self._usual = ask, usual
        self._waiting: deque[_Asked[Q, A]] = deque()  # its single operations are atomic
        self._turn = threading.Lock()

    def __call__(self, question: Q) -> A:
        """Give the answer, or the usual one where there is none. Raises what `ask` raises to each who waited for it."""
        mine: _Asked[Q, A] = _Asked(question)
        self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                self._ask_all()
        if mine.error:
            raise mine.error
        return self._usual if mine.answer is None else mine.answer

    def _ask_all(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            answers = self._ask([asked.question for asked in batch])
            for asked in batch:
                asked.answer = answers.get(asked.question)
        except Exception as exc:
            for asked in batch:
                asked.error = exc
        for asked in batch:
            asked.done = True
