"""Lanes: what is ordered, paused and rate-limited together. How much of each may be taken now; pauses are the ledger's.

A mail rule is a lane, and all of them share the process's connections to the relay. A service is a lane with
connections of its own, and so is a rule with a function or a topic: one that hangs holds up no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cdc.runtime.sections import Rule
from cdc.runtime.settings import Settings
from consumers.planning import lane_of_undecodable

#: So many more mails than connections are prepared at a time: rendering one overlaps with waiting for the relay. With
#: one connection none: mails go one after the other.
_PREPARED = 8

#: How many deliveries of a function or a topic a process has in work; of one key it is one.
TARGET_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane of a consumer; `rate` is per second and process."""

    name: str
    connections: int
    rate: float | None = None


class Bucket:
    """A token bucket: `rate` tokens a second, at most one and a tenth of a second's saved up."""

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._most = 1.0 + rate / 10
        self._tokens = self._most
        self._at_s = now_s

    def tokens(self, now_s: float) -> int:
        """Count what may be taken now."""
        self._tokens = min(self._most, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return int(self._tokens)

    def take(self, count: int) -> None:
        """Use up tokens that `tokens` counted."""
        self._tokens -= count

    @property
    def next_s(self) -> float:
        """How long until there is a token."""
        return max(0.0, (1.0 - self._tokens) / self._rate)


class Lanes:
    """What a process may take of each lane, beside what it has in work. For one thread.

    `workers` deliver at the same time; `ahead` more are taken beforehand, so that no worker waits for a claim.
    """

    def __init__(self, lanes: Sequence[Lane], workers: int, ahead: int, now_s: float) -> None:
        self.workers = workers
        self._ahead = ahead
        self.names = [lane.name for lane in lanes]
        self._connections = {lane.name: lane.connections for lane in lanes}
        self._buckets = {lane.name: Bucket(lane.rate, now_s) for lane in lanes if lane.rate}

    def most(self, in_work: int) -> int:
        """Say how many to take in all; none while there is enough for every worker: few claims that take many."""
        free = self.workers + self._ahead - in_work
        return free if free >= max(1, self._ahead) else 0

    def room(self, in_work: Sequence[str], now_s: float) -> dict[str, int]:
        """Say how many to take of each lane; lanes that are full or have no token now are left out."""
        held = Counter(in_work)
        room = {name: connections - held[name] for name, connections in self._connections.items()}
        for name, bucket in self._buckets.items():
            room[name] = min(room[name], bucket.tokens(now_s))
        return {name: free for name, free in room.items() if free > 0}

    def took(self, lanes: Iterable[str]) -> None:
        """Use up the rate of what was taken."""
        for name in lanes:
            if name in self._buckets:
                self._buckets[name].take(1)

    def next_s(self) -> float:
        """How long until a lane that has no token now gets one; at most a second."""
        return min((bucket.next_s for bucket in self._buckets.values() if bucket.next_s > 0), default=1.0)


def of(settings: Settings, consumer: str, now_s: float) -> Lanes:
    """Give the lanes of a consumer's rules: one a mail rule, a function or a topic, and one a service."""
    rules = settings.rules_of(consumer)
    mailers = 0
    if settings.smtp and any(rule.mail for rule in rules):
        mailers = settings.smtp.connections + min(settings.smtp.connections - 1, _PREPARED)
    # Mails are taken ahead: a claim costs what a short sending does.
    mails = [Lane(_name(rule), 2 * mailers) for rule in rules if rule.mail]
    others = [Lane(_name(rule), TARGET_CONNECTIONS) for rule in rules if rule.target]
    if any(rule.services for rule in rules):
        services = settings.services.items()
        others += [Lane(f"service:{name}", service.connections, service.rate) for name, service in services]
        others.append(Lane("service:(plans)", 1))  # where rules could not tell which services
    workers = mailers + sum(lane.connections for lane in others)
    reread = Lane(lane_of_undecodable(consumer), 1)
    return Lanes([*mails, *others, reread], workers=workers, ahead=mailers, now_s=now_s)


def owners(settings: Settings) -> dict[str, str]:
    """Say which consumer each lane belongs to."""
    consumers = sorted({rule.consumer for rule in settings.rules})
    return {lane: consumer for consumer in consumers for lane in of(settings, consumer, 0.0).names}


def rates(settings: Settings) -> dict[str, float]:
    """Give the rate of each lane that has one, per second: each process keeps to it for itself, and they add up."""
    found = {f"service:{name}": service.rate for name, service in settings.services.items()}
    found |= {_name(rule): settings.smtp.rate for rule in settings.rules if rule.mail and settings.smtp}
    return {lane: rate for lane, rate in found.items() if rate}


def _name(rule: Rule) -> str:
    return f"{rule.kind}:{rule.name}"
