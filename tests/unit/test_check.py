"""`pgherald check`: what is wrong with settings, rules and templates, before any server is asked."""

import base64
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from consumers.commands import check

SETTINGS = """
[source]
name = "shop"
dsn = "x"
[[source.tables]]
name = "users"
[kafka]
bootstrap_servers = "x:9092"
[templates]
path = "{templates}"
[user]
plan = "plan"
[[rules]]
name = "plans"
on = "created"
when = "{when}"
services = "plans"
[plans]
free = ["news"]
[services.news]
url = "{url}"
secret = "{secret}"
"""
GOOD = "whsec_" + base64.b64encode(b"x" * 24).decode()


def checked(
    tmp_path: Path, *, when: str = "after.id", secret: str = GOOD, url: str = "https://news.example.org"
) -> Result:
    path = tmp_path / "pgherald.toml"
    path.write_text(SETTINGS.format(templates=tmp_path / "templates", when=when, secret=secret, url=url))
    return CliRunner().invoke(check, ["--config", str(path)])


def test_what_is_in_order_ends_with_0(tmp_path: Path) -> None:
    template = tmp_path / "templates" / "welcome"
    template.mkdir(parents=True)
    for name in ("subject.txt.j2", "body.txt.j2"):
        (template / name).write_text("Hello")
    (template / "body.html.j2").write_text('<html lang="{{ lang }}" dir="{{ dir }}">Hello</html>')
    (template / "sample.json").write_text('{"after": {"email": "ada@example.org"}}')
    assert checked(tmp_path).exit_code == 0
    (template / "body.txt.j2").unlink()
    assert checked(tmp_path).exit_code == 1


def test_a_secret_that_is_none_is_found(tmp_path: Path) -> None:
    result = checked(tmp_path, secret="whsec_not base64!")
    assert result.exit_code == 1
    assert "services.news.secret" in result.output
    assert "not base64" not in result.output


@pytest.mark.parametrize("url", ["https://0177.0.0.1/x", "https://②.example.org"])
def test_an_address_of_a_service_that_is_none_is_found(tmp_path: Path, url: str) -> None:
    result = checked(tmp_path, url=url)
    assert result.exit_code == 1
    assert "services.news.url: Invalid" in result.output


def test_an_expression_that_does_not_compile_is_found(tmp_path: Path) -> None:
    result = checked(tmp_path, when="after.id ==")
    assert result.exit_code == 1
    assert "rules.plans.when" in result.output


@pytest.mark.parametrize(
    ("when", "fault"),
    [
        ("usr.email", "usr.email, line 1: there is no usr"),
        ("user.emial", "there is no user.emial"),
        ("false and user.__class__", "there is no user.__class__"),
        ("user.email | shout", "shout"),
    ],
)
def test_an_expression_that_names_what_nobody_gives_is_found(tmp_path: Path, when: str, fault: str) -> None:
    result = checked(tmp_path, when=when)
    assert result.exit_code == 1
    assert "rules.plans.when: " in result.output
    assert fault in result.output


@pytest.mark.parametrize("when", ["changed.plan and event.kind == 'changed'", "x is defined and x", "after['a b'] > 1"])
def test_what_an_expression_may_name_is_no_fault(tmp_path: Path, when: str) -> None:
    assert checked(tmp_path, when=when).exit_code == 0
