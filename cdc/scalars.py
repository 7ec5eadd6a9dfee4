"""Numbers, bits, bytes and hstore: PostgreSQL's text -> JSON as Debezium's connector writes it. Pure.

Debezium's options: decimal.handling.mode=string, binary.handling.mode=base64, hstore.handling.mode=json.
"""

from __future__ import annotations

import base64
import re

import msgspec

_encode = msgspec.json.encode


def quoted(text: str) -> bytes:
    """Write text that needs no escape as a JSON string."""
    return b'"' + text.encode() + b'"'


def number(text: str) -> bytes:
    """Write a float: its shortest digits, or what JSON has no number for as a string."""
    return quoted(text) if text in ("NaN", "Infinity", "-Infinity") else text.encode()


#: Debezium's words for the numerics that are no numbers.
_NO_NUMBER = {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}


def numeric(text: str) -> bytes:
    """Keep every digit: a numeric is a string."""
    return quoted(_NO_NUMBER.get(text, text))


def money(text: str) -> bytes:
    """`-$1,234.50` -> `-1234.50`: the session is pinned to the C locale's money."""
    return quoted(text.replace("$", "").replace(",", ""))


def boolean(text: str) -> bytes:
    """`t` -> true."""
    return b"true" if text == "t" else b"false"


def bit(text: str) -> bytes:
    """One bit is a boolean; none at all (a `bit varying(1)` may be empty) stays an empty bit string."""
    return b"true" if text == "1" else b"false" if text else b'""'


def bits(text: str) -> bytes:
    """Give a bit string as Debezium's Bits: the number's bytes, little-endian without zeros at the end, base64."""
    value = int(text, 2) if text else 0
    return b'"' + base64.b64encode(value.to_bytes((value.bit_length() + 7) // 8, "little")) + b'"'


def bytea(text: str) -> bytes:
    r"""`\x01ff` -> base64."""
    if not text.startswith("\\x"):
        raise ValueError("no bytea in hexadecimal")
    return b'"' + base64.b64encode(bytes.fromhex(text[2:])) + b'"'


_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)(?:, |\Z)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def hstore(text: str) -> bytes:
    """Give an hstore as a string that holds a JSON object; another type of that name stays text."""
    pairs, end = [], 0
    for match in _PAIR.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        key, value = (None if part is None else unescaped(part) for part in match.groups())
        pairs.append((str(key), value))
    if end != len(text):
        return _encode(text)
    return _encode(_encode(dict(_as_debezium_orders(pairs))).decode())


def unescaped(text: str) -> str:
    """Take away the backslashes that arrays and hstore write inside double quotes."""
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _as_debezium_orders(pairs: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Order pairs as the java.util.HashMap that Debezium fills: consumers that compare the text see no difference."""
    buckets = 16
    while len(pairs) > buckets * 3 // 4:
        buckets *= 2
    return sorted(pairs, key=lambda pair: _java_hash(pair[0]) & (buckets - 1))


def _java_hash(text: str) -> int:
    """Give String.hashCode() with its upper half mixed in, as HashMap does."""
    hashed = 0
    units = text.encode("utf-16-be")
    for place in range(0, len(units), 2):
        hashed = (31 * hashed + int.from_bytes(units[place : place + 2])) & 0xFFFFFFFF
    return hashed ^ hashed >> 16
