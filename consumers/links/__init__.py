"""What the signed links in mails lead to: confirm an address, unsubscribe. An ASGI application behind a proxy.

`pgherald links` serves it. Other servers can, or another application may mount it:

    PGHERALD_CONFIG=pgherald.toml uvicorn --factory consumers.links:app
    main.mount("/account", create_app(load(Path("pgherald.toml"))))     # Starlette, FastAPI
"""

from __future__ import annotations

import os
from pathlib import Path

from cdc.runtime.settings import Settings, load
from consumers.links.app import App

__all__ = ["App", "app", "create_app"]


def create_app(settings: Settings) -> App:
    """Make the application. Raises ConfigInvalid where there are no [links]."""
    return App(settings)


def app() -> App:
    """Make the application by the settings file that PGHERALD_CONFIG names. Raises ConfigInvalid."""
    return create_app(load(Path(os.environ.get("PGHERALD_CONFIG", "pgherald.toml"))))
