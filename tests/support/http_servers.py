"""Servers that say exactly what a test wants, byte for byte, and a session that may reach them."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from consumer.egress import Network
from consumer.http.client import Client
from consumer.http.session import open_session
from consumer.secrets import Secrets
from shared.settings import Settings

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
CLOSE_AFTER = "close"
"""What a server does after its answer: hang up."""
KEEP_OPEN = "keep"
"""What a server does after its answer: wait for the next request on the same connection."""
STAY_SILENT = "silent"
"""What a server does after its answer: nothing, until the client goes."""


@dataclass(slots=True)
class RawServer:
    """A listener that plays a script; it records the head of every request and counts connections."""

    url: str
    port: int
    heads: list[str] = field(default_factory=list)
    connections: int = 0


@contextlib.asynccontextmanager
async def raw_server(
    *answers: bytes,
    then: str = CLOSE_AFTER,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[RawServer]:
    """Serve answers in turn, one a request; the last is repeated for ever.

    Args:
        answers: Bytes as they are written; `b""` hangs up instead of answering.
        then: What happens after an answer.
        port: Where to listen, when the answers have to name it.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.current_task()
        assert task is not None
        serving[task] = writer
        try:
            await _play(server, answers, then, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The client went; that is its right.
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del serving[task]

    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    listener = await asyncio.start_server(serve, host, port, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server = RawServer(f"{'https' if tls else 'http'}://{host}:{port}/", port)
    try:
        yield server
    finally:
        listener.close()
        for writer in serving.values():
            writer.transport.abort()
        await asyncio.gather(*serving)


async def _play(
    server: RawServer,
    answers: Sequence[bytes],
    then: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        server.heads.append(head.decode("latin-1"))
        if length := _CONTENT_LENGTH.search(head):
            # Closing with a body unread would reset the connection.
            await reader.readexactly(int(length[1]))
        answer = answers[min(len(server.heads), len(answers)) - 1]
        writer.write(answer)
        await writer.drain()
        if then == STAY_SILENT:
            await reader.read()
        if then != KEEP_OPEN or not answer:
            return


@contextlib.asynccontextmanager
async def trap(host: str = "127.0.0.1") -> AsyncIterator[RawServer]:
    """Listen where nobody may come; `connections` says whether somebody did."""
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", host=host) as server:
        yield server


@contextlib.asynccontextmanager
async def client_that_reaches_loopback(
    *,
    allow: Sequence[Network] = LOOPBACK,
    names: dict[str, list[str] | OSError] | None = None,
    secrets: Secrets | None = None,
    tls: ssl.SSLContext | None = None,
    dns_servers: Sequence[str] = (),
    plain: bool | None = None,
) -> AsyncIterator[Client]:
    """Give a worker's client.

    Args:
        allow: What the guard lets through; with nothing it is as in production.
        names: What the DNS says; every other name does not exist. None is the machine's own DNS.
        tls: Whom to trust; None is whom the machine trusts.
        dns_servers: Instead of the machine's own.
        plain: As `RETRIEVER_HTTP_PLAIN`; None is what the environment says.
    """
    settings = Settings(
        egress_allow=tuple(allow),
        user_agent="Retriever/test",
        dns_servers=tuple(dns_servers),
        dns_timeout_seconds=0.5 if dns_servers else 5,
        http_plain=Settings().http_plain if plain is None else plain,
    )
    resolver = None if names is None else StubResolver(names)
    async with open_session(settings, resolver=resolver) as session:
        if tls is not None:
            connector = session.connector
            assert isinstance(connector, aiohttp.TCPConnector)
            connector._ssl = tls
        client = Client(session, secrets or Secrets())
        try:
            yield client
        finally:
            await client.compute.close()


class StubResolver(AbstractResolver):
    """A DNS that is a dictionary."""

    def __init__(self, names: dict[str, list[str] | OSError]) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name."""
        answer = self._names.get(host, socket.gaierror(socket.EAI_NONAME, "no such name"))
        if isinstance(answer, OSError):
            raise answer
        return [_resolved(host, address, port) for address in answer]

    async def close(self) -> None:
        """Do nothing; there is nothing to close."""


def _resolved(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
    )


def self_signed_tls(folder: Path) -> ssl.SSLContext:
    """Return the TLS settings of a server on 127.0.0.1 whose certificate nobody trusts."""
    pem = folder / "nobody.pem"
    pem.write_text(_NOBODY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


# A throw-away pair for tests, valid for a century: openssl req -x509 -newkey ec -subj /CN=nobody ...
_NOBODY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg4EpYD0Rq1cq98YEd
X3sxktgo14zeoqDrycsbAgZg55yhRANCAAQTsTWUTi81k1ZIz5DsOrART93byBiI
BwWg/I8Pbdc/CkZjl3xZVNPflJuvqvDiqXghwsxccd1gLrEJ7TOCpriK
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBijCCATCgAwIBAgIUcBhjk2k9awnZfzrWLXATso/eMmcwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMjE1NDcyN1oYDzIxMjYxMDI5MTU0
NzI3WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQTsTWUTi81k1ZIz5DsOrART93byBiIBwWg/I8Pbdc/CkZjl3xZVNPflJuvqvDi
qXghwsxccd1gLrEJ7TOCpriKo2QwYjAdBgNVHQ4EFgQU+i25lAa3XHw0NAGMytmL
9vjQMBswHwYDVR0jBBgwFoAU+i25lAa3XHw0NAGMytmL9vjQMBswDwYDVR0TAQH/
BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0gAMEUCIGdARdPJ
isO4Z45/Hp/xOdzaW3PqHYlHpKZZycqkufTYAiEAibErd3rCqOLLcm+2jdexQiux
glT3TuC8JlkgW7I0DOg=
-----END CERTIFICATE-----
"""
