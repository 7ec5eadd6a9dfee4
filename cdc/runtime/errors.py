"""The errors of pgherald: three bases that loops look at, and leaves that say what to do.

A foreign error is classified once, where it is known (SQLSTATE, Kafka code, SMTP reply, HTTP status), and raised `from`
its cause. No message and no field ever holds a row value or a secret.
"""

from __future__ import annotations


class ServiceError(Exception):
    """Something went wrong that pgherald can name.

    `hint` is what the operator does next, as a command or a statement. `fields` go to the log, never to the message.
    """

    #: What the process ends with when nothing above handles the error.
    exit_code = 70

    def __init__(self, message: str, *, hint: str = "", **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class RetryableError(ServiceError):
    """The same call may succeed later; `retry_after_s` is what the other side asked for, if it did."""

    exit_code = 75

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None, **fields: object) -> None:
        super().__init__(message, hint=hint, **fields)
        self.retry_after_s = retry_after_s


class ConnectionLost(RetryableError):
    """A server went away or is not there yet: connect again with back-off."""


class SlotInUse(RetryableError):
    """Another process holds the slot: wait as its hot standby."""


class BrokerUnavailable(RetryableError):
    """Kafka does not answer, or took the transaction away: start again from the last committed position."""


class LineDoubtful(RetryableError):
    """The plugin may have left something out of a line: read it again from the slot."""


class DependencyDown(RetryableError):
    """A relay or a service is down for everyone: the lane pauses, no delivery's attempt is spent."""


class DependencyGone(DependencyDown):
    """A service says that it is gone for good: the lane stops until an operator resumes it."""


class Deferred(RetryableError):
    """The other side refused this one delivery for now: it counts as an attempt and is tried again."""


class PermanentError(ServiceError):
    """This one delivery can never succeed as it is: it becomes a dead letter.

    The field `users_own` says that the cause lies in this user's values alone, and so says nothing about others.
    """


class EnvelopeInvalid(PermanentError):
    """A record is not an event of ours, or an event that its rule can't use."""


class TemplateInvalid(PermanentError):
    """A template or an expression does not render with this event."""


class MailRejected(PermanentError):
    """The relay refused this mail for good, or it must not be sent as it is."""


class CallRejected(PermanentError):
    """A service refused this call for good, or it must not be made as it is."""


class FatalError(ServiceError):
    """The process must stop: going on would lose or repeat something, or can't work."""


class ConfigInvalid(FatalError):
    """Settings are wrong; the message lists every fault with its key."""

    exit_code = 78


class SlotLost(FatalError):
    """The slot is gone, invalidated or can't be used: changes may be missing from Kafka."""


class AccessDenied(FatalError):
    """A server refused us: password, right, plugin or setting."""


class ChangeUndecodable(FatalError):
    """A line of the WAL can't be decoded or represented; nothing past it is confirmed."""


class PositionMismatch(FatalError):
    """The position in Kafka and the slot do not belong together."""


class RecordsLost(FatalError):
    """Kafka deleted records before this consumer read them."""
