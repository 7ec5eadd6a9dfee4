"""From a template and an event to subject, text and HTML."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.runtime.errors import TemplateInvalid
from consumers.mail.message import Rendered
from consumers.mail.render import Renderer, negotiate

SECRET = "Ada <b>Lovelace</b>"
PARTS = {"subject.txt.j2": "Hello {{ user.name }}", "body.txt.j2": "Hi {{ user.name }}", "body.html.j2": "<p>Hi"}
Write = Callable[..., Renderer]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the template `t` (and what else is given by path) into a folder."""

    def write(**files: str) -> Renderer:
        given = {f"t/{part}": text for part, text in PARTS.items()} | files
        for path, text in given.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return Renderer(tmp_path)

    return write


def rendered(renderer: Renderer, locale: str | None = None, **names: Any) -> Rendered:
    user = SimpleNamespace(name=SECRET)
    return renderer.render("t", locale, {"user": user, "after": {"items": "a column", "plan": None}} | names)


def files(prefix: str, text: str) -> dict[str, str]:
    return {f"{prefix}/{part}": text for part in PARTS}


def test_html_is_escaped_and_text_and_subject_are_not(write: Write) -> None:
    found = rendered(write(**{"t/body.html.j2": "<p>{{ user.name }}</p>"}))
    assert found.subject == f"Hello {SECRET}"
    assert found.text == f"Hi {SECRET}\n"
    assert "<p>Ada &lt;b&gt;Lovelace&lt;/b&gt;</p>" in found.html


def test_styles_of_the_layout_are_inlined_and_media_queries_stay(write: Write) -> None:
    layout = "<html><style>p { color: red } @media print { p { color: black } }</style><body><p>Hi</p></body></html>"
    html = rendered(write(**{"t/body.html.j2": "{% extends '_layout/l.html.j2' %}", "_layout/l.html.j2": layout})).html
    assert '<p style="color: red;">' in html
    assert "@media print" in html


def test_a_columns_name_comes_before_a_method_of_its_row(write: Write) -> None:
    assert rendered(write(**{"t/body.txt.j2": "{{ after.items }}"})).text == "a column\n"


@pytest.mark.parametrize(
    ("text", "line", "kind"),
    [
        ("one\n{{ nobody }}", 2, "UndefinedError"),
        ("{{ user.nam }}", 1, "UndefinedError"),
        ("{{ after.photo }}", 1, "UndefinedError"),
        ("{{ after[user.name] }}", 1, "UndefinedError"),
        ("one\ntwo\n{{ user.name + 1 }}", 3, "TypeError"),
        ("{{ user.name | no_such_filter }}", 1, "TemplateAssertionError"),
        ("one\n{% if %}", 2, "TemplateSyntaxError"),
        ("{{ user.name.__class__ }}", 1, "SecurityError"),
        ("{{ after.clear() }}", 1, "SecurityError"),
        ("{{ ''.__class__.__mro__ }}", 1, "SecurityError"),
        ("{% include user.name %}", 1, "TemplateNotFound"),
        ("{% include '../secret' %}", 1, "TemplateNotFound"),
        ("{{ user.name | format_date }}", 1, "ValueError"),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_a_fault_names_file_line_and_the_templates_own_words_and_never_a_value(
    write: Write, part: str, text: str, line: int, kind: str
) -> None:
    with pytest.raises(TemplateInvalid) as found:
        rendered(write(**{f"t/{part}": text}))
    assert str(found.value).startswith(f"t/{part}, line {line}: {kind}")
    assert text.splitlines()[-1] in str(found.value)
    assert "Lovelace" not in str(found.value)
    assert found.value.__cause__ is None
    assert found.value.__suppress_context__


def test_a_fault_in_the_layout_is_the_layouts(write: Write) -> None:
    with pytest.raises(TemplateInvalid, match=r"^_layout/l\.html\.j2, line 2: UndefinedError"):
        rendered(
            write(**{"t/body.html.j2": "{% extends '_layout/l.html.j2' %}", "_layout/l.html.j2": "\n{{ nobody }}"})
        )


def test_a_missing_part_and_a_missing_template_are_faults_of_the_delivery_alone(write: Write, tmp_path: Path) -> None:
    renderer = write(**files("other", "Hi"))
    (tmp_path / "t/body.txt.j2").unlink()
    with pytest.raises(TemplateInvalid, match=r"t/body\.txt\.j2.*The file is missing"):
        rendered(renderer)
    for name in ("gone", "..", "_layout", "../t", "other/de", ""):
        with pytest.raises(TemplateInvalid, match="there is no template"):
            renderer.render(name, None, {})
    assert renderer.render("other", None, {}).text == "Hi\n"


@pytest.mark.parametrize(
    ("wanted", "own", "tag"),
    [
        (None, "en", "en"),
        ("", "en", "en"),
        ("de", "de", "de"),
        ("DE", "de", "de"),
        ("de-AT", "de", "de-AT"),
        ("de_AT.UTF-8", "de", "de-AT"),
        ("de_DE@euro", "de", "de-DE"),
        ("pt-BR", "pt_BR", "pt-BR"),
        ("pt-PT", "en", "en"),
        ("en-GB", "en", "en-GB"),
        ("ja", "en", "en"),
        ("xx", "en", "en"),
        ("../../etc", "en", "en"),
        ("de\r\nBcc: eve@example.org", "en", "en"),
    ],
)
def test_the_nearest_locale_is_taken_and_the_users_region_is_kept(wanted: str | None, own: str, tag: str) -> None:
    assert negotiate(wanted, ("de", "ar", "pt_BR")) == (own, tag)


@given(wanted=st.text() | st.from_regex(r"[a-z]{2,3}[-_][A-Za-z]{2,4}([-_.@][a-zA-Z]+)?"))
def test_whatever_a_user_has_for_a_locale_the_result_is_an_offered_one_and_a_plain_tag(wanted: str) -> None:
    own, tag = negotiate(wanted, ("de", "ar"))
    assert own in ("en", "de", "ar")
    assert tag.replace("-", "").isalnum()
    assert tag.isascii()


def test_a_locale_is_a_folder_with_that_name_and_sees_its_language_and_direction(write: Write) -> None:
    text = "{{ lang }} {{ dir }}"
    renderer = write(**files("t", text), **files("t/de", text), **files("t/ar", text), **files("t/images", text))
    assert renderer.locales == {"t": ["en", "ar", "de"]}
    assert rendered(renderer, "de-CH").subject == "de-CH ltr"
    assert rendered(renderer, "ar").subject == "ar rtl"
    assert rendered(renderer, "fr").subject == "en ltr"


@pytest.mark.parametrize(
    ("locale", "date", "time"),
    [
        ("en", "November 23, 2026", "UTC"),
        ("en-GB", "23 November 2026", "UTC"),
        ("de", "23. November 2026", "UTC"),
        ("de-AT", "23. November 2026", "UTC"),
        ("fr", "23 novembre 2026", "TU"),
    ],
)
def test_dates_are_written_in_the_readers_language(write: Write, locale: str, date: str, time: str) -> None:
    text = "{{ at | format_date }}|{{ at | format_datetime }}|{{ column | format_date }}|{{ day | format_date }}"
    renderer = write(**files("t", text), **files("t/de", text), **files("t/fr", text))
    at = datetime(2026, 11, 23, 20, 46, tzinfo=UTC)
    found = rendered(renderer, locale, at=at, column="2026-11-23T20:46:00.123456Z", day="2026-11-23").subject.split("|")
    assert [found[0], found[2], found[3]] == [date] * 3
    assert found[1].endswith(time)


@pytest.mark.parametrize(
    ("age", "english", "arabic"),
    [
        (timedelta(days=2), "2 days", "يومان"),
        (timedelta(days=1), "1 day", "يوم"),
        (timedelta(hours=36), "36 hours", "36 ساعة"),
        (timedelta(minutes=90), "90 minutes", "90 دقيقة"),
        (timedelta(seconds=90), "90 seconds", "90 ثانية"),
    ],
)
def test_durations_are_exact(write: Write, age: timedelta, english: str, arabic: str) -> None:
    renderer = write(**files("t", "{{ age | format_duration }}"), **files("t/ar", "{{ age | format_duration }}"))
    assert rendered(renderer, "en", age=age).subject == english
    assert rendered(renderer, "ar", age=age).subject == arabic


@pytest.mark.parametrize(
    ("count", "english", "arabic"),
    [(1, "1 file", "ملف"), (2, "2 files", "ملفان"), (3, "3 files", "3 ملفات"), (1234, "1,234 files", "1,234 ملف")],
)
def test_a_number_and_its_noun_agree(write: Write, count: int, english: str, arabic: str) -> None:
    forms = 'one="ملف", two="ملفان", few="# ملفات", other="# ملف"'
    renderer = write(
        **files("t", '{{ n | plural(one="# file", other="# files") }}'),
        **files("t/ar", f"{{{{ n | plural({forms}) }}}}"),
    )
    assert rendered(renderer, "en", n=count).subject == english
    assert rendered(renderer, "ar-EG", n=count).subject == arabic


def test_the_hash_changes_with_the_template_and_the_layout_and_with_nothing_else(write: Write) -> None:
    first = rendered(write(**files("other", "Hi"))).template
    assert len(first) == 12
    assert rendered(write(**files("other", "Ho"), **{"t/sample.json": "{}"})).template == first
    changed = rendered(write(**files("t/de", "Hallo"))).template
    assert changed != first
    assert rendered(write(**{"_layout/mail.css": "p {}"})).template not in (first, changed)


def test_no_folder_means_no_templates(tmp_path: Path) -> None:
    assert Renderer(tmp_path / "nowhere").locales == {}
