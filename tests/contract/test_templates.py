"""The templates that come with pgherald: every one in every locale, against its sample."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cdc.runtime.errors import MailRejected
from cdc.runtime.settings import Settings
from consumers.commands import check as command
from consumers.mail.check import HOSTILE_NAMES, check
from consumers.mail.preview import Preview, build
from consumers.mail.render import Renderer

FOLDER = Path(__file__).parents[2] / "templates"
TABLE = Path(__file__).parents[2] / "deploy/local/badgeyay.sql"
TEMPLATES, LOCALES = ["verify", "welcome"], ["en", "ar", "de", "fr"]
SETTINGS = Settings.model_validate(
    {
        "source": {"name": "badgeyay", "dsn": "", "tables": [{"name": 'public."User"'}]},
        "kafka": {"bootstrap_servers": "127.0.0.1:9092"},
        "templates": {"path": str(FOLDER)},
        "smtp": {"host": "127.0.0.1", "sender": "Badgeyay <no-reply@example.org>"},
        "links": {"base_url": "https://app.example.org/verify", "secret": "s", "max_age": "48h"},
        "user": {"email": "email", "name": "username", "plan": "plan"},
        "rules": [{"name": name, "on": "created", "mail": name} for name in TEMPLATES],
    }
)
every_one = pytest.mark.parametrize(("template", "locale"), [(name, at) for name in TEMPLATES for at in LOCALES])


def preview(template: str, locale: str, tmp_path: Path, **columns: Any) -> Preview:
    """Preview a template with some columns of its sample changed."""
    sample = json.loads((FOLDER / template / "sample.json").read_text())
    sample["after"] |= columns
    (tmp_path / "sample.json").write_text(json.dumps(sample))
    return build(SETTINGS, template, locale, tmp_path / "sample.json")


def test_every_template_has_every_locale() -> None:
    assert Renderer(FOLDER).locales == dict.fromkeys(TEMPLATES, LOCALES)


def test_none_has_a_fault_with_its_sample_or_a_hostile_name() -> None:
    assert check(SETTINGS) == []


def test_the_command_finds_them_in_order_without_settings_for_mail(tmp_path: Path) -> None:
    file = tmp_path / "pgherald.toml"
    file.write_text(f"""
[source]
name = "badgeyay"
dsn = "x"
tables = [{{name = 'public."User"'}}]
[kafka]
bootstrap_servers = "127.0.0.1:9092"
[templates]
path = "{FOLDER}"
""")
    assert CliRunner().invoke(command, ["--config", str(file)]).exit_code == 0


@pytest.mark.parametrize("sample", sorted(FOLDER.glob("**/sample.json")), ids=lambda file: str(file.parent.name))
def test_a_sample_is_a_row_of_badgeyays_table_as_it_leaves_the_reader(sample: Path) -> None:
    columns = re.findall(r'^    "?(\w+)"? ', TABLE.read_text(), re.MULTILINE)
    assert list(json.loads(sample.read_text())["after"]) == [name for name in columns if name != "password"]


@every_one
def test_a_mail_is_wholly_in_its_language(template: str, locale: str) -> None:
    made = build(SETTINGS, template, locale).rendered
    assert made.lang == locale
    assert f'<html lang="{locale}" dir="{"rtl" if locale == "ar" else "ltr"}">' in made.html
    if locale != "en":
        english = build(SETTINGS, template, "en").rendered
        assert made.subject != english.subject
        assert not {*sentences(made.text)} & {*sentences(english.text)}


@every_one
def test_a_mail_fetches_nothing_and_carries_its_style(template: str, locale: str) -> None:
    html = build(SETTINGS, template, locale).rendered.html
    assert not re.search(r"<(img|link|script|iframe|object)|url\(|@import|\ssrc=", html)
    assert re.search(r'<td class="text" style="[^"]*font-size: 16px', html)
    assert len(html) < 15_000


@pytest.mark.parametrize(
    ("locale", "valid_for"), [("en", "2 days"), ("de", "2 Tage"), ("fr", "2\xa0jours"), ("ar", "يومان")]
)
def test_verify_has_a_button_the_link_in_plain_and_how_long_it_is_valid(locale: str, valid_for: str) -> None:
    made = build(SETTINGS, "verify", locale).rendered
    (url,) = re.findall(r"^https://app\.example\.org/verify\?token=\S+$", made.text, re.MULTILINE)
    assert made.html.count(f'<a href="{url}"') == 2
    assert f">{url}</bdi></a>" in made.html
    assert valid_for in made.text
    assert valid_for in unescape(made.html)


@every_one
def test_a_user_without_name_and_plan_gets_a_whole_mail(template: str, locale: str, tmp_path: Path) -> None:
    made = preview(template, locale, tmp_path, username=None, plan=None).rendered
    assert "None" not in made.subject + made.text + made.html
    assert " ," not in made.text
    assert " ،" not in made.text


@every_one
@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES.values() if name])
def test_a_name_that_a_stranger_chose_stays_out_of_the_subject_and_is_cut_short(
    template: str, locale: str, name: str, tmp_path: Path
) -> None:
    usual = build(SETTINGS, template, locale).rendered.subject
    try:
        made = preview(template, locale, tmp_path, username=name).rendered
    except MailRejected:
        return
    assert made.subject == usual
    assert "<script>" not in made.html
    assert len(name) < 60 or name[:61] not in made.text


def sentences(text: str) -> list[str]:
    """Split a text where a reader would, without what is the same in every language."""
    return [part for part in re.split(r"[.:,،\n]\s*", text) if len(part) > 12 and "token=" not in part]
