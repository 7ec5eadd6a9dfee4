"""Values are rendered as Debezium's connector renders them, the same from the WAL and from COPY."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.values import FAULTS, codec, of_domain

#: (type, PostgreSQL's text, what the envelope holds); see tests/contract/debezium for the connector's own output.
RENDERED = [
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("real", "3.4028235e+38", "3.4028235e+38"),
    ("double precision", "NaN", '"NaN"'),
    ("double precision", "-Infinity", '"-Infinity"'),
    ("numeric(12,2)", "0.10", '"0.10"'),
    ("numeric", "12345678901234567890.0123456789", '"12345678901234567890.0123456789"'),
    ("numeric", "NaN", '"NAN"'),
    ("text", 'tab\t quote" back\\ \x07 é 😀', '"tab\\t quote\\" back\\\\ \\u0007 é 😀"'),
    ("character(5)", "ab   ", '"ab   "'),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    ("jsonb", '{"a": 12345678901234567890.123}', '"{\\"a\\": 12345678901234567890.123}"'),
    ("inet", "192.168.0.1/24", '"192.168.0.1/24"'),
    ("date", "2024-02-29", '"2024-02-29Z"'),
    ("date", "0044-03-15 BC", '"-0043-03-15Z"'),
    ("date", "10000-01-01", '"+10000-01-01Z"'),
    ("date", "infinity", '"infinity"'),
    ("timestamp without time zone", "2024-06-30 23:59:59.123456", '"2024-06-30T23:59:59.123456Z"'),
    ("timestamp(0) without time zone", "0001-01-01 00:00:00", '"0001-01-01T00:00:00Z"'),
    ("timestamp without time zone", "-infinity", '"-infinity"'),
    ("timestamp with time zone", "2024-02-29 12:34:56.789+00", '"2024-02-29T12:34:56.789000Z"'),
    ("timestamp(3) with time zone", "2024-02-29 12:34:56.7+00", '"2024-02-29T12:34:56.700Z"'),
    ("timestamp(0) with time zone", "2024-02-29 12:34:56+00", '"2024-02-29T12:34:56Z"'),
    ("timestamp with time zone", "0044-03-15 00:00:00+00 BC", '"-0043-03-15T00:00:00.000000Z"'),
    ("time without time zone", "12:34:56.789", '"12:34:56.789Z"'),
    ("time without time zone", "24:00:00", '"24:00:00Z"'),
    ("time with time zone", "12:34:56.789+02", '"10:34:56.789Z"'),
    ("time with time zone", "00:00:00+14", '"10:00:00Z"'),
    ("time with time zone", "23:59:59.999999-15:59", '"15:58:59.999999Z"'),
    ("time with time zone", "24:00:00+00", '"24:00:00Z"'),
    ("time with time zone", "24:00:00+02", '"22:00:00Z"'),
    ("time with time zone", "23:00:00.5-01", '"00:00:00.5Z"'),
    ("time(3) with time zone", "12:00:00-15:59:59", '"03:59:59Z"'),
    ("interval", "1 year 2 mons 3 days 04:05:06.789", '"P1Y2M3DT4H5M6.789S"'),
    ("interval", "-1 years -2 mons +3 days -04:05:06.000001", '"P-1Y-2M3DT-4H-5M-6.000001S"'),
    ("interval", "-1 mons +2 days -03:00:00", '"P0Y-1M2DT-3H0M0S"'),
    ("interval", "00:00:00", '"P0Y0M0DT0H0M0S"'),
    ("interval year to month", "1 year 5 mons", '"P1Y5M0DT0H0M0S"'),
    ("interval second(3)", "-00:00:05.678", '"P0Y0M0DT0H0M-5.678S"'),
    ("interval", "2562047788:00:54.775807", '"P0Y0M0DT2562047788H0M54.775807S"'),
    ("money", "-$1,234.50", '"-1234.50"'),
    ("bit(5)", "10101", '"FQ=="'),
    ("bit varying", "000", '""'),
    ("bit varying(1)", "1", "true"),
    ("bit varying(1)", "", '""'),
    (
        "public.hstore",
        '"a"=>"1", "n"=>NULL, "b c"=>"q\\"x"',
        '"{\\"a\\":\\"1\\",\\"b c\\":\\"q\\\\\\"x\\",\\"n\\":null}"',
    ),
    ("extensions.hstore", "", '"{}"'),
    ("app.hstore", "no such thing", '"no such thing"'),
    ("point", "(1.5,-2)", '{"x":1.5,"y":-2,"wkb":"AQEAAAAAAAAAAAD4PwAAAAAAAADA","srid":null}'),
    (
        "circle",
        "<(1,2),Infinity>",
        '{"center":{"x":1,"y":2,"wkb":"AQEAAAAAAAAAAADwPwAAAAAAAABA","srid":null},"radius":"Infinity"}',
    ),
    ("line", "{1,-2,NaN}", '{"a":1,"b":-2,"c":"NaN"}'),
    (
        "box[]",
        "{(1,1),(0,0);NULL}",
        '[{"wkb":"AQMAAAABAAAABQAAAAAAAAAAAPA/AAAAAAAA8D8AAAAAAADwPwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA8D8AAAAAAADwPwAAAAAAAPA/","srid":null,"extensions":{"type":"box"}},null]',
    ),
    ("text[]", '{a,"b c",NULL,"q\\"u","NULL","{}",""}', '["a","b c",null,"q\\"u","NULL","{}",""]'),
    ("integer[]", "{{1,2},{3,NULL}}", "[[1,2],[3,null]]"),
    ("integer[]", "[0:1]={1,2}", "[1,2]"),
    ("integer[]", "{}", "[]"),
    ("numeric[]", "{1.50,NaN}", '["1.50","NAN"]'),
    ("character varying(10)[]", '{"a\\\\b"}', '["a\\\\b"]'),
    ("timestamp(3) with time zone[]", '{"2026-11-23 20:19:52.47+00"}', '["2026-11-23T20:19:52.470Z"]'),
    ("bytea[]", '{"\\\\x01ff"}', '["Af8="]'),
    ("app.colour", "red", '"red"'),
    ("nobody.knows", "(1,2)", '"(1,2)"'),
]


@pytest.mark.parametrize(("type_name", "text", "json_text"), RENDERED)
def test_a_value_is_rendered_from_copys_text(type_name: str, text: str, json_text: str) -> None:
    assert codec(type_name).from_text(text).decode() == json_text


@pytest.mark.parametrize(
    ("type_name", "token", "json_text"),
    [
        *((t, json.dumps(text), out) for t, text, out in RENDERED if not t.startswith(("big", "real", "doub", "num"))),
        ("numeric(12,2)", "0.10", '"0.10"'),
        ("numeric[]", '"{1.50,NaN}"', '["1.50","NAN"]'),
        ("bigint", "12", "12"),
        ("double precision", "-0", "-0"),
        ("boolean", "true", "true"),
        ("bit(1)", '"1"', "true"),
        ("bytea", '"deadbeef00ff"', '"3q2+7wD/"'),
    ],
)
def test_a_value_is_rendered_from_the_wal(type_name: str, token: str, json_text: str) -> None:
    from_token = codec(type_name).from_token
    rendered = from_token(token.encode()) if from_token else token.encode()
    assert json.loads(rendered) == json.loads(json_text)


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("date", "someday"),
        ("timestamp with time zone", "2024-01-01"),
        ("time with time zone", "noon"),
        ("bytea", "dead"),
        ("bytea", "\\xdea"),
        ("bit(5)", "12"),
        ("point", "(1)"),
        ("polygon", "((1,2),(3))"),
        ("circle", "<(1,2)>"),
        ("path", "[(a,b)]"),
        ("integer[]", "1,2"),
    ],
)
def test_what_is_no_value_of_its_type_is_a_fault_that_is_expected(type_name: str, text: str) -> None:
    with pytest.raises(FAULTS):
        codec(type_name).from_text(text)


def test_an_hstore_has_the_order_of_debeziums_map() -> None:
    # as OpenJDK 17's HashMap lists these keys, put in this order
    given = ["A", *"zyxabcdefgh", "über", "ключ", "😀", "long-key-number-one", "p"]
    ordered = ["A", *"abcdef", "ключ", "g", "über", "h", "p", "x", "😀", "y", "z", "long-key-number-one"]
    text = ", ".join(f'"{key}"=>NULL' for key in given)
    assert list(json.loads(json.loads(codec("public.hstore").from_text(text)))) == ordered


def test_booleans_and_bytes_have_texts_of_their_own_in_copy() -> None:
    assert [codec("boolean").from_text(text) for text in "tf"] == [b"true", b"false"]
    assert codec("bytea").from_text("\\xdeadbeef00ff") == b'"3q2+7wD/"'


def _quoted(element: str | None) -> str:
    """Write an array's element as array_out does, always quoted."""
    return "NULL" if element is None else '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
def test_any_text_array_comes_through(elements: list[str | None]) -> None:
    text = "{" + ",".join(map(_quoted, elements)) + "}"
    assert json.loads(codec("text[]").from_text(text)) == elements


@given(st.text("01", min_size=2))
def test_bit_strings_keep_their_number(bits: str) -> None:
    rendered = json.loads(codec(f"bit({len(bits)})").from_text(bits))
    assert int.from_bytes(base64.b64decode(rendered), "little") == int(bits, 2)


@pytest.mark.parametrize("base", ["integer", "double precision", "date", "bytea"])
def test_what_is_no_value_of_a_domain_any_more_is_text(base: str) -> None:
    assert of_domain(codec(base)).from_text('no "value"') == b'"no \\"value\\""'
