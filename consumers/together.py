"""Questions of several threads that wait for one connection go together: one of them asks for all that wait."""

from __future__ import annotations

import threading
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
        self.woken = threading.Lock()  # released once: when it is done, or when it is its thread's turn to ask
        self.woken.acquire()


class Together(Generic[Q, A]):
    """Asks one time for many. Any thread may ask; `ask` runs in one at a time, and is free to use one connection."""

    def __init__(self, ask: Callable[[Sequence[Q]], Mapping[Q, A]], usual: A) -> None:
        self._ask, self._usual = ask, usual
        self._lock = threading.Lock()  # of what follows
        self._waiting: list[_Asked[Q, A]] = []
        self._asking = False

    def __call__(self, question: Q) -> A:
        """Give the answer, or the usual one where there is none. Raises what `ask` raises to each who waited for it."""
        mine: _Asked[Q, A] = _Asked(question)
        with self._lock:
            self._waiting.append(mine)
            wait, self._asking = self._asking, True
        if wait:
            mine.woken.acquire()
        if not mine.done:
            self._ask_all()
        if mine.error:
            raise mine.error
        return self._usual if mine.answer is None else mine.answer

    def _ask_all(self) -> None:
        """Ask for all that wait, then wake them, and whoever asks next: no answer waits behind another question."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            answers = self._ask([asked.question for asked in batch])
            for asked in batch:
                asked.answer = answers.get(asked.question)
        except Exception as exc:
            for asked in batch:
                asked.error = exc
        with self._lock:
            following = self._waiting[:1]
            self._asking = bool(following)
        for asked in batch:
            asked.done = True
        for asked in [*following, *batch]:
            asked.woken.release()
