"""What `pgherald check` finds, and what `pgherald preview` shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdc.runtime.errors import MailRejected, TemplateInvalid
from cdc.runtime.settings import Settings
from consumers.mail.check import check
from consumers.mail.preview import build, preview

ROW = {"id": 1, "username": "Ada", "email": "ada@example.org", "plan": "free"}
GOOD = {
    "subject.txt.j2": "Hello",
    "body.txt.j2": "Hello {{ user.name }}",
    "body.html.j2": '<html lang="{{ lang }}" dir="{{ dir }}"><body>Hello {{ user.name }}</body></html>',
    "sample.json": json.dumps({"before": None, "after": ROW}),
}
Write = Callable[..., Settings]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the template `t`, with what is given by path changed (None: left out), and settings that use it."""

    def write(changed: dict[str, str | None] | None = None, **settings: Any) -> Settings:
        for path, text in {**{f"t/{part}": text for part, text in GOOD.items()}, **(changed or {})}.items():
            if text is not None:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(text)
        return Settings.model_validate(
            {
                "source": {"name": "app", "dsn": "", "tables": [{"name": 'public."User"'}]},
                "kafka": {"bootstrap_servers": "127.0.0.1:9092"},
                "templates": {"path": str(tmp_path)},
                "smtp": {"host": "127.0.0.1", "sender": "App <app@example.org>"},
                "user": {"email": "email", "name": "username", "plan": "plan"},
                "rules": [{"name": "t", "on": "created", "mail": "t"}],
            }
            | settings
        )

    return write


def html(body: str, attributes: str = 'lang="en" dir="ltr"') -> dict[str, str | None]:
    return {"t/body.html.j2": f"<html {attributes}><body>{body}</body></html>"}


def test_a_good_template_has_no_fault(write: Write) -> None:
    assert check(write()) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (
            {"t/body.txt.j2": "one\n{{ nobody }}"},
            "t in en: t/body.txt.j2, line 2: UndefinedError. It says: {{ nobody }}",
        ),
        ({"t/body.txt.j2": None}, "t in en: t/body.txt.j2: TemplateNotFound. The file is missing"),
        ({"t/body.txt.j2": " \n"}, "the text is empty"),
        ({"t/subject.txt.j2": ""}, "the subject is empty"),
        ({"t/sample.json": None}, "can't read the sample"),
        ({"t/sample.json": "{"}, "is no sample"),
        ({"t/sample.json": '{"row": {}}'}, "is no sample"),
        ({"t/de/subject.txt.j2": "Hallo"}, "t in de: t/de/body.txt.j2: TemplateNotFound"),
        (html("{{ user.name | safe }}"), "where a name is markup: it stands in the HTML unescaped"),
        (html("{{ user.name.title() }}"), "where a name is missing: t/body.html.j2, line 1: UndefinedError"),
        (html("x" * 110_000), "the HTML has 110"),
        (html("x", 'dir="ltr"'), "<html> has no lang"),
        (html("x", 'lang="en" dir=""'), "<html> has no dir"),
        (html('<a href="https://evil.example/x">x</a>'), "leads to evil.example"),
        (html('<a href="https://example.org.evil.example">x</a>'), "leads to example.org.evil.example"),
        ({"t/body.txt.j2": "See (https://evil.example)."}, "leads to evil.example,"),
        (html('<table background="https://cdn.evil.example/x.png">'), "leads to cdn.evil.example"),
        (html("{{ after.plan | safe }}"), "where plan is markup: it stands in the HTML unescaped"),
        (html('<img src="https://cdn.evil.example/x.png">'), "leads to cdn.evil.example"),
        (html('<a href="/verify">x</a>'), "leads to nowhere"),
        (html('<a href="https://[evil/">x</a>'), "leads to nowhere"),
        (html('<a href="https://evil.example\\@example.org/">x</a>'), "leads to evil.example"),
        (html('<img srcset="https://example.org/1.png 1x, //evil.example/2.png 2x">'), "leads to evil.example"),
        (html('<p style="background: url(https://evil.example/x.png)">x</p>'), "leads to evil.example"),
        (html("<style>@font-face { src: url('//evil.example/x.woff') }</style>"), "leads to evil.example"),
        (html('<meta http-equiv="refresh" content="0;url=https://evil.example/">'), "leads to evil.example"),
        (html('<svg><image xlink:href="//evil.example/x.png" /></svg>'), "leads to evil.example"),
        (html('<!--[if mso]><img src="https://evil.example/x.png"><![endif]-->'), "leads to evil.example"),
        (html("See www.evil.example"), "leads to www.evil.example"),
        (html("<p title={{ user.name }}>x</p>"), "where a name is markup: it stands in the HTML unescaped"),
        ({"t/subject.txt.j2": "{{ user.name }}"}, "where a name is empty: the subject is empty"),
        ({"t/body.txt.j2": "x " * 55_000}, "the text has 110"),
        ({"t/de-AT/subject.txt.j2": "Hallo"}, "templates, t/de-AT: its folder is no locale"),
        ({"t/en/subject.txt.j2": "Hello"}, "templates, t/en: its folder is no locale"),
        (html("{{ verify_url }}"), "UndefinedError"),
    ],
)
def test_a_fault_is_found_and_named(write: Write, changed: dict[str, str | None], fault: str) -> None:
    found = check(write(changed))
    assert any(fault in each for each in found), found


@pytest.mark.parametrize(
    ("in_branch", "fault"),
    [
        ("{{ nobody }}", "t/body.html.j2, line 1: there is no nobody"),
        ("{{ user.nmae }}", "there is no user.nmae"),
        ("{{ after['paln'] }}", "there is no after.paln"),
        ("{{ user.name | shout }}", "there is no filter shout"),
        ("{% if user.name is loud %}{% endif %}", "there is no test loud"),
        ("{% include 'gone.txt' %}", "gone.txt: The file is missing"),
        ("{% include 'piece.html.j2' %}", "piece.html.j2, line 2: there is no nobody"),
        ("{% include 'broken.j2' %}", "broken.j2, line 1: TemplateSyntaxError"),
        ('<a href="https://evil.example/">x</a>', "t/body.html.j2: a link or an image leads to evil.example"),
    ],
)
def test_a_branch_that_the_sample_does_not_take_is_looked_at_too(write: Write, in_branch: str, fault: str) -> None:
    pieces: dict[str, str | None] = {"piece.html.j2": "\n{{ nobody }}", "broken.j2": "{% if %}"}
    found = check(write({**html(f"{{% if user.plan == 'never' %}}{in_branch}{{% endif %}}"), **pieces}))
    assert len(found) == 1, found
    assert fault in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "{% if nobody is defined %}{{ nobody }}{% endif %}{{ nobody | default('') }}",
        "{% if 'later' in after %}{{ after.later }}{% endif %}{{ after.get('later') }}",
        "{% set mine = 1 %}{% for each in [mine] %}{{ each }}{{ loop.index }}{% endfor %}",
        "{% macro sign(whose) %}{{ whose }}{{ lang }}{% endmacro %}{{ sign('x') }}{{ namespace(a=1).a }}",
        "{% if changed %}{{ changed.plan }}{% endif %}{% include 'gone.txt' ignore missing %}",
        "{% if never is defined %}<a href='https://{{ never }}/'>x</a><a href='{{ never }}//x'>x</a>{% endif %}",
    ],
)
def test_what_a_template_asks_for_before_it_uses_it_or_makes_itself_is_no_fault(write: Write, text: str) -> None:
    assert check(write(html(text))) == []


@pytest.mark.parametrize(
    "link", ["https://app.example.org/x", "https://example.org", "mailto:help@evil.example", "#top", "{{ verify_url }}"]
)
def test_links_to_the_sender_and_to_base_url_and_within_the_mail_are_no_fault(write: Write, link: str) -> None:
    links = {"base_url": "https://app.example.com/verify", "secret": "s"}
    assert check(write(html(f'<a href="{link}">x</a>'), links=links)) == []


def test_links_may_lead_to_hosts_that_settings_name(write: Write) -> None:
    settings = write(html('<a href="https://docs.example.net/x">x</a>'))
    assert "docs.example.net" in "".join(check(settings))
    templates = settings.templates.model_copy(update={"link_hosts": ["example.net"]})
    assert check(settings.model_copy(update={"templates": templates})) == []


def test_a_template_that_no_rule_sends_needs_no_settings_for_links(write: Write) -> None:
    assert check(write(html("{{ verify_url }}"), rules=[])) == []


def test_a_rule_whose_template_is_missing_is_a_fault(write: Write) -> None:
    (fault,) = check(write(rules=[{"name": "welcome", "on": "created", "mail": "gone"}]))
    assert fault.startswith("rules.welcome.mail: there is no template gone")


def test_a_sender_without_an_address_is_one_fault(write: Write) -> None:
    (fault,) = check(write(smtp={"host": "127.0.0.1", "sender": "App"}))
    assert fault.startswith("smtp.sender")


def test_a_sample_may_have_other_columns_than_the_settings(write: Write) -> None:
    sample = {
        "after": {"id": 1, "mail": "eve@example.org", "called": "Eve"},
        "user": {"email": "mail", "name": "called"},
    }
    settings = write({"t/sample.json": json.dumps(sample)})
    assert check(settings) == []
    assert build(settings, "t").mail.recipient == "eve@example.org"


def test_a_preview_is_the_mail_of_the_sample_in_the_asked_or_else_the_samples_locale(write: Write) -> None:
    german = {f"t/de/{part}": text.replace("Hello", "Hallo") for part, text in GOOD.items() if part != "sample.json"}
    sample = json.dumps({"locale": "de-AT", "after": ROW | {"username": "Eve"}})
    settings = write({**german, "t/de/sample.json": sample})
    assert build(settings, "t").rendered.text == "Hello Ada\n"
    assert build(settings, "t", "de").rendered.text == "Hallo Eve\n"
    other = settings.templates.path / "other.json"
    other.write_text(sample)
    made = build(settings, "t", sample=other)
    assert (made.rendered.text, made.rendered.lang) == ("Hallo Eve\n", "de-AT")


def test_a_preview_shows_what_one_may_unsubscribe_by(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    links = {"base_url": "https://app.example.org/verify", "secret": "s"}
    rule = {"name": "t", "on": "created", "mail": "t", "essential": False}
    settings = write({"t/body.txt.j2": "Bye: {{ unsubscribe_url }}"}, links=links, rules=[rule])
    assert check(settings) == []
    preview(settings, "t")
    shown = capsys.readouterr().out
    assert "List-Unsubscribe: <https://app.example.org/unsubscribe?token=" in shown
    assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click\n" in shown
    assert "\nBye: https://app.example.org/unsubscribe?token=" in shown


def test_a_preview_shows_readable_headers_text_and_html(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    sample = json.dumps({"after": ROW | {"username": "Дороти Воган"}})
    preview(write({"t/subject.txt.j2": "Größe", "t/sample.json": sample}), "t")
    shown = capsys.readouterr().out
    for line in ("From: App <app@example.org>", "To: Дороти Воган <ada@example.org>", "Subject: Größe"):
        assert line in shown.splitlines()
    assert "\nHello Дороти Воган\n" in shown
    assert "<body>Hello Дороти Воган</body>" in shown


@pytest.mark.parametrize(
    ("template", "sample", "error"),
    [("gone", None, TemplateInvalid), ("../t", None, TemplateInvalid), ("t", {"after": {"id": 1}}, MailRejected)],
)
def test_a_preview_that_can_not_be_says_why(write: Write, template: str, sample: Any, error: type[Exception]) -> None:
    settings = write()
    file = settings.templates.path / "sample.json"
    file.write_text(json.dumps(sample or {"after": ROW}))
    with pytest.raises(error):
        build(settings, template, sample=file)


def test_a_preview_of_no_template_says_which_there_are(write: Write) -> None:
    with pytest.raises(TemplateInvalid, match=r"there is no template tt in .*\. There are t$"):
        build(write(), "tt")
