"""What becomes of a delivery whose effect failed."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.runtime.errors import (
    AccessDenied,
    CallRejected,
    ConnectionLost,
    Deferred,
    DependencyDown,
    DependencyGone,
    EnvelopeInvalid,
    MailRejected,
    RetryableError,
    ServiceError,
    TemplateInvalid,
)
from cdc.runtime.sections import Rule
from consumers.outcome import (
    PAUSE_ASKED_MAX_S,
    PAUSE_MAX_S,
    Dead,
    GivenBack,
    LeaseLost,
    NotYet,
    Outcome,
    Pause,
    Retry,
    SkipDelivery,
    Skipped,
    Unknown,
    decide,
    describe,
    expired,
)

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULE = {"name": "welcome", "on": "created", "mail": "welcome"}
LEAVE = Rule.model_validate(RULE)
RESEND = Rule.model_validate(RULE | {"in_doubt": "resend"})
CALLS = Rule.model_validate({"name": "plans", "on": "created", "services": "plans"})


@dataclass(frozen=True)
class Facts:
    attempt: int = 1
    failing_since: datetime | None = None
    lane_failures: int = 0
    in_doubt: bool = False


def became(
    error: Exception, facts: Facts | None = None, policy: Rule = LEAVE, *, sending: bool = False, jitter: float = 0.5
) -> Outcome:
    return decide(error, facts or Facts(), policy, sending=sending, now=NOW, jitter=jitter)


@pytest.mark.parametrize(
    ("error", "sending", "leave", "resend"),
    [
        (Deferred("451"), False, Retry, Retry),
        (Deferred("451"), True, Retry, Retry),
        (ConnectionLost("gone"), False, Retry, Retry),
        (ConnectionLost("gone"), True, Unknown, Retry),
        (TimeoutError("dot"), True, Unknown, Retry),
        (ValueError("a bug"), False, Retry, Retry),
        (ValueError("a bug"), True, Unknown, Retry),
        (DependencyDown("421"), False, Pause, Pause),
        (DependencyDown("421"), True, Pause, Pause),
        (MailRejected("550"), False, Dead, Dead),
        (MailRejected("554"), True, Dead, Dead),
        (CallRejected("422"), False, Dead, Dead),
        (TemplateInvalid("no name"), False, Dead, Dead),
        (EnvelopeInvalid("no row"), False, Dead, Dead),
        (SkipDelivery("suppressed"), False, Skipped, Skipped),
        (LeaseLost("late"), False, GivenBack, GivenBack),
        (NotYet("its domain has its rate", retry_after_s=3.0), False, GivenBack, GivenBack),
        (AccessDenied("password"), False, GivenBack, GivenBack),
        (AccessDenied("password"), True, Unknown, Retry),
    ],
)
def test_the_outcome_follows_from_error_phase_and_policy(
    error: Exception, sending: bool, leave: type, resend: type
) -> None:
    assert isinstance(became(error, sending=sending), leave)
    assert isinstance(became(error, policy=RESEND, sending=sending), resend)


def test_what_rests_comes_back_when_it_was_told_to() -> None:
    assert became(NotYet("wait", retry_after_s=3.0), Facts(attempt=12)) == GivenBack(3.0)


def test_a_call_in_doubt_is_made_again_as_its_receiver_knows_it() -> None:
    assert isinstance(became(ConnectionLost("gone"), policy=CALLS, sending=True), Retry)
    assert isinstance(expired("sending", 1, CALLS), Retry)


@pytest.mark.parametrize("error", [Deferred("451"), DependencyDown("421"), MailRejected("550"), SkipDelivery("gone")])
def test_what_may_have_arrived_stays_known_and_what_was_refused_did_not(error: ServiceError) -> None:
    once = became(ConnectionLost("gone"), policy=RESEND, sending=True)
    assert isinstance(once, Retry)
    assert once.error == describe(ConnectionLost("gone")) | {"in_doubt": True}
    again = became(error, Facts(attempt=2, in_doubt=True), policy=RESEND, sending=True)
    assert isinstance(again, Retry | Pause | Dead | Skipped)
    assert again.error["in_doubt"] is True
    assert again.error["reason"] == f"{error.message}, and an earlier attempt may have arrived"
    refused = became(error, policy=RESEND, sending=True)
    assert isinstance(refused, Retry | Pause | Dead | Skipped)
    assert "in_doubt" not in refused.error


def test_the_last_attempt_is_the_last() -> None:
    last = became(Deferred("451 later"), Facts(attempt=12))
    assert isinstance(last, Dead)
    assert last.error == {"class": "Deferred", "code": None, "reason": "given up after 12 attempts: 451 later"}
    assert isinstance(became(Deferred("451"), Facts(attempt=11)), Retry)


def test_a_delivery_is_given_up_by_how_long_it_failed() -> None:
    given_up = became(Deferred("451"), Facts(failing_since=NOW - timedelta(days=3)))
    assert isinstance(given_up, Dead)
    assert "given up after 72.0 h" in str(given_up.error["reason"])
    assert isinstance(became(Deferred("451"), Facts(failing_since=NOW - timedelta(days=2))), Retry)


def test_a_first_failure_is_never_the_last_however_long_the_delivery_waited() -> None:
    assert isinstance(became(Deferred("451"), Facts()), Retry)


def test_a_dependency_that_is_down_spends_no_last_attempt() -> None:
    assert isinstance(became(DependencyDown("421"), Facts(attempt=12)), Pause)


def test_the_other_side_may_ask_for_longer_but_not_for_shorter() -> None:
    assert became(Deferred("451", retry_after_s=600)) == Retry(600, describe(Deferred("451")))
    impatient = became(Deferred("451", retry_after_s=0), jitter=0.99)
    assert isinstance(impatient, Retry)
    assert impatient.after_s > 1


def test_a_delivery_waits_as_long_as_it_is_asked_to_up_to_when_it_would_be_given_up() -> None:
    def after_s(asked_s: float, failing: timedelta) -> float:
        retry = became(Deferred("451", retry_after_s=asked_s), Facts(failing_since=NOW - failing))
        assert isinstance(retry, Retry)
        return retry.after_s

    assert after_s(86400, timedelta()) == 86400
    assert after_s(math.inf, timedelta()) == LEAVE.give_up.total_seconds()
    assert after_s(86400, LEAVE.give_up - timedelta(hours=1)) == 3600


@pytest.mark.parametrize("asked_s", [86400, 1e9, math.inf])
def test_a_lane_is_probed_every_quarter_of_an_hour_whatever_it_is_asked(asked_s: float) -> None:
    paused = became(DependencyDown("421", retry_after_s=asked_s))
    assert isinstance(paused, Pause)
    assert paused.pause_s == 15 * 60


@pytest.mark.parametrize("policy", [LEAVE, RESEND])
def test_a_final_dot_without_an_answer_rests_the_lane_too(policy: Rule) -> None:
    for failures, most_s in ((0, 1), (3, 8), (20, 60)):
        lost = became(ConnectionLost("gone"), Facts(lane_failures=failures), policy, sending=True)
        assert isinstance(lost, Unknown | Retry)
        assert lost.pause_s is not None
        assert 0 < lost.pause_s <= most_s
    before = became(ConnectionLost("the writer has ended"), policy=policy)
    assert isinstance(before, Retry)
    assert before.pause_s is None


def test_pauses_grow_to_a_minute_or_to_what_was_asked_for() -> None:
    def pause_s(failures: int, error: Exception) -> float:
        paused = became(error, Facts(lane_failures=failures), jitter=0.999999)
        assert isinstance(paused, Pause)
        return paused.pause_s

    grown = [round(pause_s(failures, DependencyDown("down"))) for failures in range(8)]
    assert grown == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pause_s(0, DependencyDown("503", retry_after_s=90)) == 90


def test_a_service_that_is_gone_pauses_its_lane_until_someone_resumes_it() -> None:
    gone = became(DependencyGone("410", retry_after_s=5), sending=True)
    assert gone == Pause(math.inf, describe(DependencyGone("410")))


@pytest.mark.parametrize(
    ("error", "attempt", "alike"),
    [
        (TemplateInvalid("welcome/body.txt.j2: UndefinedError"), 1, "TemplateInvalid"),
        (CallRejected("newsletter answered 422", code="422"), 1, "CallRejected 422"),
        (MailRejected("550 5.7.1 policy", code="550 5.7.1"), 1, "MailRejected 550 5.7.1"),
        (MailRejected("550 5.1.1 no such user", code="550 5.1.1"), 1, "MailRejected 550 5.1.1"),
        (MailRejected("no mail address", code="address_invalid", users_own=True), 1, ""),
        (KeyError("a bug"), 1, "KeyError"),
        (Deferred("451 greylisted", code="451"), 1, ""),
        (Deferred("500", code="500"), 12, "Deferred 500"),
    ],
)
def test_a_failure_says_whether_others_may_fail_alike(error: Exception, attempt: int, alike: str) -> None:
    failed = became(error, Facts(attempt=attempt))
    assert isinstance(failed, Dead | Retry)
    assert failed.alike == alike


def test_what_is_skipped_keeps_its_reason_even_at_the_last_attempt() -> None:
    skipped = became(SkipDelivery("gone"), Facts(attempt=99, failing_since=NOW - timedelta(days=9)))
    assert skipped == Skipped({"class": "Skipped", "code": None, "reason": "gone"})


def test_a_foreign_errors_text_stays_out_of_the_ledger() -> None:
    assert describe(KeyError("ada@example.org")) == {
        "class": "KeyError",
        "code": None,
        "reason": "unexpected error, see the log",
    }
    assert describe(MailRejected("550 5.1.1", code=550))["code"] == 550


@pytest.mark.parametrize(
    ("state", "attempt", "policy", "expected"),
    [
        ("claimed", 1, LEAVE, Retry),
        ("claimed", 12, LEAVE, Dead),
        ("sending", 1, LEAVE, Unknown),
        ("sending", 1, RESEND, Retry),
        ("sending", 12, RESEND, Dead),
        ("sending", 12, LEAVE, Unknown),
    ],
)
def test_an_expired_lease_is_doubt_only_if_the_dot_may_have_left(
    state: str, attempt: int, policy: Rule, expected: type
) -> None:
    ended = expired(state, attempt, policy)
    assert isinstance(ended, expected)
    assert isinstance(ended, Retry | Dead | Unknown)
    assert ("in_doubt" in ended.error) == (state == "sending")


@given(
    attempt=st.integers(1, 10**6),
    jitter=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(allow_nan=False),
    failures=st.integers(0, 10**6),
    down=st.booleans(),
)
def test_every_wait_is_positive_and_bounded(
    attempt: int, jitter: float, asked: float | None, failures: int, down: bool
) -> None:
    error = (DependencyDown if down else RetryableError)("x", retry_after_s=asked)
    policy = LEAVE.model_copy(update={"attempts": 10**7})
    match became(error, Facts(attempt=attempt, lane_failures=failures), policy, jitter=jitter):
        case Retry(after_s, _):
            assert 0 < after_s <= max(policy.backoff_max, policy.give_up).total_seconds()
        case Pause(pause_s, _):
            assert 0 < pause_s <= max(PAUSE_MAX_S, PAUSE_ASKED_MAX_S)
        case other:
            pytest.fail(f"{other}")
