"""Dates and durations in the reader's language: the filters of templates. Pure."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from babel import Locale, dates, numbers
from jinja2 import pass_context
from jinja2.runtime import Context

_Unit = Literal["day", "hour", "minute", "second"]
_UNITS: tuple[tuple[_Unit, timedelta], ...] = (
    ("day", timedelta(days=1)),
    ("hour", timedelta(hours=1)),
    ("minute", timedelta(minutes=1)),
)


@pass_context
def format_date(context: Context, value: date | str, style: Any = "long") -> str:
    """Write the day of a time, in UTC; a column's ISO text will do."""
    return _day(_moment(value).date(), style, context["lang"])


@pass_context
def format_datetime(context: Context, value: date | str, style: Any = "long") -> str:
    """Write a time, in UTC and saying so; a column's ISO text will do."""
    return dates.format_datetime(_moment(value), style, UTC, _locale(context))


@pass_context
def format_duration(context: Context, value: timedelta) -> str:
    """Write a duration in the largest unit that fits it exactly: 2 days, 36 hours; rounding could promise too much."""
    unit: _Unit = next((name for name, length in _UNITS if not value % length), "second")
    return dates.format_timedelta(value, granularity=unit, threshold=math.inf, locale=_locale(context))


@pass_context
def plural(context: Context, count: float, **forms: str) -> str:
    """Write a number with its noun, in the form that the language asks for.

    `{{ n | plural(one="# file", other="# files") }}`. The forms are CLDR's: zero, one, two, few, many, other; `other`
    stands in for what is not given.
    """
    locale = _locale(context)
    form = forms.get(locale.plural_form(count), forms["other"])
    return form.replace("#", numbers.format_decimal(count, locale=locale))


FILTERS = {
    "plural": plural,
    "format_date": format_date,
    "format_datetime": format_datetime,
    "format_duration": format_duration,
}


def _moment(value: date | str) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


@lru_cache(maxsize=256)
def _day(day: date, style: str, lang: str) -> str:
    """Write a day once for the many mails of that day."""
    return dates.format_date(day, style, _parsed(lang))


def _locale(context: Context) -> Locale:
    return _parsed(context["lang"])


@lru_cache(maxsize=256)
def _parsed(lang: str) -> Locale:
    return Locale.parse(lang, sep="-")
