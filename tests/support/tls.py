"""Certificates of every sort for servers on 127.0.0.1, made with trustme."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import trustme


@dataclass
class Authority:
    """A certificate authority, and another one that nobody trusts."""

    @cached_property
    def _ours(self) -> trustme.CA:
        return trustme.CA(organization_name="Retriever tests")

    @cached_property
    def _strangers(self) -> trustme.CA:
        return trustme.CA(organization_name="Nobody")

    def client(self) -> ssl.SSLContext:
        """Return the TLS settings of a client that trusts this authority alone."""
        context = ssl.create_default_context()
        self._ours.configure_trust(context)
        return context

    def root(self) -> bytes:
        """Return the certificate to trust, as PEM."""
        return self._ours.cert_pem.bytes()

    def good(self, *, days: float = 30, name: str = "127.0.0.1") -> ssl.SSLContext:
        """Return a server with a good certificate for so many days; below 0 it has expired."""
        until = datetime.now(UTC) + timedelta(days=days)
        since = min(until, datetime.now(UTC)) - timedelta(days=60)
        return _server(self._ours.issue_cert(name, not_before=since, not_after=until))

    def expired(self) -> ssl.SSLContext:
        """Return a server whose certificate has expired three days ago."""
        return self.good(days=-3)

    def wrong_host(self) -> ssl.SSLContext:
        """Return a server with somebody else's certificate."""
        return self.good(name="elsewhere.example")

    def unknown_root(self) -> ssl.SSLContext:
        """Return a server whose authority nobody knows."""
        return _server(self._strangers.issue_cert("127.0.0.1"))


def _server(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
