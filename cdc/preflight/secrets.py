"""What preflight says of the files that hold secrets: who else on this machine may read them."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cdc.runtime.findings import Finding
from cdc.runtime.settings import Settings

#: The one secret that is read by a driver and not by the settings.
_KEY_OF_TLS = "ssl_key_file"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def secrets(settings: Settings) -> Iterator[Finding]:
    """Look at every file that the settings name for a secret."""
    named = list(_files(settings, ""))
    exposed = [(key, path, path.stat().st_mode & _OTHERS) for key, path in named if path.exists()]
    for key, path, mode in exposed:
        if mode:
            who = "everyone on this machine" if mode & stat.S_IRWXO else "its group"
            why = f"{who} may use the secret; in Kubernetes, set the volume's defaultMode to 0400"
            yield Finding("warning", f"{key}: {path} is open to {who}", why, f"chmod go= {shlex.quote(str(path))}")
    if named and not any(mode for *_, mode in exposed):
        yield Finding("ok", "the files of secrets are for their owner alone")


def _files(given: Any, key: str) -> Iterator[tuple[str, Path]]:
    """Walk through sections, lists and tables of them; name each file as the settings do."""
    if isinstance(given, BaseModel):
        known = type(given).model_fields
        for name, value in given:
            at = f"{key}.{name}" if key else name
            if name == _KEY_OF_TLS or (name.endswith("_file") and name.removesuffix("_file") in known):
                yield from ((at, path) for path in (value if isinstance(value, list) else [value]) if path)
            else:
                yield from _files(value, at)
    elif isinstance(given, dict):
        for name, value in given.items():
            yield from _files(value, f"{key}.{name}")
    elif isinstance(given, list):
        for value in given:
            yield from _files(value, key)
