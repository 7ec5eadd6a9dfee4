"""From PostgreSQL's text of a value to its JSON in the envelope, the way Debezium's connector writes it. Pure.

Debezium's options: decimal.handling.mode=string, time.precision.mode=isostring, interval.handling.mode=string,
binary.handling.mode=base64. Where it loses a value (infinity, 24:00:00) the value is kept.
A type has two ways in: the JSON token that wal2json wrote, and the text that COPY gives; both end in the same JSON.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

#: Text of one non-null value, as the type's output function writes it -> JSON.
FromText = Callable[[str], bytes]
#: A non-null JSON token of wal2json -> JSON; None where the token already is what we want.
FromToken = Callable[[bytes], bytes] | None

_encode = msgspec.json.encode
_decode_string = msgspec.json.Decoder(str).decode


class Codec(NamedTuple):
    """How values of one type are rendered."""

    from_text: FromText
    from_token: FromToken


def codec(type_name: str) -> Codec:
    """Find the codec of a type, named as format_type() does; unknown types are PostgreSQL's text."""
    if type_name.endswith("[]"):
        element = codec(type_name[:-2]).from_text
        return _text_codec(lambda text: _array(text, element))
    name, precision = _split(type_name)
    if name == "timestamp with time zone":
        digits = 6 if precision is None else precision
        return _text_codec(lambda text: _quoted(_timestamptz(text, digits)))
    if name == "bit" and precision == 1:
        return _text_codec(lambda text: b"true" if text == "1" else b"false")
    return _CODECS.get(name, _STRING)


def of_domain(base: Codec) -> Codec:
    """Give the codec of a domain: wal2json knows it as no number and no boolean, and writes the type's text."""
    return _text_codec(base.from_text)


def _split(type_name: str) -> tuple[str, int | None]:
    """Take the modifier out of `timestamp(3) with time zone` or `numeric(12,2)`."""
    match = re.fullmatch(r"([^(]*)\((\d+)[^)]*\)(.*)", type_name)
    return (match[1] + match[3], int(match[2])) if match else (type_name, None)


def text_of(token: bytes) -> str:
    """Give the text inside a token: a string's content, any other token as it stands."""
    return _decode_string(token) if token[:1] == b'"' else token.decode()


def _text_codec(from_text: FromText) -> Codec:
    return Codec(from_text, lambda token: from_text(text_of(token)))


def _quoted(text: str) -> bytes:
    return b'"' + text.encode() + b'"'


def _float(text: str) -> bytes:
    return _quoted(text) if text in ("NaN", "Infinity", "-Infinity") else text.encode()


#: Debezium's words for the numerics that are no numbers.
_NO_NUMBER = {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}


def _numeric(text: str) -> bytes:
    return _quoted(_NO_NUMBER.get(text, text))


def _date(text: str) -> str:
    """`2024-02-29` -> `2024-02-29Z`; years as java.time writes them: 1 BC is 0000, beyond 9999 with a sign."""
    if text.endswith("infinity"):
        return text
    return f"{_year(text)}Z"


def _year(text: str) -> str:
    day, _, era = text.partition(" ")
    year, rest = day.split("-", 1)
    if era == "BC":
        number = 1 - int(year)
        return f"{'-' if number < 0 else ''}{abs(number):04d}-{rest}"
    return f"+{day}" if len(year) > 4 else day


def _timestamp(text: str) -> str:
    """`2024-01-02 03:04:05.6` -> `2024-01-02T03:04:05.6Z`."""
    if text.endswith("infinity"):
        return text
    day, clock, *era = text.split(" ")
    return f"{_year(' '.join([day, *era]))}T{clock}Z"


def _timestamptz(text: str, digits: int) -> str:
    """Like a timestamp, in UTC (the session is pinned to it), with as many digits as the column's precision."""
    if text.endswith("infinity"):
        return text
    stamp = _timestamp(text.replace("+00", "", 1))[:-1]
    if not digits:
        return f"{stamp}Z"
    whole, _, fraction = stamp.partition(".")
    return f"{whole}.{fraction.ljust(digits, '0')}Z"


_TIMETZ = re.compile(r"(\d\d):(\d\d):(\d\d)(\.\d+)?([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?")


def _timetz(text: str) -> str:
    """`12:34:56.789+02` -> `10:34:56.789Z`."""
    match = _TIMETZ.fullmatch(text)
    if not match:
        return text
    hour, minute, second, fraction, sign, *offset = match.groups(default="0")
    offset_s = sum(int(part) * unit for part, unit in zip(offset, (3600, 60, 1), strict=True))
    clock_s = int(hour) * 3600 + int(minute) * 60 + int(second) - (offset_s if sign == "+" else -offset_s)
    if clock_s != 86400:  # 24:00:00 in UTC is a value of its own
        clock_s %= 86400
    fraction = fraction.rstrip("0") if fraction != "0" else ""
    return f"{clock_s // 3600:02d}:{clock_s // 60 % 60:02d}:{clock_s % 60:02d}{fraction}Z"


_INTERVAL = re.compile(
    r"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?(?:([+-]?)(\d+):(\d\d):(\d\d(?:\.\d+)?))?"
)


def _interval(text: str) -> str:
    """`1 year 2 mons 3 days 04:05:06.789` -> `P1Y2M3DT4H5M6.789S`; every part is written, also when it is 0."""
    match = _INTERVAL.fullmatch(text)
    if not match:
        return text
    years, months, days, sign, hours, minutes, seconds = match.groups(default="0")
    whole, _, fraction = seconds.partition(".")
    tail = f"{int(whole)}.{fraction}" if fraction else str(int(whole))
    clock = [part if part == "0" or sign != "-" else f"-{part}" for part in (str(int(hours)), str(int(minutes)), tail)]
    return f"P{int(years)}Y{int(months)}M{int(days)}DT{clock[0]}H{clock[1]}M{clock[2]}S"


def _bytea(hexadecimal: str) -> bytes:
    return b'"' + base64.b64encode(bytes.fromhex(hexadecimal)) + b'"'


def _bits(text: str) -> bytes:
    """Give a bit string as Debezium's Bits: the number's bytes, little-endian, base64."""
    number = int(text, 2) if text else 0
    return b'"' + base64.b64encode(number.to_bytes((len(text) + 7) // 8, "little")) + b'"'


_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^{},"]+)|([{},])', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def _array(text: str, element: FromText) -> bytes:
    """Render PostgreSQL's array text, nested ones too; bounds other than 1 (`[0:1]={...}`) are dropped."""
    out: list[bytes] = []
    for quoted, plain, mark in _ELEMENT.findall(text[text.index("{") :]):
        if mark:
            out.append({"{": b"[", "}": b"]", ",": b","}[mark])
        elif plain == "NULL":
            out.append(b"null")
        else:
            out.append(element(plain or _ESCAPE.sub(r"\1", quoted)))
    return b"".join(out)


_STRING = Codec(_encode, None)
_INTEGER = Codec(str.encode, None)
_FLOAT = Codec(_float, None)
_BIT_STRING = _text_codec(_bits)

_CODECS: dict[str, Codec] = {
    "smallint": _INTEGER,
    "integer": _INTEGER,
    "bigint": _INTEGER,
    "oid": _INTEGER,
    "boolean": Codec(lambda text: b"true" if text == "t" else b"false", None),
    "real": _FLOAT,
    "double precision": _FLOAT,
    "numeric": Codec(_numeric, lambda token: b'"' + token + b'"'),
    "date": _text_codec(lambda text: _quoted(_date(text))),
    "timestamp without time zone": _text_codec(lambda text: _quoted(_timestamp(text))),
    "time without time zone": _text_codec(lambda text: _quoted(f"{text}Z")),
    "time with time zone": _text_codec(lambda text: _quoted(_timetz(text))),
    "interval": _text_codec(lambda text: _quoted(_interval(text))),
    # wal2json leaves the leading \x out, COPY does not.
    "bytea": Codec(lambda text: _bytea(text[2:]), lambda token: _bytea(text_of(token))),
    "bit": _BIT_STRING,
    "bit varying": _BIT_STRING,
}
