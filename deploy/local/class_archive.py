"""Make the broker's class archive: run a broker once and keep its classes as Java maps them. Halves later starts."""

import tempfile
from pathlib import Path

from deploy.local import programs
from deploy.local.net import free_port
from deploy.local.servers import LocalKafka


def make() -> None:
    archive = programs.class_archive()
    with tempfile.TemporaryDirectory(prefix="pgherald-", dir=archive.parent) as folder:
        made = Path(folder) / archive.name
        broker = LocalKafka(Path(folder) / "kafka", free_port(), free_port())
        broker.jvm_options = (f"-XX:ArchiveClassesAtExit={made}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off")
        broker.start()
        broker.stop()
        made.rename(archive)  # whole or not at all, also when two set-ups run


if __name__ == "__main__":
    make()
