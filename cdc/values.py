"""From PostgreSQL's text of a value to its JSON in the envelope, the way Debezium's connector writes it. Pure.

What each family of types looks like stands in scalars.py, times.py and geometry.py; every other type is its text.
A type has two ways in: the JSON token that wal2json wrote, and the text that COPY gives; both end in the same JSON.
A codec that gets what is no value of its type raises one of FAULTS, whose texts hold the value: none is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from cdc import geometry, scalars, times
from cdc.scalars import quoted, unescaped

#: Text of one non-null value, as the type's output function writes it -> JSON.
FromText = Callable[[str], bytes]
#: A non-null JSON token of wal2json -> JSON; None where the token already is what we want.
FromToken = Callable[[bytes], bytes] | None

FAULTS = (ValueError, LookupError)

_encode = msgspec.json.encode
_decode_string = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode


def text_of(token: bytes) -> str:
    """Give the text inside a token: a string's content, any other token as it stands."""
    return _decode_string(token) if token[:1] == b'"' else token.decode()


class Codec(NamedTuple):
    """How values of one type are rendered."""

    from_text: FromText
    from_token: FromToken
    #: A non-null token -> the type's text, as COPY gives it.
    text: Callable[[bytes], str] = text_of
    #: Non-null text of COPY between quotation marks, with nothing to escape -> JSON; None where it is that already.
    copied: FromToken = None


def codec(type_name: str) -> Codec:
    """Find the codec of a type, named as format_type() does; unknown types are PostgreSQL's text."""
    if type_name.endswith("[]"):
        return _array_codec(type_name[:-2])
    name, precision = _split(type_name)
    if name == "timestamp with time zone":
        digits = 6 if precision is None else precision
        return _TIMESTAMPTZ if digits == 6 else of_text(lambda text: quoted(times.timestamptz(text, digits)))
    if name in ("bit", "bit varying"):
        return of_text(scalars.bit if precision == 1 else scalars.bits)
    if name.startswith("interval"):  # `interval year to month`, `interval second(3)`
        return of_text(lambda text: quoted(times.interval(text)))
    if name == "hstore" or name.endswith(".hstore"):  # an extension's type is in any schema
        return of_text(scalars.hstore)
    return _CODECS.get(name, _STRING)


def of_text(from_text: FromText, text: Callable[[bytes], str] = text_of) -> Codec:
    """Make a codec that renders the text inside a token as it renders COPY's."""
    return Codec(from_text, lambda token: from_text(text(token)), text, _inside(from_text))


def _inside(from_text: FromText) -> FromToken:
    """Render the text between a token's quotation marks."""
    return lambda token: from_text(token[1:-1].decode())


def of_domain(base: Codec) -> Codec:
    """Give the codec of a domain: wal2json knows it as no number and no boolean, and writes the type's text.

    A domain may have been made anew of something else since a row was written: what is none of its values is text.
    """

    def from_text(text: str) -> bytes:
        try:
            written = base.from_text(text)
            _decode_any(written)
        except (*FAULTS, msgspec.DecodeError):
            return _encode(text)
        return written

    return of_text(from_text)


def _split(type_name: str) -> tuple[str, int | None]:
    """Take the modifier out of `timestamp(3) with time zone` or `numeric(12,2)`."""
    match = re.fullmatch(r"([^(]*)\((\d+)[^)]*\)(.*)", type_name)
    return (match[1] + match[3], int(match[2])) if match else (type_name, None)


def _array_codec(element_type: str) -> Codec:
    element = codec(element_type).from_text
    parts = _BOX_PARTS if element_type == "box" else _PARTS
    return of_text(lambda text: _array(text, element, parts))


#: The quoted elements, plain elements and marks of an array's text; boxes hold commas and stand between semicolons.
_PARTS = re.compile(r'"((?:[^"\\]|\\.)*)"|([^{},"]+)|([{},])', re.DOTALL)
_BOX_PARTS = re.compile(r'"((?:[^"\\]|\\.)*)"|([^{};"]+)|([{};])', re.DOTALL)
_MARKS = {"{": b"[", "}": b"]", ",": b",", ";": b","}


def _array(text: str, element: FromText, parts: re.Pattern[str]) -> bytes:
    """Render PostgreSQL's array text, nested ones too; bounds other than 1 (`[0:1]={...}`) are dropped."""
    out: list[bytes] = []
    for inside_quotes, plain, mark in parts.findall(text[text.index("{") :]):
        if mark:
            out.append(_MARKS[mark])
        elif plain == "NULL":
            out.append(b"null")
        else:
            out.append(element(plain or unescaped(inside_quotes)))
    return b"".join(out)


def _timestamp(token: bytes) -> bytes:
    """Render most of them where they stand: `"2024-01-02 03:04:05.6"`, of four digits' years and our era."""
    if token[5:6] == b"-" and token[11:12] == b" " and token[-2:-1] != b"C":
        return token[:11] + b"T" + token[12:-1] + b'Z"'
    return quoted(times.timestamp(text_of(token)))


def _timestamptz(token: bytes) -> bytes:
    """Render most of them where they stand: `"2024-01-02 03:04:05.678901+00"`, in UTC as the session is."""
    if len(token) == 31 and token[5:6] == b"-" and token[11:12] == b" " and token[-4:] == b'+00"':
        return token[:11] + b"T" + token[12:-4] + b'Z"'
    return quoted(times.timestamptz(text_of(token), 6))


def _boolean_text(token: bytes) -> str:
    return token[:1].decode()


def _bytea_text(token: bytes) -> str:
    """Put back the leading \\x that wal2json leaves out."""
    return "\\x" + text_of(token)


_STRING = Codec(_encode, None)
_INTEGER = Codec(str.encode, None, copied=lambda token: token[1:-1])
_TIMESTAMPTZ = Codec(lambda text: quoted(times.timestamptz(text, 6)), _timestamptz, copied=_timestamptz)
_FLOAT = Codec(scalars.number, None, copied=_inside(scalars.number))

_CODECS: dict[str, Codec] = {
    "smallint": _INTEGER,
    "integer": _INTEGER,
    "bigint": _INTEGER,
    "oid": _INTEGER,
    "boolean": Codec(scalars.boolean, None, _boolean_text, _inside(scalars.boolean)),
    "real": _FLOAT,
    "double precision": _FLOAT,
    "numeric": Codec(scalars.numeric, lambda token: b'"' + token + b'"', copied=_inside(scalars.numeric)),
    "money": of_text(scalars.money),
    "date": of_text(lambda text: quoted(times.date(text))),
    "timestamp without time zone": Codec(lambda text: quoted(times.timestamp(text)), _timestamp, copied=_timestamp),
    "time without time zone": of_text(lambda text: quoted(f"{text}Z")),
    "time with time zone": of_text(lambda text: quoted(times.timetz(text))),
    "bytea": of_text(scalars.bytea, _bytea_text),
    "point": of_text(geometry.point),
    "box": of_text(geometry.box),
    "lseg": of_text(geometry.lseg),
    "path": of_text(geometry.path),
    "polygon": of_text(geometry.polygon),
    "circle": of_text(geometry.circle),
    "line": of_text(geometry.line),
}
