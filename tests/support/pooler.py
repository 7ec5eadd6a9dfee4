"""PgBouncer before a database: each transaction gets whichever session is free, as the last one left it."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

from deploy.local import programs
from deploy.local.net import free_port
from deploy.local.process import Daemon
from deploy.local.servers import postgres_answers

#: How many sessions it has for all of its clients.
SESSIONS = 3


class PgBouncer(Daemon):
    """Pools sessions of the DSN's role, for whoever comes. `settings` win over ours.

    As root it runs as user `postgres` (it refuses root), who must be able to enter `home`.
    """

    name = "PgBouncer"
    host = "127.0.0.1"

    def __init__(self, home: Path, target: str, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(home)
        self.port = free_port()
        self.user = "postgres" if os.geteuid() == 0 else None
        self._target = parse_dsn(target)
        self._settings = settings or {}

    @property
    def dsn(self) -> str:
        return str(make_dsn(**{**self._target, "host": self.host, "port": self.port}))

    def prepare(self) -> None:
        path = self.home / "pgbouncer.ini"
        path.touch(mode=0o600)
        lines = [f"{key} = {value}" for key, value in self._all_settings().items()]
        database = f"{self._target['dbname']} = {make_dsn(**self._target)}"
        path.write_text("\n".join(["[databases]", database, "[pgbouncer]", *lines, ""]))
        if self.user:
            for own in (self.home, path):
                shutil.chown(own, self.user, self.user)

    def command(self) -> Sequence[str | Path]:
        program = programs.pgbouncer()
        if not program:
            raise FileNotFoundError("no PgBouncer here: `make setup` installs it")
        return [program, self.home / "pgbouncer.ini"]

    def ready(self) -> bool:
        return postgres_answers(self.dsn)

    def _all_settings(self) -> dict[str, str]:
        return {
            "listen_addr": self.host,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": str(SESSIONS),
            "server_round_robin": "1",  # a transaction seldom meets the session of the last one
            **self._settings,
        }
