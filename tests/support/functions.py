"""Functions that rules call: they remember what they were told, and fail for whom a test says."""

from collections.abc import Iterator

from cdc.runtime.errors import PermanentError
from consumers.function import FunctionCall
from consumers.outcome import SkipDelivery

calls: list[FunctionCall] = []


def remember(call: FunctionCall) -> None:
    calls.append(call)
    user = call.user.key or ""
    if "clumsy" in user and call.attempt < 3:
        raise ValueError(user)
    if "refused" in user:
        raise PermanentError("not one of ours")
    if "unwanted" in user:
        raise SkipDelivery("unwanted")
    if "quits" in user:
        raise SystemExit(3)


async def later(call: FunctionCall) -> None:
    calls.append(call)


def slowly(call: FunctionCall) -> Iterator[None]:
    calls.append(call)
    yield


not_callable = 7
