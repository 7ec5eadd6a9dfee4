"""What becomes of a delivery whose effect failed. Pure: the clock and chance are passed in.

An answer about this one delivery counts as an attempt of it. A dependency that is down for everyone counts for its lane
and spends no one's attempt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from cdc.runtime.backoff import delay_s
from cdc.runtime.errors import (
    ConnectionLost,
    Deferred,
    DependencyDown,
    DependencyGone,
    FatalError,
    PermanentError,
    RetryableError,
    ServiceError,
)
from cdc.runtime.sections import Rule

#: A lane's pause doubles from the first to the last; both are short, as one probe costs nothing.
PAUSE_FIRST_S, PAUSE_MAX_S = 1.0, 60.0
#: The longest pause of a lane that the other side may ask for: `try again in 24 hours` is a word about everyone's mail,
#: often a template's, and it may be well again in a minute. A probe costs one connection.
PAUSE_ASKED_MAX_S = 15 * 60.0

Error = dict[str, object]

#: What stays with a mail, in error or result, once a final dot of it had no answer: it may have arrived then.
IN_DOUBT = "in_doubt"
_EARLIER = ", and an earlier attempt may have arrived"


class SkipDelivery(ServiceError):
    """There is nothing to be done any more; an effect raises it before its point of no return.

    Its message is the reason that the ledger keeps: a word of ours, never a value.
    """


class NotYet(RetryableError):
    """It is not this delivery's turn: nothing was tried, and it rests for `retry_after_s`."""


class Busy(NotYet):
    """All that this process may do at once with the other side hangs there: another process may have room."""


class LeaseLost(RetryableError):
    """This worker no longer holds the delivery, or not for long enough: nothing may be sent."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The other side accepted it."""

    result: dict[str, object]


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again later; the attempt is spent."""

    after_s: float
    error: Error
    alike: str = ""  #: how it failed, if others may fail the same way; empty: it is this delivery's own
    pause_s: float | None = None  #: as an Unknown's


@dataclass(frozen=True, slots=True)
class Skipped:
    """There was nothing to be done any more; the reason stays."""

    error: Error


@dataclass(frozen=True, slots=True)
class Dead:
    """Give up. It stays, with the reason, and can be replayed."""

    error: Error
    alike: str = ""  #: as a Retry's


@dataclass(frozen=True, slots=True)
class Unknown:
    """The mail may have been sent or not, and the rule says not to send it again."""

    error: Error
    #: How long the lane rests too: a relay that answers no final dot would leave everyone's mail in doubt.
    pause_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Everyone of this lane waits; the attempt is given back."""

    pause_s: float  #: infinite: until an operator resumes it
    error: Error


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Nothing was tried: anyone may take it, after a rest; the attempt is given back."""

    after_s: float = 0.0


Outcome = Sent | Skipped | Retry | Dead | Unknown | Pause | GivenBack


class Tried(Protocol):
    """What a decision needs to know about a delivery."""

    @property
    def attempt(self) -> int: ...
    @property
    def failing_since(self) -> datetime | None: ...
    @property
    def lane_failures(self) -> int: ...
    @property
    def in_doubt(self) -> bool: ...


def decide(error: Exception, delivery: Tried, policy: Rule, *, sending: bool, now: datetime, jitter: float) -> Outcome:
    """Say what a failed attempt means. `sending`: the dot or the call may have left before the failure.

    `jitter` is in [0, 1).
    """
    became = _decide(error, delivery, policy, sending=sending, now=now, jitter=jitter)
    return _remember(became, delivery.in_doubt, now=sending and policy.mail is not None and not _is_answer(error))


def is_final(error: Exception, policy: Rule, *, sending: bool) -> bool:
    """Tell whether an attempt that its own process cut off counts nonetheless: it was answered, or is in doubt."""
    return isinstance(error, Deferred | PermanentError | SkipDelivery) or (sending and policy.mail is not None)


def sent(result: dict[str, object], delivery: Tried) -> Sent:
    """Say that it was taken; of a mail of which an earlier attempt may have arrived, that it may be there twice."""
    return Sent(result | {IN_DOUBT: True} if delivery.in_doubt else result)


def _decide(error: Exception, delivery: Tried, policy: Rule, *, sending: bool, now: datetime, jitter: float) -> Outcome:
    if isinstance(error, SkipDelivery):
        return Skipped(skipped(error.message))
    if isinstance(error, NotYet):
        return GivenBack(_asked_s(error, PAUSE_ASKED_MAX_S))
    if isinstance(error, LeaseLost) or (isinstance(error, FatalError) and not sending):
        return GivenBack()
    if isinstance(error, DependencyDown):
        return Pause(_pause_s(error, delivery.lane_failures, jitter), describe(error))
    if isinstance(error, PermanentError):
        return Dead(describe(error), _alike(error))
    lost = sending and isinstance(error, ConnectionLost)
    pause_s = _rest_s(delivery.lane_failures, jitter) if lost else None
    if sending and not _is_answer(error) and _leaves_doubt(policy):
        return Unknown(describe(error), pause_s)
    if exhausted := _exhausted(delivery, policy, now):
        return Dead(describe(error, exhausted), _alike(error))
    # An answer for now, such as a greylist's, comes to many and passes; a fault of ours comes to many and stays.
    alike = "" if isinstance(error, ServiceError) else _alike(error)
    return Retry(_wait_s(error, delivery, policy, now, jitter), describe(error), alike, pause_s)


def _remember(became: Outcome, before: bool, *, now: bool) -> Outcome:
    """Keep with a mail that it may have arrived, `now` or in an attempt before, until its end says so."""
    if isinstance(became, Sent | GivenBack) or not (before or now):
        return became
    reason = f"{became.error['reason']}{_EARLIER if before else ''}"
    return replace(became, error=became.error | {"reason": reason, IN_DOUBT: True})


def expired(state: str, attempt: int, policy: Rule, *, in_doubt: bool = False) -> Outcome:
    """Say what an expired lease means: its worker was killed, cut off or paused."""
    became = _expired(state, attempt, policy)
    return _remember(became, in_doubt, now=state == "sending" and policy.mail is not None)


def _expired(state: str, attempt: int, policy: Rule) -> Outcome:
    error: Error = {"class": "LeaseExpired", "code": None, "reason": "the worker that had it went away"}
    if state == "sending" and _leaves_doubt(policy):
        return Unknown(error)
    if attempt >= policy.attempts:
        return Dead(error | {"reason": f"given up after {attempt} attempts: {error['reason']}"})
    return Retry(0.0, error)


def rest_of(outcome: Outcome) -> tuple[float, object] | None:
    """Give how long the lane is to rest after it, and why; None: it goes on."""
    if not isinstance(outcome, Pause | Retry | Unknown) or outcome.pause_s is None:
        return None
    return outcome.pause_s, outcome.error["reason"]


def is_answered(outcome: Outcome) -> bool:
    """Tell whether the other side answered: yes, or no to this one delivery. Its codes are numbers, ours are words."""
    if isinstance(outcome, Retry | Dead):
        return str(outcome.error["code"])[:1].isdigit()
    return isinstance(outcome, Sent)


def skipped(reason: str) -> Error:
    """Write why nothing was done as the ledger keeps it, whether that was seen when it was planned or later."""
    return {"class": "Skipped", "code": None, "reason": reason}


def describe(error: Exception, prefix: str = "") -> Error:
    """Write an error as the ledger keeps it. The text of a foreign exception may hold row values and stays out."""
    if isinstance(error, ServiceError):
        reason, code = str(error), error.fields.get("code")
    else:
        reason, code = "unexpected error, see the log", None
    return {"class": type(error).__name__, "code": code, "reason": prefix + reason}


def _alike(error: Exception) -> str:
    """Name how a delivery failed, the same for everyone who fails so; nothing if the user's own values are why."""
    fields = error.fields if isinstance(error, ServiceError) else {}
    return "" if fields.get("users_own") else f"{type(error).__name__} {fields.get('code') or ''}".rstrip()


def _leaves_doubt(policy: Rule) -> bool:
    """Tell whether what may have happened must not happen again. A call may: its receiver knows it by its identity."""
    return policy.mail is not None and policy.in_doubt == "leave"


def _is_answer(error: Exception) -> bool:
    """Tell whether the other side said no in so many words, or nothing was sent: then the mail was not accepted."""
    return isinstance(error, RetryableError | PermanentError | SkipDelivery) and not isinstance(error, ConnectionLost)


def _exhausted(delivery: Tried, policy: Rule, now: datetime) -> str:
    if delivery.attempt >= policy.attempts:
        return f"given up after {delivery.attempt} attempts: "
    failing = _failing(delivery, now)
    return f"given up after {_written(failing)}: " if failing >= policy.give_up else ""


def _failing(delivery: Tried, now: datetime) -> timedelta:
    """Not from the event on: what waited for a relay that was down for days was not tried in vain meanwhile."""
    return now - (delivery.failing_since or now)


def _written(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.1f} h" if age >= timedelta(hours=1) else f"{age.total_seconds():.0f} s"


def _wait_s(error: Exception, delivery: Tried, policy: Rule, now: datetime, jitter: float) -> float:
    """Wait as the rule says, but no less than the other side asked for: up to when the rule would give up."""
    own = delay_s(delivery.attempt, policy.backoff_first.total_seconds(), policy.backoff_max.total_seconds(), jitter)
    return max(own, _asked_s(error, (policy.give_up - _failing(delivery, now)).total_seconds()))


def _pause_s(error: DependencyDown, failures: int, jitter: float) -> float:
    if isinstance(error, DependencyGone):
        return math.inf
    return _asked_s(error, PAUSE_ASKED_MAX_S) or _rest_s(failures, jitter)


def _rest_s(failures: int, jitter: float) -> float:
    """Let a lane rest the longer the more often it failed."""
    return delay_s(failures + 1, PAUSE_FIRST_S, PAUSE_MAX_S, jitter)


def _asked_s(error: Exception, most_s: float) -> float:
    asked = error.retry_after_s if isinstance(error, RetryableError) else None
    return min(max(asked or 0.0, 0.0), most_s)
