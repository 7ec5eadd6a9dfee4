"""Geometric types: PostgreSQL's text -> the structs that Debezium's connector writes, with WKB inside. Pure.

What WKB can't tell stands in `extensions`: which type it was, and whether a path is closed. Circles and lines have no
WKB. Source: Debezium 3.7's output, tests/contract/debezium.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Sequence

from cdc.scalars import number

_NUMBER = re.compile(r"[^(),<>\[\]{}]+")
_LINE_STRING, _POLYGON = 2, 3

Point = tuple[float, float]


def point(text: str) -> bytes:
    """`(1,2)`."""
    x, y = _NUMBER.findall(text)
    return _point(x, y)


def box(text: str) -> bytes:
    """`(1,2),(0,0)`: two opposite corners, as the ring through all four."""
    (x1, y1), (x2, y2) = _points(text)
    return _geometry(_polygon([(x1, y1), (x1, y2), (x2, y2), (x2, y1), (x1, y1)]), b'"type":"box"')


def lseg(text: str) -> bytes:
    """`[(0,0),(1,2)]`."""
    return _geometry(_line_string(_points(text)), b'"type":"lseg"')


def path(text: str) -> bytes:
    """`[(0,0),(1,2)]` is open, `((0,0),(1,2))` is closed."""
    closed = b"true" if text.startswith("(") else b"false"
    return _geometry(_line_string(_points(text)), b'"type":"path","closed":"%b"' % closed)


def polygon(text: str) -> bytes:
    """`((0,0),(1,2),(3,3))`, as a ring that ends where it began."""
    ring = _points(text)
    if len(ring) > 1 and ring[0] != ring[-1]:
        ring.append(ring[0])
    return _geometry(_polygon(ring), b'"type":"polygon"')


def circle(text: str) -> bytes:
    """`<(1,2),3>`."""
    x, y, radius = _NUMBER.findall(text)
    return b'{"center":%b,"radius":%b}' % (_point(x, y), number(radius))


def line(text: str) -> bytes:
    """`{1,2,3}`: the coefficients of Ax + By + C = 0."""
    a, b, c = _NUMBER.findall(text)
    return b'{"a":%b,"b":%b,"c":%b}' % (number(a), number(b), number(c))


def _points(text: str) -> list[Point]:
    numbers = [float(given) for given in _NUMBER.findall(text)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _point(x: str, y: str) -> bytes:
    wkb = base64.b64encode(struct.pack("<BIdd", 1, 1, float(x), float(y)))
    return b'{"x":%b,"y":%b,"wkb":"%b","srid":null}' % (number(x), number(y), wkb)


def _geometry(wkb: bytes, extensions: bytes) -> bytes:
    return b'{"wkb":"%b","srid":null,"extensions":{%b}}' % (base64.b64encode(wkb), extensions)


def _line_string(points: Sequence[Point]) -> bytes:
    return struct.pack("<BI", 1, _LINE_STRING) + _sequence(points)


def _polygon(ring: Sequence[Point]) -> bytes:
    return struct.pack("<BII", 1, _POLYGON, 1) + _sequence(ring)


def _sequence(points: Sequence[Point]) -> bytes:
    return struct.pack(f"<I{2 * len(points)}d", len(points), *(at for point in points for at in point))
