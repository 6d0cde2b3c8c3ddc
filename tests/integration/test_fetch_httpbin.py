"""What `fetch` makes of httpbin, a server that nobody here wrote."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from consumer.handlers.fetch import fetch
from consumer.http.client import Client
from shared.identity import new_id
from shared.kinds.fetch import FetchArgs, FetchResult
from shared.messages import JobMessage, KnownCopy
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.http_servers import client_that_reaches_loopback
from tests.support.httpbin import running_httpbin


@pytest.fixture(scope="module")
def httpbin() -> Iterator[str]:
    with running_httpbin() as url:
        yield url


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_that_reaches_loopback() as opened:
        yield opened


def args_of(**said: Any) -> FetchArgs:
    return FetchArgs.model_validate_json(json.dumps(said), strict=True)


def seen(outcome: Outcome) -> FetchResult:
    assert isinstance(outcome, Succeeded), outcome
    return FetchResult.model_validate(outcome.result)


def said_by(outcome: Outcome) -> Any:
    return json.loads(seen(outcome).body or "")


def with_job(client: Client, *, known: KnownCopy | None = None) -> Client:
    return replace(client, job=JobMessage(id=new_id(), kind="fetch", args={}, known=known))


@pytest.mark.parametrize(
    ("path", "mark"), [("gzip", "gzipped"), ("brotli", "brotli"), ("deflate", "deflated")]
)
async def test_every_coding_that_we_ask_for_is_expanded(
    httpbin: str, client: Client, path: str, mark: str
) -> None:
    document = said_by(await fetch(args_of(url=f"{httpbin}/{path}"), client))

    assert document[mark] is True
    assert document["headers"]["Accept-Encoding"] == "gzip, deflate, br"


async def test_text_is_decoded(httpbin: str, client: Client) -> None:
    result = seen(await fetch(args_of(url=f"{httpbin}/encoding/utf8"), client))

    assert "STARGΛ̊TE" in (result.body or "")
    assert (result.charset, len(result.sha256 or "")) == ("utf-8", 64)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    ("body", "arrived"),
    [
        ({"body": "grüße"}, ("text/plain; charset=utf-8", "grüße")),
        ({"json": {"a": [1, None]}}, ("application/json", '{"a":[1,null]}')),
        ({"body_base64": base64.b64encode(b"a=1").decode()}, ("application/octet-stream", "a=1")),
    ],
)
async def test_a_body_is_sent_with_its_type(
    httpbin: str, client: Client, method: str, body: dict[str, Any], arrived: tuple[str, str]
) -> None:
    document = said_by(await fetch(args_of(url=f"{httpbin}/{method.lower()}", method=method, **body), client))

    assert (document["headers"]["Content-Type"], document["data"]) == arrived


async def test_the_job_says_what_type_its_body_has(httpbin: str, client: Client) -> None:
    form = {"body": "a=1&b=2", "headers": {"content-type": "application/x-www-form-urlencoded"}}

    document = said_by(await fetch(args_of(url=f"{httpbin}/post", method="POST", **form), client))

    assert document["form"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize("method", ["DELETE", "GET"])
async def test_a_method_without_a_body_sends_none(httpbin: str, client: Client, method: str) -> None:
    document = said_by(await fetch(args_of(url=f"{httpbin}/anything", method=method), with_job(client)))

    assert (document["method"], document["data"]) == (method, "")
    assert "Idempotency-Key" not in document["headers"]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_an_answer_without_a_body_is_a_success(httpbin: str, client: Client, method: str) -> None:
    result = seen(await fetch(args_of(url=f"{httpbin}/gzip", method=method), client))

    assert (result.status, result.body or "", result.body_bytes) == (200, "", 0)


async def test_what_is_not_idempotent_carries_the_job_s_id(httpbin: str, client: Client) -> None:
    working = with_job(client)
    assert working.job is not None

    post = said_by(await fetch(args_of(url=f"{httpbin}/post", method="POST"), working))
    own = said_by(
        await fetch(
            args_of(url=f"{httpbin}/post", method="POST", headers={"idempotency-key": "mine"}), working
        )
    )

    assert post["headers"]["Idempotency-Key"] == f'"{working.job.id}"'
    assert own["headers"]["Idempotency-Key"] == "mine"


async def test_an_accepted_type_is_sent_and_held(httpbin: str, client: Client) -> None:
    page = seen(await fetch(args_of(url=f"{httpbin}/image", accept=["image/png"]), client))
    refused = await fetch(args_of(url=f"{httpbin}/html", accept=["application/json", "image/*"]), client)

    assert (page.content_type, page.body) == ("image/png", None)
    assert base64.b64decode(page.body_base64 or "").startswith(b"\x89PNG")
    assert isinstance(refused, Failed)
    assert (refused.reason, refused.transient) == ("unexpected_type", False)
    assert FetchResult.model_validate(refused.result).content_type == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("status", "statuses", "failure"),
    [
        (404, ["200-299", 404], None),
        (503, ["200-299", 404], ("http_503", True)),
        (201, [200], ("http_201", False)),
        (304, ["200-299"], ("http_304", False)),
    ],
)
async def test_the_job_says_which_statuses_are_a_success(
    httpbin: str, client: Client, status: int, statuses: list[str | int], failure: tuple[str, bool] | None
) -> None:
    outcome = await fetch(args_of(url=f"{httpbin}/status/{status}", statuses=statuses), client)

    assert isinstance(outcome, Succeeded) is (failure is None)
    if isinstance(outcome, Failed):
        assert (outcome.reason, outcome.transient) == failure


async def test_what_has_not_changed_is_not_fetched_again(httpbin: str, client: Client) -> None:
    args = args_of(url=f"{httpbin}/etag/v1", if_changed=True)
    first = seen(await fetch(args, with_job(client)))
    known = KnownCopy(job_id=new_id(), etag=first.etag, last_modified=first.last_modified)

    second = seen(await fetch(args, with_job(client, known=known)))
    other = seen(
        await fetch(args_of(url=f"{httpbin}/etag/v2", if_changed=True), with_job(client, known=known))
    )

    assert (first.not_modified, first.unchanged_since) == (False, None)
    assert (second.status, second.not_modified, second.unchanged_since) == (304, True, known.job_id)
    assert (second.body, second.etag) == (None, first.etag)
    assert (other.status, other.not_modified, other.unchanged_since) == (200, False, None)


async def test_a_date_is_enough_to_ask_for_changes(httpbin: str, client: Client) -> None:
    known = KnownCopy(job_id=new_id(), last_modified="Sun, 22 Nov 2026 10:00:00 GMT")

    result = seen(
        await fetch(args_of(url=f"{httpbin}/cache", if_changed=True), with_job(client, known=known))
    )

    assert (result.not_modified, result.last_modified) == (True, known.last_modified)


async def test_a_version_behind_a_redirect_is_fetched_whole(httpbin: str, client: Client) -> None:
    known = KnownCopy(job_id=new_id(), etag="v1")
    url = f"{httpbin}/redirect-to?url=/etag/v1"

    result = seen(await fetch(args_of(url=url, if_changed=True), with_job(client, known=known)))

    assert (result.status, result.not_modified) == (200, False)
    assert result.body is not None


async def test_a_range_can_be_asked_for(httpbin: str, client: Client) -> None:
    result = seen(await fetch(args_of(url=f"{httpbin}/range/26", headers={"Range": "bytes=3-5"}), client))

    assert (result.status, result.body) == (206, "def")


async def test_a_drip_that_ends_in_time_is_whole(httpbin: str, client: Client) -> None:
    url = f"{httpbin}/drip?duration=0.2&numbytes=5&delay=0"

    assert seen(await fetch(args_of(url=url), client)).body == "*****"


@pytest.mark.parametrize("path", ["bytes/70000?seed=1", "stream-bytes/70000?seed=1&chunk_size=1000"])
async def test_a_body_beyond_the_inline_limit_travels_beside_its_result(
    httpbin: str, client: Client, path: str
) -> None:
    outcome = await fetch(args_of(url=f"{httpbin}/{path}"), client)

    result = seen(outcome)
    assert isinstance(outcome, Succeeded) and outcome.body is not None
    assert (result.body_stored, result.body, result.body_base64) == (True, None, None)
    assert (
        (outcome.body.size, outcome.body.sha256)
        == (result.body_bytes, result.sha256)
        == (70_000, result.sha256)
    )
