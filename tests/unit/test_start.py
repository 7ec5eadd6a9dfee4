"""What a session asks wal2json for."""

import re
from pathlib import Path

from pydantic import SecretStr

from cdc.runtime.fields import TableName
from cdc.runtime.sections import Kafka, Source, SourceTable
from cdc.runtime.settings import Settings
from cdc.start import slot_options


def test_the_wide_filter_leaves_out_every_table_of_the_ledger_and_none_else() -> None:
    made = {
        f"pgherald.{name}"
        for path in Path("deploy/sql").glob("[0-9]*.sql")
        for name in re.findall(r"CREATE TABLE pgherald\.(\w+)", path.read_text())
    }
    tables = [SourceTable(name=TableName("public", "users"))]
    settings = Settings(
        source=Source(name="shop", dsn=SecretStr("x"), tables=tables), kafka=Kafka(bootstrap_servers="b:1")
    )
    assert set(slot_options(settings, partitioned=True)["filter-tables"].split(",")) == made
