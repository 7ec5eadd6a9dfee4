"""A certificate authority that exists for one test session."""

import ssl
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


class Certificates:
    """`ca_file` is what a client trusts. A server is known as localhost and 127.0.0.1, or as what server() names."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, folder: Path, name: str, *names: str, organization: str = "pgherald") -> tuple[Path, Path]:
        """Write a certificate and its key (PKCS 8, as Java wants it); `name` is its common name."""
        issued = self._authority.issue_cert(*names, common_name=name, organization_name=organization)
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        loaded = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        as_pkcs8 = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key.touch(mode=0o600)
        key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, *as_pkcs8))
        return certificate, key

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
        return context
