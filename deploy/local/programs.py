"""Where the local servers' programs are and what this machine still lacks. Standard library only: runs before set-up.

As a script it prints the Debian packages to install, one a line: those of the servers, or with `compiler` those
that compile the wheel. With `kafka` it prints the folder of the Kafka jars.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

CHECKSUMS = Path(__file__).parents[1] / "kafka" / "jars.sha512"
DEBIAN_12_POSTGRES = 15
JAVA_AT_LEAST = 17


def postgres_bin() -> Path | None:
    """Find the newest PostgreSQL that has wal2json."""
    return next((found for found in _postgres_bins() if _has_wal2json(found)), None)


def java() -> Path | None:
    """Find the first Java runtime that is new enough for the broker: the PATH's, else any of /usr/lib/jvm."""
    on_path = shutil.which("java")
    found = [Path(on_path).resolve()] if on_path else []
    found += sorted(Path("/usr/lib/jvm").glob("*/bin/java"), reverse=True)
    return next((path for path in found if _java_major(path) >= JAVA_AT_LEAST), None)


def pgbouncer() -> Path | None:
    """Find PgBouncer, which tests put before the server: Debian's lies where only root's PATH leads."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    return Path(found) if found else None


def kafka_folder() -> Path:
    """Return where the Kafka jars (`libs`) and what is made of them are; another list of jars is another folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pgherald" / f"kafka-{hashlib.sha512(CHECKSUMS.read_bytes()).hexdigest()[:12]}"


def class_archive() -> Path:
    """Return where the broker's classes are as this Java maps them; an archive fits one build of Java only."""
    runtime = java()
    build = (runtime.parents[1] / "release").read_bytes() if runtime else b""
    return kafka_folder() / f"classes-{hashlib.sha512(build).hexdigest()[:12]}.jsa"


def missing() -> list[str]:
    """List Debian 12's packages for what is not there."""
    packages = []
    if not postgres_bin():
        bins = _postgres_bins()
        major = bins[0].parent.name if bins else DEBIAN_12_POSTGRES
        packages += ([] if bins else [f"postgresql-{major}"]) + [f"postgresql-{major}-wal2json"]
    if not pgbouncer():
        packages.append("pgbouncer")
    if not java():
        packages.append(f"openjdk-{JAVA_AT_LEAST}-jre-headless")
    if not (kafka_folder() / "libs").exists() and not shutil.which("mvn"):
        packages.append("maven")
    if not importlib.util.find_spec("ensurepip"):
        packages.append("python3-venv")
    return packages


def missing_compiler() -> list[str]:
    """List Debian's packages for what compiles against this Python and is not there."""
    packages = [] if shutil.which("cc") else ["gcc", "libc6-dev"]
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        packages.append("python3-dev")
    return packages


def _postgres_bins() -> list[Path]:
    """List newest first; programs outside Debian's folders count as oldest."""
    on_path = shutil.which("postgres")
    found = list(Path("/usr/lib/postgresql").glob("*/bin/postgres")) + ([Path(on_path).resolve()] if on_path else [])
    return sorted((path.parent for path in found), key=_version, reverse=True)


def _version(folder: Path) -> int:
    return int(folder.parent.name) if folder.parent.name.isdigit() else 0


def _has_wal2json(folder: Path) -> bool:
    return any((folder.parent / where / "wal2json.so").exists() for where in ("lib", "lib/postgresql", "lib64/pgsql"))


def _java_major(path: Path) -> int:
    """Return 0 where the runtime does not say."""
    try:
        found = re.search(r'^JAVA_VERSION="(\d+)', (path.parents[1] / "release").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["kafka"]:
        print(kafka_folder())
    else:
        print("\n".join(missing_compiler() if sys.argv[1:] == ["compiler"] else missing()), flush=True)
