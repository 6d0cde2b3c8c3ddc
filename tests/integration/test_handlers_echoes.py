"""Targets that send back what they were told in secret: nothing of it is in what a worker reports."""

import base64
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from consumer.handlers.check import check
from consumer.handlers.paged_fetch import fetch_or_page
from consumer.http.client import Client
from consumer.secrets import Secrets, secret_folder
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.outcomes import Succeeded
from tests.support.http_servers import RawServer, client_that_reaches_loopback, raw_server

SECRET = "s3cret/marked+value"
PASSWORD = "hunter2-marked"
LITERAL = "written-out-marked"
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
SAID = f"{SECRET} {PASSWORD} {LITERAL} {BASIC} {quote(SECRET, safe='')}"


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", f"X-Echo: {SAID}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


PAGE = answer(f"<title>{SAID}</title><p>{SAID}</p>".encode(), f"Content-Type: text/html; x={SECRET}")
DATA = answer(
    f'{{"said": "{SAID}", "escaped": "s3cret\\/marked\\u002bvalue", "items": [{{"id": "{SAID}"}}]}}'.encode(),
    "Content-Type: application/json",
    f'ETag: "{SECRET}"',
)
LARGE = answer(b"x" * 100_000 + SAID.encode(), "Content-Type: text/plain")
LEADS_ON = answer(b"", f"Location: /?was={quote(SECRET, safe='')}&or={PASSWORD}", status="302 Found")

CHECKS: dict[str, dict[str, Any]] = {
    "title": {"title": True},
    "contains": {"assertions": {"contains": [SECRET]}},
    "regex": {"assertions": {"regex": ["s3cret.{13}"]}},
    "header": {"assertions": {"header": [{"name": "X-Echo"}, {"name": "X-Echo", "regex": "^s3cret"}]}},
    "json": {"assertions": {"json": [{"path": "said"}, {"path": "reverse(said)"}]}},
}
FETCHES: dict[str, dict[str, Any]] = {
    "body": {},
    "data": {"extract": "@"},
    "backwards": {"extract": "reverse(said)"},
    "pages": {"pages": {"by": "link", "items": "items", "key": "id"}},
    "refused": {"accept": ["image/png"]},
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with client_that_reaches_loopback(secrets=Secrets(tmp_path)) as opened:
        yield opened


def asked(server: RawServer, folder: Path, **more: Any) -> dict[str, Any]:
    """Return arguments that say all kinds of secrets to a server."""
    name = secret_folder(server.url)
    assert name is not None
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "key").write_text(SECRET)
    url = server.url.replace("://", f"://user:{PASSWORD}@")
    return {"url": url, "headers": {"X-Said": {"secret": "key"}, "X-Api-Key": LITERAL}, **more}


def assert_says_nothing(outcome: object) -> None:
    said = repr(outcome)
    hidden = (SECRET, PASSWORD, LITERAL, BASIC, quote(SECRET, safe=""), SECRET[::-1], "marked", "dekram")
    assert not [each for each in hidden if each in said]


@pytest.mark.parametrize(
    "sent", [[PAGE], [LEADS_ON, PAGE], [DATA], [LARGE], [answer(b"", status="404 Not Found")]]
)
@pytest.mark.parametrize("more", CHECKS.values(), ids=CHECKS.keys())
async def test_a_check_reports_no_secret_that_its_target_sends_back(
    sent: list[bytes], more: dict[str, Any], client: Client, tmp_path: Path
) -> None:
    async with raw_server(*sent) as server:
        args = CheckArgs.model_validate(asked(server, tmp_path, method="GET", **more))
        outcome = await check(args, client)

    assert SECRET in server.heads[0]
    # What the job itself demands is shown, as its arguments are.
    shown = repr(outcome).replace(f"'{SECRET}'", "").replace(f"contains {SECRET}", "")
    assert_says_nothing(shown)


@pytest.mark.parametrize("sent", [[PAGE], [LEADS_ON, DATA], [DATA], [LARGE]])
@pytest.mark.parametrize("more", FETCHES.values(), ids=FETCHES.keys())
async def test_a_fetch_reports_no_secret_that_its_target_sends_back(
    sent: list[bytes], more: dict[str, Any], client: Client, tmp_path: Path
) -> None:
    async with raw_server(*sent) as server:
        args = FetchArgs.model_validate(asked(server, tmp_path, **more))
        outcome = await fetch_or_page(args, client)

    assert SECRET in server.heads[0]
    assert_says_nothing(outcome)
    if isinstance(outcome, Succeeded) and outcome.body is not None:
        assert_says_nothing(gzip.decompress(outcome.body.content))


async def test_an_assertion_cannot_ask_for_a_secret(client: Client, tmp_path: Path) -> None:
    async with raw_server(PAGE) as server:
        args = asked(server, tmp_path, assertions={"regex": ["s3c"]})
        outcome = await check(CheckArgs.model_validate(args), client)

    assert outcome.result is not None
    assert outcome.result["reason"] == "assertion_failed"
