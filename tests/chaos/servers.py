"""What happens to a server, healed again."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.support.servers import Server

T = TypeVar("T")


def some(all_: Sequence[T], chance: random.Random) -> list[T]:
    """Draw whom a fault befalls: one more often than several, all now and then."""
    return chance.sample(all_, min(len(all_), chance.choice((1, 1, 1, 2, len(all_)))))


def kill(servers: Sequence[Server], chance: random.Random) -> None:
    """Kill some as if the power went, and start them a moment later."""
    for server in some(servers, chance):
        server.kill()
    time.sleep(chance.uniform(0.0, 0.5))
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda server: server.start(), servers))  # none of a cluster answers alone


def pause(servers: Sequence[Server], chance: random.Random, for_s: float | None = None) -> None:
    """Let some answer nothing for a while, with their connections open."""
    befallen = some(servers, chance)
    for server in befallen:
        server.pause()
    time.sleep(for_s or chance.uniform(0.5, 3.0))
    for server in befallen:
        server.unpause()
