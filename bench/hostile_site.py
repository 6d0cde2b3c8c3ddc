"""The bad servers of `bench.hostile_kinds` in one process, each at an address of its own, and their DNS.

What is said without end ends all the same: with the client, after a while, or after many bytes.
"""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from dnslib import QTYPE, RR, A, DNSRecord

from bench.hostile_kinds import HOSTILE, Asked, Comes, Hostile, Then
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.processes import kill_group, wait_until_ready

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 60.0
LONGEST_SECONDS = 120.0
MOST_BYTES = 300_000_000
MAX_ANSWERS = 100
"""On one connection."""

CERTIFICATE_NAMES = 5_000
ONE_ADDRESS = "one.hostile.example"
"""Any name below it leads to 127.0.0.1."""

METADATA_ADDRESS = "169.254.169.254"


@dataclass(frozen=True, slots=True)
class HostileSite:
    """A running site; `dns_server` is for RETRIEVER_DNS_SERVERS."""

    port: int
    dns_server: str

    def place(self, hostile: Hostile) -> str:
        """Return the host and port at which jobs meet a kind."""
        return f"{hostile.host or address_of(hostile)}:{self.port}"


def address_of(hostile: Hostile) -> str:
    """Return the address at which a kind is served."""
    return f"127.40.0.{HOSTILE.index(hostile) + 1}"


@contextmanager
def open_hostile_site(log: Path) -> Iterator[HostileSite]:
    """Run the site in a process of its own while inside.

    Raises:
        StartFailed: it did not start; the message ends with its log.
    """
    port, dns_port = free_ports(2)
    command = [sys.executable, "-m", "bench.hostile_site", "--port", str(port), "--dns-port", str(dns_port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until_ready(
            lambda: _listens(port),
            name="the hostile site",
            deadline_seconds=READY_SECONDS,
            is_alive=lambda: process.poll() is None,
            read_log=lambda: log.read_text(errors="replace"),
        )
        yield HostileSite(port, f"{LOOPBACK}:{dns_port}")
    finally:
        kill_group(process)


def _listens(port: int) -> bool:
    # The last of its addresses, where no kind is served.
    try:
        socket.create_connection((_NOBODYS, port), timeout=1).close()
    except OSError:
        return False
    return True


_NOBODYS = "127.40.1.1"


class _Server:
    """One kind at its address."""

    def __init__(self, hostile: Hostile) -> None:
        self._hostile = hostile

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play one connection, within its bounds."""
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                await self._play(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # The client went, or it took too long.
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(MAX_ANSWERS):
            asked = Asked("", "", "")
            if self._hostile.answer.comes is Comes.ASKED:
                asked = await _read_request(reader, writer)
            if not await self._say(asked, reader, writer):
                return

    async def _say(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Say an answer, and return whether the connection goes on."""
        answer = self._hostile.answer
        writer.write(answer.octets(asked))
        await writer.drain()
        if answer.again:
            for _ in range(MOST_BYTES // len(answer.again)):
                await asyncio.sleep(answer.pause_seconds)
                writer.write(answer.again)
                await writer.drain()
        match answer.then:
            case Then.SILENT:
                await _read_to_end(reader)
            case Then.HALF_CLOSE:
                writer.write_eof()
                await _read_to_end(reader)
            case Then.RESET:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return answer.then is Then.KEEP


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    # Closing a connection with bytes unread resets it.
    await reader.readexactly(int(fields.get("content-length", "0")))
    method, target, _ = lines[0].split(" ", 2)
    address, port = writer.get_extra_info("sockname")[:2]
    return Asked(method, target, f"http://{address}:{port}")


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


class _Names(asyncio.DatagramProtocol):
    """The DNS of the kinds that have a name."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer a question, or be silent."""
        question = DNSRecord.parse(data)
        addresses = addresses_of(str(question.q.qname).rstrip(".").lower())
        if addresses is None:
            return
        reply = question.reply()
        if question.q.qtype == QTYPE.A:
            for each in addresses:
                reply.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(each), ttl=60))
        self._transport.sendto(reply.pack(), address)  # type: ignore[attr-defined] # uvloop's has it


def addresses_of(name: str) -> Sequence[str] | None:
    """Return where a name leads; None is no answer at all."""
    if name.endswith(f".{ONE_ADDRESS}"):
        return [LOOPBACK]
    hostile = next((each for each in HOSTILE if each.host == name), None)
    if hostile is None:
        return []
    match name.partition(".")[0]:
        case "silent":
            return None
        case "inside":
            return [address_of(hostile), METADATA_ADDRESS]
        case _:
            return [address_of(hostile), *(f"127.42.0.{number}" for number in range(1, 200))]


def huge_certificate(folder: Path) -> ssl.SSLContext:
    """Return the TLS settings of a server whose certificate nobody trusts, and that is huge."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "huge")])
    names = [x509.DNSName(f"{number}.{'x' * 20}.example") for number in range(CERTIFICATE_NAMES)]
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "huge.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@click.command()
@click.option("--port", required=True, type=click.IntRange(1, 65_535))
@click.option("--dns-port", required=True, type=click.IntRange(1, 65_535))
def main(port: int, dns_port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    uvloop.run(_serve(port, dns_port))


async def _serve(port: int, dns_port: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retriever-hostile-")))
        huge = huge_certificate(folder)
        await asyncio.get_running_loop().create_datagram_endpoint(_Names, (LOOPBACK, dns_port))
        for hostile in HOSTILE:
            tls = huge if hostile.tls else None
            server = _Server(hostile)
            await asyncio.start_server(server.serve, address_of(hostile), port, ssl=tls, backlog=1_000)
        # Says that all others are there.
        await asyncio.start_server(lambda _, writer: writer.close(), _NOBODYS, port)
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
