"""A Kafka broker as strict as a production one: TLS, passwords, and nothing allowed that no ACL says."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from confluent_kafka.cimpl import NewTopic

from deploy.local.net import free_port
from deploy.local.servers import LocalKafka
from tests.support.servers import Line
from tests.support.tls import Certificates

PASSWORD = "correct horse"
_LOGIN = "org.apache.kafka.common.security"


class SecuredKafka(LocalKafka):
    """A listener for each protocol. PLAINTEXT is the administrator's; SSL asks for a client's certificate."""

    def __init__(self, home: Path, certificates: Certificates, users: tuple[str, ...]) -> None:
        self.ports = {name: free_port() for name in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")}
        self._certificates, self._users = certificates, users
        super().__init__(home, self.ports["PLAINTEXT"], free_port())
        self.line = Line(self.port, self.port)  # no test cuts this one
        self.brokers = [self]

    def prepare(self) -> None:
        certificate, key = self._certificates.issue(self.home, "broker", "127.0.0.1")
        chain = self.home / "keystore.pem"
        chain.write_text(key.read_text() + certificate.read_text())
        self.settings = {**self.settings, **self._secured(chain)}
        super().prepare()

    def add_scram_user(self, user: str) -> None:
        """Give a user its SCRAM passwords; those of PLAIN stand in the settings."""
        admin = self.admin()  # held: its futures end with it
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            change = UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
            for future in admin.alter_user_scram_credentials([change]).values():
                future.result(10)

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def at(self, protocol: str) -> str:
        return f"{self.host}:{self.ports[protocol]}"

    def apply(self, command: str) -> None:
        """Do what a printed kafka-topics.sh or kafka-acls.sh command does."""
        program, *words = command.split()
        options = [(word, value) for word, value in pairwise(words) if word.startswith("--")]
        if program == "kafka-topics.sh":
            self._create_topic(options)
        else:
            assert program == "kafka-acls.sh"
            self._add_acls(options)

    def _create_topic(self, options: list[tuple[str, str]]) -> None:
        said = dict(options)
        configs = dict(value.split("=") for option, value in options if option == "--config")
        partitions, copies = int(said["--partitions"]), int(said["--replication-factor"])
        new = NewTopic(said["--topic"], partitions, copies, config=configs)
        admin = self.admin()
        for future in admin.create_topics([new]).values():
            future.result(10)

    def _add_acls(self, options: list[tuple[str, str]]) -> None:
        said = dict(options)
        kinds = {
            "--topic": ResourceType.TOPIC,
            "--group": ResourceType.GROUP,
            "--transactional-id": ResourceType.TRANSACTIONAL_ID,
        }
        ((option, kind),) = ((option, kind) for option, kind in kinds.items() if option in said)
        bindings = [
            AclBinding(
                kind,
                said[option],
                ResourcePatternType.LITERAL,
                said["--allow-principal"],
                "*",
                AclOperation[operation.upper()],
                AclPermissionType.ALLOW,
            )
            for given, operation in options
            if given == "--operation"
        ]
        admin = self.admin()
        for future in admin.create_acls(bindings).values():
            future.result(10)

    def _secured(self, chain: Path) -> dict[str, str]:
        everywhere = {name: f"{name}://{self.host}:{port}" for name, port in self.ports.items()}
        controller = f"CONTROLLER://{self.host}:{self.controller_port}"
        passwords = " ".join(f'user_{user}="{PASSWORD}"' for user in self._users)
        logins = {
            "plain": f"{_LOGIN}.plain.PlainLoginModule required {passwords};",
            "scram-sha-256": f"{_LOGIN}.scram.ScramLoginModule required;",
            "scram-sha-512": f"{_LOGIN}.scram.ScramLoginModule required;",
        }
        return {
            "listeners": ",".join([*everywhere.values(), controller]),
            "advertised.listeners": ",".join(everywhere.values()),
            "listener.security.protocol.map": ",".join(
                [*(f"{name}:{name}" for name in everywhere), "CONTROLLER:PLAINTEXT"]
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(chain),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._certificates.ca_file),
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            **{
                f"listener.name.{listener}.{mechanism}.sasl.jaas.config": login
                for listener in ("sasl_plaintext", "sasl_ssl")
                for mechanism, login in logins.items()
            },
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }


@contextmanager
def secured(certificates: Certificates, users: tuple[str, ...]) -> Iterator[SecuredKafka]:
    """Run one; everyone may enter /var/tmp."""
    broker = SecuredKafka(Path(tempfile.mkdtemp(prefix="pgherald-test-", dir="/var/tmp")), certificates, users)
    try:
        broker.start()
        for user in users:
            broker.add_scram_user(user)
        yield broker
    finally:
        broker.stop()
        shutil.rmtree(broker.home)
