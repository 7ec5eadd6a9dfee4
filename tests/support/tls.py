"""A certificate authority that exists for one test session."""

import ssl
from pathlib import Path

import trustme


class Certificates:
    """`ca_file` is what a client trusts. A server is known as localhost and 127.0.0.1, or as what server() names."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.ca_file))

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
        return context
