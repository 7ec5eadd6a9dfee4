"""What a service's answer means."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.runtime.errors import CallRejected, Deferred, DependencyDown, DependencyGone, RetryableError, ServiceError
from consumers.services.call import refusal, retry_after_s

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, None),
        (202, None),
        (204, None),
        (301, CallRejected),
        (302, CallRejected),
        (304, CallRejected),
        (400, CallRejected),
        (401, DependencyDown),
        (403, CallRejected),
        (404, CallRejected),
        (408, DependencyDown),
        (409, Deferred),
        (410, DependencyGone),
        (422, CallRejected),
        (423, Deferred),
        (425, Deferred),
        (429, DependencyDown),
        (500, Deferred),
        (501, Deferred),
        (502, DependencyDown),
        (503, DependencyDown),
        (504, DependencyDown),
        (600, Deferred),
        (999, Deferred),
    ],
)
def test_a_status_is_a_success_or_about_everyone_or_about_the_call(
    status: int, error: type[ServiceError] | None
) -> None:
    found = refusal("storage", status, "7", NOW)
    assert type(found) is (error or type(None))
    if found:
        assert found.fields == {"code": str(status)}
        assert str(found).startswith(f"storage answered {status}")
    if isinstance(found, RetryableError):
        assert found.retry_after_s == (None if status == 410 else 7)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("120", 120),
        ("86400", 86400),
        ("9" * 400, math.inf),
        ("Mon, 23 Nov 2026 12:02:00 GMT", 120),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("Tue, 24 Nov 2026 12:00:00 GMT", 86400),
        ("Mon, 23 Nov 2026 12:02:00", 120),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, wait_s: float | None) -> None:
    assert retry_after_s(header, NOW) == wait_s


@given(header=st.text(), status=st.integers(100, 599))
def test_no_header_and_no_status_breaks_the_classification(header: str, status: int) -> None:
    found = refusal("storage", status, header, NOW)
    assert (found is None) == (200 <= status <= 299)
