"""The threads of a process, and how they wait."""

import threading

import pytest

from cdc.runtime.errors import ConfigInvalid, ConnectionLost, FatalError, RetryableError
from cdc.runtime.lifecycle import Stop
from cdc.runtime.settings import Settings
from consumers.patience import Patience
from consumers.process import Crew, consume


def settings(**more: object) -> Settings:
    source = {"name": "app", "dsn": "host=127.0.0.1 port=1", "tables": [{"name": "users"}]}
    return Settings.model_validate({"source": source, "kafka": {"bootstrap_servers": "127.0.0.1:1"}} | more)


def fail(error: BaseException) -> None:
    raise error


def test_a_thread_that_fails_stops_the_others() -> None:
    stop = Stop()
    crew = Crew(stop)
    crew.start("waits", lambda: assert_stopped(stop))
    crew.start("fails", lambda: fail(FatalError("no right")))
    crew.join(10)
    assert stop.requested
    assert isinstance(crew.failure, FatalError)


def assert_stopped(stop: Stop) -> None:
    assert stop.wait(10)


def test_a_thread_that_was_waiting_when_the_stop_came_did_not_fail() -> None:
    stop = Stop()
    stop.request()
    crew = Crew(stop)
    crew.start("waits", lambda: fail(ConnectionLost("gone")))
    crew.join(10)
    assert crew.failure is None


def test_a_retryable_error_that_ends_a_thread_is_a_failure() -> None:
    crew = Crew(Stop())
    crew.start("ends", lambda: fail(ConnectionLost("gone")))
    crew.join(10)
    assert isinstance(crew.failure, ConnectionLost)


class Hasty(Stop):
    """Takes every wait for over."""

    def wait(self, timeout_s: float) -> bool:
        assert timeout_s > 0
        return self.requested


def test_patience_goes_on_until_it_works() -> None:
    errors: list[RetryableError] = [ConnectionLost("gone"), ConnectionLost("gone")]

    def call() -> str:
        if errors:
            raise errors.pop()
        return "there"

    assert Patience(Hasty(), "a test").insist(call) == "there"


def test_patience_ends_with_a_stop_request() -> None:
    stop = Stop()
    called = threading.Event()

    def call() -> None:
        called.set()
        raise ConnectionLost("gone")

    def request() -> None:
        called.wait(10)
        stop.request()

    threading.Thread(target=request).start()
    with pytest.raises(ConnectionLost):
        Patience(stop, "a test").insist(call)


def test_patience_does_not_wait_out_what_will_not_pass() -> None:
    with pytest.raises(FatalError):
        Patience(Stop(), "a test").insist(lambda: fail(FatalError("no right")))


def test_a_consumer_without_rules_is_a_fault_of_the_settings() -> None:
    with pytest.raises(ConfigInvalid, match="no rule belongs to the consumer sms"):
        consume(settings(), "sms", Stop())


class StopInTheWait(Stop):
    """Comes when somebody has begun to wait."""

    def wait(self, timeout_s: float) -> bool:
        self.request()
        return super().wait(timeout_s)


def test_a_stop_while_the_ledger_is_not_there_ends_in_order() -> None:
    stop = StopInTheWait()
    smtp = {"host": "127.0.0.1", "sender": "a@example.org"}
    consume(settings(smtp=smtp, rules=[{"name": "w", "on": "created", "mail": "w"}]), "mail", stop)
    assert stop.requested
