"""Write the settings file of the local stack, and the secrets it names."""

import base64
import json
import os
import secrets
from pathlib import Path

from psycopg2.extensions import make_dsn

from deploy.local import badgeyay

SERVICES = ("newsletter", "storage")

_SETTINGS = """\
# Written by `make up`: the local stack, complete. Change it as you like: it is written again only when it is gone.
[source]
name = "badgeyay"
dsn = {dsn}
slot = "pgherald"
[[source.tables]]
name = 'public."User"'

[kafka]
bootstrap_servers = {bootstrap}

[templates]
path = {templates}

[user]
email = "email"
name = "username"
plan = "plan"

[smtp]
host = "127.0.0.1"
port = {smtp_port}
security = "none"
sender = "Badgeyay <no-reply@example.org>"

[links]
base_url = "https://app.example.org/verify"
secret_file = "secrets/links"

[[rules]]
name = "welcome"
on = "created"
mail = "welcome"

[[rules]]
name = "verify"
on = "created"
mail = "verify"
in_doubt = "resend"

[[rules]]
name = "plans"
on = "created"
services = "plans"

[plans]
free = ["newsletter"]
pro = ["newsletter", "storage"]

[consume]
lease = "10s"  # so that what a killed process left is taken up within seconds; the default is 60s
"""

_SERVICE = """
[services.{name}]
url = {url}
secret_file = "secrets/services/{name}"
allow_private = true
"""


def role_password(folder: Path) -> str:
    """Return the password of pgherald's role, made at the first call."""
    return _secret(folder / "secrets" / "role", secrets.token_hex(16))


def write_secrets(folder: Path) -> None:
    """Make what is not there yet; each file is its owner's only."""
    role_password(folder)
    _secret(folder / "secrets" / "links", secrets.token_urlsafe(32))
    for name in SERVICES:
        key = base64.b64encode(secrets.token_bytes(24)).decode()
        _secret(folder / "secrets" / "services" / name, f"whsec_{key}")


def write_settings(folder: Path, *, postgres_port: int, bootstrap: str, smtp_port: int, receiver_port: int) -> Path:
    """Write pgherald.toml, unless it is there. Returns its path."""
    path = folder / "pgherald.toml"
    if path.exists():
        return path
    passfile = folder / "secrets" / "pgpass"
    _secret(passfile, f"127.0.0.1:{postgres_port}:*:{badgeyay.ROLE}:{role_password(folder)}")
    settings = _SETTINGS.format(
        dsn=_quoted(_role_dsn(postgres_port, passfile)),
        bootstrap=_quoted(bootstrap),
        templates=_quoted(str(Path(__file__).parents[2] / "templates")),
        smtp_port=smtp_port,
    )
    for name in SERVICES:
        settings += _SERVICE.format(name=name, url=_quoted(f"http://127.0.0.1:{receiver_port}/{name}"))
    _write_private(path, settings)
    return path


def _role_dsn(port: int, passfile: Path) -> str:
    return make_dsn(host="127.0.0.1", port=port, dbname=badgeyay.DATABASE, user=badgeyay.ROLE, passfile=str(passfile))


def _secret(path: Path, new: str) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(path, new + "\n")
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    """Write it whole or not at all, for its owner's eyes from the first byte on."""
    half_written = path.with_name(f".{path.name}")
    with open(os.open(half_written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    half_written.rename(path)


def _quoted(text: str) -> str:
    """Quote as a TOML basic string: JSON's rules fit it."""
    return json.dumps(text, ensure_ascii=False)
