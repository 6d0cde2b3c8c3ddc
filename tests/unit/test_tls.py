"""What a URL says of TLS: files that are wrong are named, and ways that are open are told of."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from producer.store.engine import warn_of_open_store
from shared.errors import SettingsInvalid
from shared.process import warn_of_open_broker
from shared.settings import Settings, read_settings
from shared.tls import is_this_machine, tls_context
from tests.support.tls import Authority


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certificate `client`, its key, and the `ca.pem` above it."""
    folder = tmp_path_factory.mktemp("tls")
    Authority().write_client(folder, "client")
    Authority().write_client(folder, "other")
    (folder / "empty.pem").write_text("nothing")
    return folder


def context_of(url: str) -> ssl.SSLContext:
    context = tls_context(url)
    assert context is not None
    return context


@pytest.mark.parametrize(
    "url", ["amqps://one,two:5673/v", "https://rabbit:15671", "AMQPS://one/?heartbeat=20"]
)
def test_authority_and_name_are_verified_unless_the_url_says_otherwise(url: str) -> None:
    verified, unverified = context_of(url), context_of("amqps://one/?no_verify_ssl=1")

    assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert verified.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert (unverified.verify_mode, unverified.check_hostname) == (ssl.CERT_NONE, False)


def test_a_file_of_authorities_takes_the_place_of_the_system_s(files: Path) -> None:
    trusted = context_of(f"amqps://one,[::1]:5671/v?heartbeat=20&cafile={files}/ca.pem").get_ca_certs()

    assert len(trusted) == 1


def test_a_url_without_tls_has_none() -> None:
    assert tls_context("amqp://guest:guest@127.0.0.1:5672/?heartbeat=20") is None


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("cafile={files}/none.pem", "cafile: cannot read {files}/none.pem: No such file or directory"),
        ("cafile={files}", "cafile: cannot read {files}: Is a directory"),
        ("cafile={files}/empty.pem", "cafile: {files}/empty.pem has no certificate in PEM"),
        ("cafile={files}/client.key", "cafile: {files}/client.key has no certificate in PEM"),
        ("keyfile={files}/client.key", "keyfile is of no use without certfile"),
        ("certfile={files}/client.pem", "certfile: {files}/client.pem and its key are no pair in PEM"),
        ("certfile={files}/client.pem&keyfile={files}/none", "keyfile: cannot read {files}/none"),
        ("certfile={files}/client.pem&keyfile={files}/other.key", "certfile: {files}/client.pem and its key"),
        ("no_verify_ssl=false", "no_verify_ssl must be 0 or 1"),
    ],
)
def test_what_is_wrong_with_tls_ends_a_process_at_its_start_and_shows_no_password(
    files: Path, query: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVER_AMQP_URL", f"amqps://user:hunter2@one/?{query.format(files=files)}")
    monkeypatch.setenv("RETRIEVER_MANAGEMENT_URL", f"https://user:hunter2@one/?{query.format(files=files)}")

    with pytest.raises(SettingsInvalid) as raised:
        read_settings()

    for variable in ("RETRIEVER_AMQP_URL", "RETRIEVER_MANAGEMENT_URL"):
        assert f"{variable}: Value error, {said.format(files=files)}" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_file_for_tls_on_a_way_without_is_refused(files: Path) -> None:
    with pytest.raises(ValueError, match="cafile is for amqps:// and https://"):
        tls_context(f"amqp://one/?cafile={files}/ca.pem")


@pytest.mark.parametrize(
    ("amqp_url", "management_url", "told"),
    [
        ("amqp://localhost,127.0.0.2,[::1]:5672/", "http://127.0.0.1:15672", []),
        ("amqps://rabbit/", "https://rabbit:15671", []),
        ("amqp://safe/", "http://safe:15672", []),
        ("amqp://one:5672,127.0.0.1,[2001:db8::7]/", None, ["not_encrypted AMQP one,2001:db8::7"]),
        ("amqps://one,safe/?no_verify_ssl=1", None, ["not_verified AMQP one"]),
        ("amqps://one/", "http://user:pw@one:15672", ["not_encrypted MANAGEMENT one"]),
        ("amqps://one/", "https://one:15671/?no_verify_ssl=1", ["not_verified MANAGEMENT one"]),
    ],
)
def test_an_open_way_to_a_broker_on_another_machine_is_told(
    amqp_url: str, management_url: str | None, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    address = SecretStr(management_url) if management_url is not None else None

    warn_of_open_broker(Settings(amqp_url=amqp_url, management_url=address, no_tls_hosts=("safe",)))

    assert warnings_in(caplog) == told


@pytest.mark.parametrize(
    ("address", "mode", "told"),
    [
        ("sqlite:///retriever.db", None, []),
        ("postgresql://u:pw@127.0.0.1/x", None, []),
        ("postgresql:///x", None, []),
        ("postgresql:///x?host=/var/run/postgresql", None, []),
        ("postgresql://u:pw@safe/x", None, []),
        ("postgresql://u:pw@db/x?sslmode=verify-full", None, []),
        ("postgresql://u:pw@db/x", "verify-full", []),
        ("postgresql://u:pw@db/x", None, ["not_verified DATABASE db"]),
        ("postgresql://u:pw@db/x?sslmode=require", "verify-full", ["not_verified DATABASE db"]),
        ("postgresql://u:pw@db/x?sslmode=verify-ca", None, ["not_verified DATABASE db"]),
        ("postgresql://u:pw@db/x?sslmode=disable", None, ["not_encrypted DATABASE db"]),
        ("postgresql://u:pw@/x?host=one:1&host=safe:2&host=two", None, ["not_verified DATABASE one,two"]),
        ("postgresql://u:pw@localhost/x?host=10.0.0.1", None, ["not_verified DATABASE 10.0.0.1"]),
    ],
)
def test_an_open_way_to_a_store_on_another_machine_is_told(
    address: str,
    mode: str | None,
    told: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.delenv("PGHOST", raising=False)
    if mode is not None:
        monkeypatch.setenv("PGSSLMODE", mode)

    warn_of_open_store(address, unwarned={"safe"})

    assert warnings_in(caplog) == told


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was told: of what, by which setting, of which hosts; nothing else may be in a line."""
    told = []
    for record in caplog.records:
        facts = vars(record)
        event, setting = record.getMessage(), facts["setting"].removeprefix("RETRIEVER_").removesuffix("_URL")
        told.append(f"{event.removeprefix('connection_')} {setting} {','.join(facts['hosts'])}")
    return told


@pytest.mark.parametrize(
    "host", ["", "localhost", "LocalHost", "127.0.0.1", "127.8.8.8", "::1", "/var/run", "@x"]
)
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["db", "10.0.0.1", "localhost.example", "0.0.0.0", "::"])
def test_any_other_name_is_another_machine(host: str) -> None:
    assert not is_this_machine(host)
