"""How long to wait before the next try. Pure."""

from __future__ import annotations


def delay_s(attempt: int, first_s: float, max_s: float, jitter: float) -> float:
    """Double the wait with each attempt (from 1) up to `max_s`, then take a random part of it.

    Full jitter, with `jitter` in [0, 1) passed in: clients that failed together do not come back together. A twentieth
    of the wait is always kept, so that no try follows at once.
    """
    ceiling = min(max_s, first_s * 2.0 ** min(attempt - 1, 60))
    return float(ceiling * (0.05 + 0.95 * jitter))
