"""Whole numbers beyond 64 bits, from the answer of a host to all that gives a result back, on both stores."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from consumer.handlers.check import check
from consumer.handlers.webhook import payload
from consumer.http.client import Client
from producer.ledger.relay_messages import job_message
from producer.run_tokens import RunTokens
from producer.store import events as store_events
from producer.store import recording
from shared.clock import utc_now
from shared.kinds.check import CheckArgs
from shared.kinds.webhook import WebhookArgs
from shared.messages import JobMessage
from shared.outcomes import Succeeded
from tests.support.api import RunningApi
from tests.support.http_servers import client_that_reaches_loopback
from tests.support.paged_site import PagedSite, answer_of, claim, paged_site, work_all, work_one

NUMBERS = [2**63, 2**64 - 1, 2**64, 10**30 + 1, -(2**63) - 1, 9_007_199_254_740_993]


@pytest.fixture
async def site() -> AsyncIterator[PagedSite]:
    async with paged_site() as opened:
        opened.answers["/numbers"] = lambda request: answer_of({"n": NUMBERS, "big": NUMBERS[3]})
        yield opened


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_that_reaches_loopback() as opened:
        yield opened


def posted(api: RunningApi, path: str, document: dict[str, Any]) -> str:
    answer = api.client.post(path, json=document)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_numbers_are_given_back_as_they_came_wherever_results_are(
    api: RunningApi, site: PagedSite, client: Client
) -> None:
    item = {"url": f"{site.url}/numbers", "extract": "n"}
    batch_id = posted(api, "/batches", {"kind": "fetch", "items": [item]})

    await work_all(api.store, client)

    (line,) = api.client.get(f"/batches/{batch_id}/results?format=ndjson").text.splitlines()
    job = json.loads(line)
    (listed,) = api.client.get(f"/jobs?batch_id={batch_id}").json()["items"]
    for document in (job, listed, api.client.get(f"/jobs/{job['id']}").json()):
        assert document["result"]["data"] == NUMBERS
    events = api.store.write(store_events.claim_events, limit=9, lease_seconds=60, now=utc_now())
    assert [event.body["result"]["data"] for event in events if "result" in event.body] == [NUMBERS]


async def test_numbers_are_sent_with_webhooks_as_they_came(
    api: RunningApi, site: PagedSite, client: Client
) -> None:
    job = {"kind": "fetch", "args": {"url": f"{site.url}/numbers", "extract": "n"}}
    posted(api, "/jobs", {**job, "callback_url": "https://hooks.example/"})
    (fetching,) = claim(api.store)
    report = await work_one(api.store, client, fetching)

    api.store.write(recording.record_reports, [report], now=utc_now())

    (webhook,) = claim(api.store)
    message = JobMessage.decode(job_message(webhook, tokens=RunTokens(b"k" * 32)).encode())
    args = WebhookArgs.model_validate(message.args)
    assert json.loads(payload(args))["data"]["result"]["data"] == NUMBERS


@pytest.mark.parametrize("key", ["id", "{id: id}", "to_string(id)"])
async def test_items_are_told_apart_by_long_numbers(
    api: RunningApi, site: PagedSite, client: Client, key: str
) -> None:
    site.items = [{"id": 2**64 + number} for number in range(25)]
    pages = {"by": "page", "items": "items", "key": key, "total": "total"}
    root = posted(api, "/jobs", {"kind": "fetch", "args": {"url": f"{site.url}/api", "pages": pages}})

    await work_all(api.store, client)

    measure = api.client.get(f"/jobs/{root}/pages").json()
    assert (measure["items"], measure["distinct"], measure["complete"]) == (25, 25, True)
    for query in ("", "?distinct=true"):
        lines = api.client.get(f"/jobs/{root}/items{query}").text.splitlines()
        assert [json.loads(line) for line in lines] == site.items


async def test_a_cursor_may_be_a_long_number(api: RunningApi, site: PagedSite, client: Client) -> None:
    def answer(request: web.Request) -> web.Response:
        here = int(request.query.get("after", 0))
        more = {0: 2**64 + 1, 2**64 + 1: 2**64 + 2, 2**64 + 2: None}
        return answer_of({"items": [here], "next": more[here]})

    site.answers["/api"] = answer
    pages = {"by": "cursor", "cursor": "next", "parameter": "after", "items": "items"}
    root = posted(api, "/jobs", {"kind": "fetch", "args": {"url": f"{site.url}/api", "pages": pages}})

    await work_all(api.store, client)

    lines = api.client.get(f"/jobs/{root}/items").text.splitlines()
    assert [json.loads(line) for line in lines] == [0, 2**64 + 1, 2**64 + 2]


async def test_an_assertion_tells_neighbours_apart(site: PagedSite, client: Client) -> None:
    verdicts = []
    for number in (NUMBERS[3], NUMBERS[3] + 1):
        assertions = {"json": [{"path": "big", "equals": number}]}
        args = CheckArgs.model_validate({"url": f"{site.url}/numbers", "assertions": assertions})
        outcome = await check(args, client)
        assert isinstance(outcome, Succeeded)
        verdicts.append(outcome.result["verdict"])

    assert verdicts == ["ok", "broken"]
