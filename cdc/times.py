"""Dates, times and intervals: PostgreSQL's text -> ISO 8601 as Debezium's connector writes it. Pure.

Debezium's options: time.precision.mode=isostring, interval.handling.mode=string. Where it loses a value (infinity,
24:00:00, offsets with seconds) the value is kept. The session is pinned to ISO dates, UTC and postgres intervals.
"""

from __future__ import annotations

import re


def date(text: str) -> str:
    """`2024-02-29` -> `2024-02-29Z`; years as java.time writes them: 1 BC is 0000, beyond 9999 with a sign."""
    return text if text.endswith("infinity") else f"{_year(text)}Z"


def _year(text: str) -> str:
    day, _, era = text.partition(" ")
    year, rest = day.split("-", 1)
    if era == "BC":
        number = 1 - int(year)
        return f"{'-' if number < 0 else ''}{abs(number):04d}-{rest}"
    return f"+{day}" if len(year) > 4 else day


def timestamp(text: str) -> str:
    """`2024-01-02 03:04:05.6` -> `2024-01-02T03:04:05.6Z`."""
    if text[4:5] == "-" and text[10:11] == " " and text[-1] != "C":
        return f"{text[:10]}T{text[11:]}Z"  # four digits' years of our era: most of them
    if text.endswith("infinity"):
        return text
    day, clock, *era = text.split(" ")
    return f"{_year(' '.join([day, *era]))}T{clock}Z"


def timestamptz(text: str, digits: int) -> str:
    """Like a timestamp, in UTC (the session is pinned to it), with as many digits as the column's precision."""
    if text.endswith("infinity"):
        return text
    stamp = timestamp(text.replace("+00", "", 1))[:-1]
    if not digits:
        return f"{stamp}Z"
    whole, _, fraction = stamp.partition(".")
    return f"{whole}.{fraction.ljust(digits, '0')}Z"


_TIMETZ = re.compile(r"(\d\d):(\d\d):(\d\d)(\.\d+)?([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?")


def timetz(text: str) -> str:
    """`12:34:56.789+02` -> `10:34:56.789Z`. 24:00:00 in UTC is a value of its own."""
    match = _TIMETZ.fullmatch(text)
    if not match:
        raise ValueError("no time with time zone")
    hour, minute, second, fraction, sign, *offset = match.groups(default="0")
    offset_s = sum(int(part) * unit for part, unit in zip(offset, (3600, 60, 1), strict=True))
    clock_s = int(hour) * 3600 + int(minute) * 60 + int(second) - (offset_s if sign == "+" else -offset_s)
    if hour != "24" or offset_s:
        clock_s %= 86400
    fraction = fraction.rstrip("0") if fraction != "0" else ""
    return f"{clock_s // 3600:02d}:{clock_s // 60 % 60:02d}:{clock_s % 60:02d}{fraction}Z"


_INTERVAL = re.compile(
    r"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?(?:([+-]?)(\d+):(\d\d):(\d\d(?:\.\d+)?))?"
)


def interval(text: str) -> str:
    """`1 year 2 mons 3 days 04:05:06.789` -> `P1Y2M3DT4H5M6.789S`; every part is written, also when it is 0."""
    match = _INTERVAL.fullmatch(text)
    if not match:
        return text  # PostgreSQL 17 has infinite ones
    years, months, days, sign, hours, minutes, seconds = match.groups(default="0")
    whole, _, fraction = seconds.partition(".")
    tail = f"{int(whole)}.{fraction}" if fraction else str(int(whole))
    clock = [part if part == "0" or sign != "-" else f"-{part}" for part in (str(int(hours)), str(int(minutes)), tail)]
    return f"P{int(years)}Y{int(months)}M{int(days)}DT{clock[0]}H{clock[1]}M{clock[2]}S"
