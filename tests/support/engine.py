"""Whether a Docker engine answers; where none does, Docker's library is not even imported."""

import os
import socket
from functools import cache


@cache
def answers() -> bool:
    if not _socket_is_open():
        return False
    import docker

    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except docker.errors.DockerException:
        return False
    finally:
        client.close()


def _socket_is_open() -> bool:
    """Try the engine's socket by hand: docker's client leaves its own open where none answers."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        return True  # by TCP or SSH: for the client to find out
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address.removeprefix("unix://")) == 0
