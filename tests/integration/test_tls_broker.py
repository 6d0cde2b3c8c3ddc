"""RabbitMQ over TLS: everybody is verified, and what is said when that fails is true."""

import asyncio
import json
import math
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvloop
from pydantic import SecretStr

from deploy.local.broker import Broker, choose_kind, open_broker
from deploy.local.ports import free_ports
from producer.ledger.dead_letters import DeadLetterWatch
from producer.ledger.metrics import LedgerMetrics
from shared.broker.connection import connected
from shared.broker.delivery import Delivery
from shared.broker.outgoing import Outgoing
from shared.broker.publisher import Publisher
from shared.broker.refusals import NotConnected
from shared.broker.subscriber import Subscriber, Subscription
from shared.broker.topology import JOBS, declare_topology, work_queue
from shared.kinds.registry import KINDS, Lane
from shared.settings import Settings
from tests.support.amqp import running
from tests.support.documents import ROOT
from tests.support.environment import clean_environment
from tests.support.tls import Authority
from tests.support.waiting import eventually

CONFIGURATION = """\
listeners.ssl.1 = 127.0.0.1:{amqps_port}
ssl_options.cacertfile = {files}/ca.pem
ssl_options.certfile = {files}/server.pem
ssl_options.keyfile = {files}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
management.ssl.ip = 127.0.0.1
management.ssl.port = {https_port}
management.ssl.cacertfile = {files}/ca.pem
management.ssl.certfile = {files}/server.pem
management.ssl.keyfile = {files}/server.key"""


@dataclass(frozen=True, slots=True)
class TlsBroker:
    """A broker that demands a certificate of each client, and whose management API does not."""

    broker: Broker
    authority: Authority
    files: Path
    amqps_port: int
    https_port: int

    def url(self, *, host: str = "127.0.0.1", ca: str = "ca", client: str | None = "client") -> str:
        """Return its address for a client that trusts an authority and shows a certificate, or none."""
        shown = f"&certfile={self.files}/{client}.pem&keyfile={self.files}/{client}.key" if client else ""
        return f"amqps://guest:guest@{host}:{self.amqps_port}/?cafile={self.files}/{ca}.pem{shown}"

    @property
    def plain_port(self) -> int:
        """Its port without TLS."""
        return urlsplit(self.broker.amqp_url).port or 0


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    """Yield a broker with TLS, and the files of its clients: `client` is one that it trusts."""
    if choose_kind(None) == "docker":
        pytest.skip("the certificates are files of this machine: install rabbitmq-server")
    files, authority = tmp_path_factory.mktemp("tls"), Authority()
    Authority().write_client(files, "stranger")
    (files / "ca.pem").rename(files / "strangers.pem")
    authority.write_server(files)
    authority.write_client(files, "client")
    amqps_port, https_port = free_ports(2)
    configuration = CONFIGURATION.format(files=files, amqps_port=amqps_port, https_port=https_port)
    with open_broker(environment={}, configuration=configuration) as broker:
        yield TlsBroker(broker, authority, files, amqps_port, https_port)


@asynccontextmanager
async def fronted(context: ssl.SSLContext, port: int) -> AsyncIterator[int]:
    """Yield a port that speaks TLS as told, in front of one without."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while some := await reader.read(65_536):
                writer.write(some)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_broker = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, to_broker[1]), copy(to_broker[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def refusal_of(url: str) -> str:
    """Return why nobody can connect there."""
    with pytest.raises(NotConnected) as raised:
        async with connected(url, name="test"):
            pass
    return str(raised.value)


async def fronted_refusal(context: ssl.SSLContext, port: int, query: str) -> str:
    """Return why nobody can connect through a front."""
    async with fronted(context, port) as front:
        return await refusal_of(f"amqps://guest:guest@127.0.0.1:{front}/?{query}")


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_messages_of_all_sizes_go_both_ways(
    tls: TlsBroker, run: Callable[[Coroutine[None, None, None]], None], plain: bool
) -> None:
    bodies = {str(size).encode() + b" " * size for size in (*range(200), 1_000_000)}

    async def send_and_receive() -> None:
        publisher = Publisher(
            tls.url(),
            name="test publisher",
            timeout_seconds=30,
            prepare=lambda channel: declare_topology(channel, KINDS),
            plain=plain,
        )
        came: set[bytes] = set()

        def take(delivery: Delivery) -> None:
            came.add(delivery.body)
            delivery.ack()

        async def all_came() -> bool:
            return came == bodies

        queue = Subscription(work_queue("check", Lane.BULK), 50, take)
        subscriber = Subscriber(tls.url(), name="test", subscriptions=[queue], plain=plain)
        async with running(publisher.run()):
            sent = [publisher.publish(Outgoing(JOBS, "check.bulk", body, "job")) for body in bodies]
            await asyncio.gather(*sent)
            async with running(subscriber.run()):
                await eventually(all_came, deadline_seconds=60)

    run(send_and_receive())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_cannot_be_verified_is_refused_with_the_reason(
    tls: TlsBroker, run: Callable[[Coroutine[None, None, str]], str]
) -> None:
    place = f"127.0.0.1:{tls.amqps_port}"

    said = {
        "another authority": run(refusal_of(tls.url(ca="strangers"))),
        "another host": run(refusal_of(tls.url(host="localhost"))),
        "no certificate of ours": run(refusal_of(tls.url(client=None))),
        "a stranger's certificate": run(refusal_of(tls.url(client="stranger"))),
        "the system's authorities": run(refusal_of(f"amqps://guest:guest@{place}/")),
        "expired": run(
            fronted_refusal(tls.authority.expired(), tls.plain_port, f"cafile={tls.files}/ca.pem")
        ),
    }

    assert said["another authority"].startswith(f"The certificate of {place} is not trusted: ")
    assert said["the system's authorities"].startswith(f"The certificate of {place} is not trusted: ")
    assert said["another host"].startswith(
        f"The certificate of localhost:{tls.amqps_port} is for other names"
    )
    for case in ("no certificate of ours", "a stranger's certificate"):
        # It says so and hangs up, and the system may throw away what it said.
        assert place in said[case] and "demands a client certificate, or" in said[case]
    assert said["expired"].startswith("A certificate of 127.0.0.1:") and "has expired" in said["expired"]


async def test_a_server_is_verified_by_one_file_and_not_at_all_only_when_asked(tls: TlsBroker) -> None:
    async with fronted(tls.authority.good(), tls.plain_port) as port:
        async with connected(f"amqps://127.0.0.1:{port}/?cafile={tls.files}/ca.pem", name="test"):
            pass
        async with connected(f"amqps://127.0.0.1:{port}/?no_verify_ssl=1", name="test"):
            pass
        assert "is not trusted" in await refusal_of(f"amqps://127.0.0.1:{port}/?no_verify_ssl=0")


async def test_a_certificate_that_was_renewed_is_taken_at_the_next_connection_and_one_that_is_gone_named(
    tls: TlsBroker, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(Authority().root())
    async with fronted(tls.authority.good(), tls.plain_port) as port:
        url = f"amqps://127.0.0.1:{port}/?cafile={file}"
        before = await refusal_of(url)
        file.write_bytes(tls.authority.root())
        async with connected(url, name="test"):
            pass
        file.unlink()
        gone = await refusal_of(url)

    assert "is not trusted" in before
    assert gone == f"cafile: cannot read {file}: No such file or directory"


async def test_the_port_for_tls_is_not_that_for_clients_without(tls: TlsBroker) -> None:
    place = f"127.0.0.1:{tls.amqps_port}"

    assert f"{place} is not its port for amqp://" in await refusal_of(f"amqp://{place}/")


async def test_the_management_api_is_verified_too(tls: TlsBroker, caplog: pytest.LogCaptureFixture) -> None:
    metrics = LedgerMetrics()
    seen = metrics.dead_letters_stuck

    def watch(query: str) -> DeadLetterWatch:
        address = SecretStr(f"https://guest:guest@127.0.0.1:{tls.https_port}/?{query}")
        settings = Settings(amqp_url=tls.broker.amqp_url, management_url=address)
        return DeadLetterWatch(metrics=metrics, settings=settings)

    async def is_shown() -> bool:
        return not math.isnan(seen._value.get())

    async def is_told() -> bool:
        return any(record.message == "management_unavailable" for record in caplog.records)

    async with running(watch(f"cafile={tls.files}/ca.pem").run()):
        await eventually(is_shown)
    async with running(watch(f"cafile={tls.files}/strangers.pem").run()):
        await eventually(is_told)

    said = next(vars(record)["error"] for record in caplog.records)
    assert said.startswith(f"The certificate of 127.0.0.1:{tls.https_port} is not trusted: ")


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("consumer worker", {"RETRIEVER_AMQP_URL"}),
        ("producer ledger", {"RETRIEVER_AMQP_URL", "RETRIEVER_MANAGEMENT_URL", "RETRIEVER_DATABASE_URL"}),
        ("producer api", {"RETRIEVER_DATABASE_URL"}),
    ],
)
def test_a_process_warns_at_its_start_of_servers_elsewhere(command: str, settings: set[str]) -> None:
    # Nobody has these addresses (RFC 5737).
    addresses = {
        "RETRIEVER_AMQP_URL": "amqp://192.0.2.1/",
        "RETRIEVER_MANAGEMENT_URL": "http://192.0.2.1:15672",
        "RETRIEVER_DATABASE_URL": "postgresql://user:hunter2@192.0.2.1/retriever?sslmode=disable",
    }
    told = set()
    with (
        subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=ROOT,
            env=clean_environment() | {name: addresses[name] for name in settings},
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        ended_after(process, seconds=60),
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if "connection_not_encrypted" in line:
                told.add(json.loads(line)["setting"])
                assert "hunter2" not in line
            if told == settings:
                break

    assert told == settings


@contextmanager
def ended_after(process: subprocess.Popen[str], *, seconds: float) -> Iterator[None]:
    """Kill a process at the end, or after so many seconds, so that its output ends."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()
