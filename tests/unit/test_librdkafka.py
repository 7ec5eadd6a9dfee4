"""The reader's Kafka clients: what they can't be made with is a fault of the settings, in our words."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from cdc import librdkafka
from cdc.runtime.errors import ConfigInvalid
from cdc.runtime.sections import Kafka


@pytest.mark.parametrize("key", ["ssl_ca_file", "ssl_certificate_file", "ssl_key_file"])
@pytest.mark.parametrize("content", [None, "", "no certificate at all"])
@pytest.mark.parametrize("kind", [AdminClient, Consumer, Producer])
def test_a_file_that_is_missing_or_no_pem_is_named_by_its_setting(
    tmp_path: Path, kind: type, content: str | None, key: str
) -> None:
    file = tmp_path / "given.pem"
    if content is not None:
        file.write_text(content)
    kafka = Kafka.model_validate({"bootstrap_servers": "127.0.0.1:1", "security_protocol": "SSL", key: str(file)})
    with pytest.raises(ConfigInvalid) as caught:
        librdkafka.made(kind, librdkafka.options(kafka) | ({"group.id": "g"} if kind is Consumer else {}))
    assert caught.value.exit_code == 78
    assert caught.value.message == f"kafka.{key} is missing or no PEM file"
    assert "PEM files" in caught.value.hint
    assert "error:" not in str(caught.value)
