"""The pages behind links: ours and users' own, what `pgherald check` finds in them, what `pgherald preview` shows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cdc.runtime.errors import TemplateInvalid
from cdc.runtime.settings import Settings
from consumers.links import look, pages
from consumers.links.own import Pages
from consumers.links.pages import ASK_VERIFY, NOT_FOUND, VERIFIED

FRAME = '<html lang="{{ lang }}" dir="{{ dir }}"><h1>{{ title }}</h1>{{ text }}'
FORM = '{% if button %}<form method="post"><button>{{ button }}</button></form>{% endif %}'
Write = Callable[..., Settings]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write templates of pages, and settings whose templates these are."""

    def write(**files: str) -> Settings:
        for name, text in files.items():
            file = tmp_path / "_pages" / f"{name.replace('__', '/')}.html.j2"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return Settings.model_validate(
            {
                "source": {"name": "app", "dsn": "", "tables": [{"name": "users"}]},
                "kafka": {"bootstrap_servers": "127.0.0.1:1"},
                "templates": {"path": str(tmp_path)},
                "links": {"base_url": "https://app.example.org/verify", "secret": "s"},
            }
        )

    return write


def shown(settings: Settings, kind: pages.Kind, accept_language: str = "") -> str:
    return Pages(settings.templates.path).show(kind, accept_language)[0].decode()


def test_without_templates_every_page_is_ours_and_has_no_fault(write: Write) -> None:
    settings = write()
    for kind in pages.ALL.values():
        for lang in kind.texts:
            assert shown(settings, kind, lang) == pages.html(kind, lang)
    assert look.check(settings) == []


def test_a_page_has_its_own_template_or_that_of_all_each_in_its_language(write: Write) -> None:
    settings = write(
        page=FRAME + FORM, verified="{{ page }} in {{ lang }}, {{ dir }}", es__page="Hola", pt_BR__verified="Olá"
    )
    assert "<h1>Adresse" not in shown(settings, VERIFIED, "fr")
    assert shown(settings, ASK_VERIFY, "de").startswith('<html lang="de" dir="ltr"><h1>E-Mail-Adresse bestätigen</h1>')
    assert shown(settings, VERIFIED, "ar") == "verified in ar, rtl"
    assert [shown(settings, VERIFIED, tag) for tag in ("es-MX", "pt-BR")] == ["Hola", "Olá"]
    assert shown(settings, NOT_FOUND, "es, de") == "Hola"


def test_a_template_in_another_language_than_ours_says_what_we_say_in_english(write: Write) -> None:
    settings = write(es__page=FRAME)
    assert shown(settings, VERIFIED, "es").startswith('<html lang="es" dir="ltr"><h1>Your address is confirmed')


def test_a_page_may_show_its_own_styles_and_the_images_of_its_site_and_nothing_else() -> None:
    styled = "<style>a</style><STYLE media=print>\nb</STYLE><script>c</script>"
    policy = pages.headers(styled)["content-security-policy"]
    assert policy.count("'sha256-") == 2
    assert "default-src 'none'" in policy
    assert "img-src 'self' data:;" in policy
    assert "style-src 'none';" in pages.headers("<p>")["content-security-policy"]


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"page": FRAME + FORM + "{{ nobody }}"}, "_pages/page.html.j2, line 1: UndefinedError"),
        ({"verified": "<html>\n{{ user.name }}"}, "_pages/verified.html.j2, line 2: UndefinedError"),
        ({"verified": "{{ title.__class__.__mro__ }}"}, "SecurityError"),
        ({"de__verified": "{% if %}"}, "_pages/de/verified.html.j2 as verified in de: "),
        ({"page": FRAME}, 'page.html.j2 as ask_verify in en: it has no <form method="post">'),
        ({"ask_unsubscribe": FRAME + FORM.replace("<form", '<form action="/x"')}, "without an action"),
        ({"ask_verify": FRAME + "<form method='post'></form><button>x</button>"}, "with a <button>"),
        ({"verified": FRAME.replace("title", "title | safe")}, "what it says stands in it unescaped"),
        ({"verified": "<html lang='en'>{{ title }}"}, "<html> has no dir"),
        ({"verified": FRAME + "<a href='https://evil.example'>x</a>"}, "leads to evil.example"),
        ({"verified": FRAME + "<script>x()</script>"}, "<script>: browsers are told"),
        ({"verified": FRAME + "<p style='color: red'>"}, "<p style>: browsers are told"),
        ({"verified": FRAME + "<p onclick='x()'>"}, "<p onclick>: browsers are told"),
        ({"verified": FRAME + "<link rel='stylesheet' href='/x.css'>"}, "<link>: browsers are told"),
        ({"verified": FRAME + "<img src='//app.example.org/x.png'>"}, "<img src> with a host"),
        ({"verifed": FRAME}, "_pages/verifed.html.j2: there is no such page. Pages are ask_verify, verified,"),
        ({"deutsch__verified": FRAME}, "_pages/deutsch/verified.html.j2: its folder is no locale"),
        ({"en__verified": FRAME}, "_pages/en/verified.html.j2: its folder is no locale, or that of English"),
    ],
)
def test_a_fault_of_a_page_is_found_and_named(write: Write, files: dict[str, str], fault: str) -> None:
    found = look.check(write(**files))
    assert any(fault in each for each in found), found


def test_a_fault_that_many_pages_share_is_told_once(write: Write) -> None:
    assert len(look.check(write(page="<html lang='en'>" + FORM))) == 1


def test_what_a_page_may_hold_is_no_fault(write: Write) -> None:
    more = (
        "<style>p { color: red }</style><svg><path d='M0 0'/></svg><img src='/logo.png'><img src='data:image/png,x'>"
        "<a href='/'>Home</a><a href='https://app.example.org'>App</a><link rel='icon' href='/favicon.ico'>"
    )
    settings = write(page="{% include '_pages/_head.html.j2' %}" + FRAME + FORM + more, _head="<!DOCTYPE html>")
    assert look.check(settings) == []


def test_a_page_is_previewed_as_its_readers_see_it(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    settings = write(ask_verify=FRAME + FORM)
    look.preview(settings, "_pages/ask_verify", "fr")
    assert "<h1>Confirmer votre adresse</h1>" in capsys.readouterr().out
    look.preview(settings, "_pages/expired")
    assert "This link has expired" in capsys.readouterr().out
    with pytest.raises(TemplateInvalid, match="there is no page _pages/gnoe"):
        look.preview(settings, "_pages/gnoe")
