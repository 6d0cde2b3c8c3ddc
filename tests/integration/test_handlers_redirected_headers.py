"""Which header fields and secrets go on with a redirect, and which answers ask to be waited for."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from consumer.handlers.check import check
from consumer.handlers.fetch import fetch
from consumer.http.client import Client
from consumer.secrets import Secrets, secret_folder
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.http_servers import KEEP_OPEN, RawServer, client_that_reaches_loopback, raw_server

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(params=[False, True], ids=["fast", "plain"])
async def client(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with client_that_reaches_loopback(secrets=Secrets(tmp_path), plain=request.param) as opened:
        yield opened


@pytest.fixture
def keep_secret(tmp_path: Path) -> Callable[[str], None]:
    """Return what makes the secret `key` for the origin of a URL."""

    def keep(url: str) -> None:
        name = secret_folder(url)
        assert name is not None
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text("sekrit")

    return keep


@pytest.fixture
async def stranger() -> AsyncIterator[RawServer]:
    async with raw_server(OK) as server:
        yield server


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def fields(head: str) -> dict[str, str]:
    lines = head.splitlines()[1:-1]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


CITATION = "application/vnd.citationstyles.csl+json"


@pytest.mark.parametrize("args", [{"accept": [CITATION]}, {"headers": {"Accept": CITATION}}])
async def test_what_is_liked_goes_on_to_the_other_origin_that_a_doi_leads_to(
    client: Client, stranger: RawServer, args: dict[str, Any]
) -> None:
    # doi.org answers 302 to the registration agency, which chooses the form of the answer by `Accept`.
    async with raw_server(redirect(stranger.url)) as doi:
        await fetch(FetchArgs.model_validate({"url": f"{doi.url}10.1000/182", **args}), client)

    assert fields(stranger.heads[0])["accept"] == CITATION


async def test_of_the_headers_only_those_that_hold_no_key_go_on_to_another_origin(
    client: Client, stranger: RawServer, keep_secret: Callable[[str], None]
) -> None:
    headers = {
        "accept-language": "de",
        "User-Agent": "Reader/1",
        "Accept": {"secret": "key"},
        "Cookie": "a=b",
        "X-Api-Key": "k",
        "Token": "t",
        "If-None-Match": '"1"',
    }
    async with raw_server(redirect("/there"), redirect(stranger.url)) as own:
        keep_secret(own.url)
        url = own.url.replace("//", "//user:pass@")
        await fetch(FetchArgs.model_validate({"url": url, "headers": headers}), client)

        seen, there = fields(own.heads[1]), fields(stranger.heads[0])
        assert {name.lower() for name in headers} | {"authorization"} <= seen.keys()
        assert seen["accept"] == "sekrit"

    assert (there["accept-language"], there["user-agent"]) == ("de", "Reader/1")
    assert not {"cookie", "x-api-key", "token", "if-none-match", "authorization"} & there.keys()
    assert there.get("accept") != "sekrit"


SECRETS = {
    "auth": {"type": "bearer", "token": {"secret": "key"}},
    "headers": {"Accept": {"secret": "key"}, "X-Api-Key": {"secret": "key"}, "Cookie": {"secret": "key"}},
}


async def ask(kind: str, client: Client, url: str) -> Outcome:
    args = {"url": url, **SECRETS}
    if kind == "fetch":
        return await fetch(FetchArgs.model_validate(args), client)
    return await check(CheckArgs.model_validate({**args, "method": "GET"}), client)


@pytest.mark.parametrize("kind", ["check", "fetch"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_secret_is_not_sent_again_after_the_chain_left_its_origin_and_returned(
    client: Client, keep_secret: Callable[[str], None], status: int, kind: str, unused_port: int
) -> None:
    back = redirect(f"http://127.0.0.1:{unused_port}/chosen", status)
    async with (
        raw_server(back) as stranger,
        raw_server(redirect("/on", status), redirect(stranger.url, status), OK, port=unused_port) as own,
    ):
        keep_secret(own.url)
        outcome = await ask(kind, client, own.url)

        assert isinstance(outcome, Succeeded)
        assert outcome.result["status"] == 200
        assert ["sekrit" in head for head in own.heads] == [True, True, False]
        assert "sekrit" not in stranger.heads[0]
        assert own.heads[2].split()[1] == "/chosen"


@pytest.mark.parametrize("kind", ["check", "fetch"])
@pytest.mark.parametrize("name", ["{host}", "https+{host}+{port}", "{host}:{port}", "http+{host}+80"])
async def test_a_secret_of_another_origin_of_the_same_host_is_not_sent(
    client: Client, stranger: RawServer, tmp_path: Path, name: str, kind: str
) -> None:
    folder = tmp_path / name.format(host=urlsplit(stranger.url).hostname, port=stranger.port)
    folder.mkdir()
    (folder / "key").write_text("sekrit")

    outcome = await ask(kind, client, stranger.url)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == ("secret_missing", False)
    assert f"http+127.0.0.1+{stranger.port}/key" in outcome.explanation
    assert stranger.connections == 0


async def test_a_refusal_after_the_chain_returned_is_none_of_the_credentials(
    client: Client, keep_secret: Callable[[str], None], unused_port: int
) -> None:
    refused = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
    async with (
        raw_server(redirect(f"http://127.0.0.1:{unused_port}/end")) as stranger,
        raw_server(redirect(stranger.url), refused, port=unused_port) as own,
    ):
        keep_secret(own.url)
        outcome = await ask("check", client, own.url)

    assert isinstance(outcome, Succeeded)
    assert (outcome.result["verdict"], outcome.result["reason"]) == ("blocked", "http_401")


@pytest.mark.parametrize(("status", "method"), [(301, "POST"), (302, "POST"), (303, "POST"), (303, "PUT")])
async def test_a_request_that_becomes_a_get_leaves_all_that_describes_its_body_behind(
    client: Client, status: int, method: str
) -> None:
    args = {
        "method": method,
        "json": {"a": 1},
        "headers": {
            "Content-Language": "de",
            "Content-Encoding": "identity",
            "Digest": "x",
            "Idempotency-Key": '"k"',
            "X-Mine": "m",
        },
    }
    async with raw_server(redirect("/b", status), redirect("/c", 307), OK) as server:
        await fetch(FetchArgs.model_validate({"url": server.url, **args}), client)

        first, *others = map(fields, server.heads)
        assert {"content-type", "content-length", "content-language", "idempotency-key"} <= first.keys()
        for later in others:
            assert later["x-mine"] == "m"
            assert not [name for name in later if name.startswith("content-")]
            assert not {"digest", "idempotency-key"} & later.keys()
        assert [head.split()[0] for head in server.heads] == [method, "GET", "GET"]


@pytest.mark.parametrize("status", [307, 308])
async def test_a_request_that_is_repeated_with_its_body_keeps_what_describes_it(
    client: Client, status: int
) -> None:
    args = {"method": "POST", "body": "a", "headers": {"Idempotency-Key": '"k"'}}
    async with raw_server(redirect("/b", status), OK, then=KEEP_OPEN) as server:
        await fetch(FetchArgs.model_validate({"url": server.url, **args}), client)

        assert fields(server.heads[1])["idempotency-key"] == '"k"'
        assert fields(server.heads[1])["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("status", [403, 408, 409, 413, 425, 429, 500, 503, 529])
async def test_a_host_that_says_when_to_come_again_is_waited_for(client: Client, status: int) -> None:
    busy = f"HTTP/1.1 {status} Later\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw_server(busy) as server:
        fetched = await fetch(FetchArgs(url=server.url), client)
        async with client_that_reaches_loopback() as another:  # For this one the host is not paused.
            checked = await check(CheckArgs(url=server.url), another)

    for outcome in (fetched, checked):
        assert isinstance(outcome, Failed)
        assert (outcome.reason, outcome.transient) == (f"http_{status}", True)
        assert outcome.retry_after_seconds == 7
    assert checked.result is not None and checked.result["verdict"] == "down"


@pytest.mark.parametrize("retry_after", ["", "Retry-After: soon\r\n"])
@pytest.mark.parametrize("status", [403, 413])
async def test_a_refusal_that_does_not_say_when_to_come_again_is_final(
    client: Client, status: int, retry_after: str
) -> None:
    refusal = f"HTTP/1.1 {status} No\r\n{retry_after}Content-Length: 0\r\n\r\n".encode()
    async with raw_server(refusal) as server:
        fetched = await fetch(FetchArgs(url=server.url), client)
        checked = await check(CheckArgs(url=server.url), client)

    assert isinstance(fetched, Failed) and not fetched.transient
    assert isinstance(checked, Succeeded)
    assert checked.result["verdict"] == ("blocked" if status == 403 else "broken")


async def test_what_is_missing_is_missing_even_when_it_says_when_to_come_again(client: Client) -> None:
    async with raw_server(b"HTTP/1.1 404 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n") as server:
        outcome = await fetch(FetchArgs(url=server.url), client)

    assert isinstance(outcome, Failed) and not outcome.transient
