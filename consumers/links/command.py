"""The command `links`: serve the pages behind links until SIGTERM or SIGINT."""

from __future__ import annotations

import socket
from functools import partial

import click

from cdc.runtime.cli import with_settings
from cdc.runtime.errors import ConfigInvalid, RetryableError
from cdc.runtime.lifecycle import Stop
from cdc.runtime.log import get_logger
from cdc.runtime.settings import Settings

_log = get_logger("links")


@click.command()
@click.option("--listen", default="127.0.0.1:8025", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@with_settings
def links(settings: Settings, listen: str) -> None:
    """Serve the pages that links in mails lead to: confirm an address, unsubscribe. Put your proxy in front, with TLS.

    A GET shows a button and changes nothing, as mail scanners follow links. A POST confirms, once, for the address that
    got the mail, and runs links.verify_sql; or it unsubscribes, also with a mail program's one click (RFC 8058).

    \b
    pgherald links --listen 127.0.0.1:8025
    """
    import uvicorn

    from cdc.runtime import health
    from consumers.links import create_app
    from consumers.migrations import migrate
    from consumers.patience import Patience

    app, stop = create_app(settings), Stop().on_signals()
    with _listening(listen) as listener:
        try:
            Patience(stop, "the ledger's database").insist(partial(migrate, settings.ledger_dsn))
        except RetryableError:
            return  # only a stop request ends that patience
        # No access log: a request's address holds its token.
        config = uvicorn.Config(
            app, http="h11", ws="none", lifespan="off", access_log=False, log_config=None, server_header=False,
            proxy_headers=False, limit_concurrency=200, timeout_keep_alive=5, timeout_graceful_shutdown=10,
        )  # fmt: skip
        server = uvicorn.Server(config)
        health.serve(settings.metrics.listen, lambda: server.started)
        host, port = listener.getsockname()[:2]
        _log.info("links_listening", address=f"{host}:{port}")
        server.run(sockets=[listener])
    _log.info("links_stopped")


def _listening(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    try:
        place = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[4][:2], family=place[0], backlog=128)
    except (OSError, ValueError, OverflowError) as exc:
        hint = "Write HOST:PORT, e.g. 127.0.0.1:8025, and see that nothing else listens there"
        raise ConfigInvalid(f"--listen: can't listen on {listen}: {exc}", hint=hint) from exc
