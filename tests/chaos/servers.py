"""What happens to a server, healed again."""

from __future__ import annotations

import random
import time

from tests.support.servers import Server


def kill(server: Server, chance: random.Random) -> None:
    """Kill it as if the power went, and start it a moment later."""
    server.kill()
    time.sleep(chance.uniform(0.0, 0.5))
    server.start()


def pause(server: Server, chance: random.Random) -> None:
    """Let it answer nothing for a while, with its connections open."""
    server.pause()
    time.sleep(chance.uniform(0.5, 3.0))
    server.unpause()
