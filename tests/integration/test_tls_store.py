"""PostgreSQL over TLS: who is verified, and what is said when that fails is true."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from deploy.local.packages import find
from deploy.local.postgres import Postgres, open_postgres
from deploy.local.postgres_server import FAST_SETTINGS, SERVER_PLACES, server_account
from producer.store.engine import open_engine
from producer.store.failures import store_failures
from producer.store.wakeup import open_wakeup
from shared.errors import StoreUnavailable
from tests.support.commands import run_producer
from tests.support.tls import Authority
from tests.support.waiting import eventually

# The superuser comes in as it likes, `careful` over TLS alone, `shown` with a certificate.
RULES = """\
host    all retriever 127.0.0.1/32 trust
hostssl all careful   127.0.0.1/32 trust
hostssl all shown     127.0.0.1/32 trust clientcert=verify-ca
"""


@dataclass(frozen=True, slots=True)
class TlsServer:
    """A PostgreSQL that offers TLS, and the files of its clients."""

    postgres: Postgres
    authority: Authority
    files: Path

    def url(
        self, *, user: str = "careful", mode: str = "verify-full", ca: str = "ca", host: str = "127.0.0.1"
    ) -> str:
        """Return its address for a client that trusts an authority."""
        address = self.postgres.url.replace("retriever@127.0.0.1", f"{user}@{host}")
        return f"{address}?sslmode={mode}&sslrootcert={self.files}/{ca}.pem"

    def present(self, *, days: float) -> None:
        """Let it show a certificate that is valid for so many days; below 0 it has expired."""
        self.authority.write_server(self.files, days=days)
        _hand_over(self.files)
        with psycopg.connect(self.postgres.url.replace("+psycopg", "")) as connection:
            connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    """Yield a server, and the files of its clients."""
    if find("initdb", places=SERVER_PLACES) is None:
        pytest.skip("the certificates are files of this machine: install postgresql")
    authority = Authority()
    with tempfile.TemporaryDirectory(prefix="retriever-tls-") as folder:
        files = Path(folder)
        Authority().write_client(files, "stranger")
        (files / "ca.pem").rename(files / "strangers.pem")
        authority.write_client(files, "client")
        (files / "client.key").chmod(0o600)
        authority.write_server(files)
        (files / "rules").write_text(RULES)
        _hand_over(files)
        names = {"ssl_cert_file": "server.pem", "ssl_key_file": "server.key", "ssl_ca_file": "ca.pem"}
        settings = {"ssl": "on", "hba_file": files / "rules"}
        settings |= {name: files / file for name, file in names.items()}
        told = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open_postgres(settings=(*FAST_SETTINGS, *told)) as postgres:
            with psycopg.connect(postgres.url.replace("+psycopg", "")) as connection:
                connection.execute("CREATE ROLE careful SUPERUSER LOGIN")
                connection.execute("CREATE ROLE shown LOGIN")
            yield TlsServer(postgres, authority, files)


def _hand_over(files: Path) -> None:
    """Let the server's user read its files; it takes no key that others can read."""
    account = server_account()
    files.chmod(0o755)
    for name in ("server.key", "server.pem", "ca.pem", "rules"):
        (files / name).chmod(0o600 if name == "server.key" else 0o644)
    if account is not None:
        os.chown(files / "server.key", account.pw_uid, account.pw_gid)


def refusal_of(url: str) -> str:
    """Return why the store cannot be used."""
    engine = open_engine(url)
    try:
        with pytest.raises(StoreUnavailable) as raised, store_failures(), engine.connect():
            pass
    finally:
        engine.dispose()
    return raised.value.reason


def test_the_store_is_used_over_tls_by_what_queries_and_by_what_listens(server: TlsServer) -> None:
    engine = open_engine(server.url())

    async def hear_once() -> None:
        wakeup = open_wakeup(server.url(), poll_seconds=1)
        # It returns at once when it has connected, and takes its whole time when it cannot.
        async with asyncio.timeout(30):
            await wakeup.wait(60)
        await wakeup.aclose()

    with store_failures(), engine.connect() as connection:
        asyncio.run(hear_once())
        rows = connection.exec_driver_sql(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'careful'"
        ).all()

    engine.dispose()
    assert [tuple(row) for row in rows] == [(True,)]


def test_a_process_migrates_over_tls(server: TlsServer) -> None:
    done = run_producer(server.url(), "amqp://127.0.0.1:1/", "migrate")

    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_verified_is_refused_with_the_reason(server: TlsServer) -> None:
    said = {
        "another authority": refusal_of(server.url(ca="strangers")),
        "another host": refusal_of(server.url(host="localhost")),
        "no file": refusal_of(server.url(ca="nowhere")),
        "no TLS": refusal_of(server.url(mode="disable")),
        "no certificate of ours": refusal_of(server.url(user="shown")),
        "no such mode": refusal_of(server.url(mode="verify_full")),
    }

    expected = {
        "another authority": "does not name its authority, or a certificate has expired",
        "another host": "for another host than RETRIEVER_DATABASE_URL names",
        "no file": "that sslrootcert of RETRIEVER_DATABASE_URL names",
        "no TLS": "no entry for this user, database and address without TLS",
        "no certificate of ours": "PostgreSQL demands a client certificate",
        "no such mode": "sslmode of RETRIEVER_DATABASE_URL is none",
    }
    assert [case for case, words in expected.items() if words not in said[case]] == [], said


def test_a_client_shows_its_certificate(server: TlsServer) -> None:
    files = server.files
    url = f"{server.url(user='shown')}&sslcert={files}/client.pem&sslkey={files}/client.key"
    engine = open_engine(url)

    with store_failures(), engine.connect() as connection:
        name = connection.exec_driver_sql(
            "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).scalar_one()

    engine.dispose()
    assert name.endswith("/CN=client")


async def test_a_certificate_that_has_expired_is_refused_and_the_store_comes_back_with_a_new_one(
    server: TlsServer,
) -> None:
    engine = open_engine(server.url())

    async def is_refused() -> bool:
        return "has expired" in refusal_of(server.url()) if not usable() else False

    async def is_back() -> bool:
        return usable()

    def usable() -> bool:
        try:
            with store_failures(), engine.connect():
                return True
        except StoreUnavailable:
            return False
        finally:
            engine.dispose()

    server.present(days=-3)
    try:
        await eventually(is_refused)
    finally:
        server.present(days=30)
    await eventually(is_back)
