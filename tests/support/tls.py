"""Certificates of every sort for servers on 127.0.0.1, made with trustme."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID


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

    def write_server(self, folder: Path, *, days: float = 30) -> None:
        """Write what a server on 127.0.0.1 reads, as `server.pem`, `server.key` and `ca.pem`."""
        self._write(folder, "server", self._issued("127.0.0.1", days=days))

    def write_client(self, folder: Path, name: str) -> None:
        """Write what a client shows a server, as `<name>.pem` and `<name>.key`, and our `ca.pem`."""
        self._write(folder, name, self._ours.issue_cert(f"{name}.example", common_name=name))

    def _write(self, folder: Path, name: str, certificate: trustme.LeafCert) -> None:
        (folder / "ca.pem").write_bytes(self.root())
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        (folder / f"{name}.pem").write_bytes(chain)

    def good(self, *, days: float = 30, name: str = "127.0.0.1") -> ssl.SSLContext:
        """Return a server with a good certificate for so many days; below 0 it has expired."""
        return _server(self._issued(name, days=days))

    def _issued(self, name: str, *, days: float) -> trustme.LeafCert:
        until = datetime.now(UTC) + timedelta(days=days)
        since = min(until, datetime.now(UTC)) - timedelta(days=60)
        return self._ours.issue_cert(name, not_before=since, not_after=until)

    def expired(self) -> ssl.SSLContext:
        """Return a server whose certificate has expired three days ago."""
        return self.good(days=-3)

    def wrong_host(self) -> ssl.SSLContext:
        """Return a server with somebody else's certificate."""
        return self.good(name="elsewhere.example")

    def unknown_root(self) -> ssl.SSLContext:
        """Return a server whose authority nobody knows."""
        return _server(self._strangers.issue_cert("127.0.0.1"))

    def intermediate(self, *, days: float = 30, is_sent: bool = True) -> ssl.SSLContext:
        """Return a server whose certificate an intermediate authority issued, valid for so many days."""
        root = x509.load_pem_x509_certificate(self._ours.cert_pem.bytes())
        root_key = cast(
            "ec.EllipticCurvePrivateKey", load_pem_private_key(self._ours.private_key_pem.bytes(), None)
        )
        key, own_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        between = _issued("Between", key, root.subject, root_key, days=days)
        own = _issued("Own", own_key, between.subject, key, days=30, address="127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        private = own_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        sent = [own, between] if is_sent else [own]
        with trustme.Blob(
            private + b"".join(one.public_bytes(Encoding.PEM) for one in sent)
        ).tempfile() as pem:
            context.load_cert_chain(pem)
        return context

    def missing_intermediate(self) -> ssl.SSLContext:
        """Return a server that leaves out the certificate of who issued its own."""
        return self.intermediate(is_sent=False)

    def expired_intermediate(self) -> ssl.SSLContext:
        """Return a server whose intermediate certificate has expired three days ago."""
        return self.intermediate(days=-3)

    def client_certificate(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """Return a server that demands a certificate of its clients."""
        context = self.good()
        context.maximum_version = version
        context.verify_mode = ssl.CERT_REQUIRED
        self._ours.configure_trust(context)
        return context


def _issued(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    days: float,
    address: str | None = None,
) -> x509.Certificate:
    until = datetime.now(UTC) + timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(until, datetime.now(UTC)) - timedelta(days=60))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
    )
    if address is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


@contextlib.contextmanager
def blocking_server(context: ssl.SSLContext) -> Iterator[str]:
    """Serve TLS in a thread, as servers do that say why they refuse; asyncio's hang up without an alert."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # The listener is closed at the end.
            while True:
                connected, _ = listener.accept()
                with context.wrap_socket(connected, server_side=True, do_handshake_on_connect=False) as tls:
                    _answer_one(tls)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _answer_one(tls: ssl.SSLSocket) -> None:
    tls.settimeout(5)
    try:
        tls.do_handshake()
        tls.recv(65_536)
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    except OSError:
        # The alert is out. Closing now would reset the connection if the client has sent something.
        raw = socket.socket(fileno=tls.detach())
        with raw, contextlib.suppress(OSError):
            raw.settimeout(5)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65_536):
                pass


def _server(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
