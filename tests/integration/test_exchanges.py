"""The corpus of raw exchanges: each job comes to what is right, whichever way requests are sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from consumer.handlers.check import check
from consumer.handlers.paged_fetch import fetch_or_page
from consumer.http.client import Client
from shared.kinds.check import CheckArgs
from shared.kinds.fetch import FetchArgs
from shared.outcomes import Failed, Outcome
from tests.support.exchange_server import ExchangeServer, ReadingClients, exchange_server, reading_clients
from tests.support.exchanges import Exchange, exchange_files
from tests.support.http_servers import client_that_reaches_loopback
from tests.support.paged_exchanges import fetch_pages
from tests.support.recording_ledger import make_message
from tests.support.tls import Authority

MAX_SECONDS = 20
LINES = {*(f"A{line}" for line in range(1, 11)), *(f"B{line}" for line in range(1, 6))}

EXCHANGES = [
    pytest.param(
        exchange,
        id=f"{file.path.stem}: {exchange.name}",
        marks=[pytest.mark.xfail(reason=f"pending: {exchange.pending}", strict=True)]
        * bool(exchange.pending),
    )
    for file in exchange_files()
    for exchange in file.exchanges
]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def clients() -> Iterator[ReadingClients]:
    with reading_clients() as watched:
        yield watched


@pytest.fixture
async def server(
    exchange: Exchange, clients: ReadingClients, authority: Authority, unused_port: int
) -> AsyncIterator[ExchangeServer]:
    tls = getattr(authority, exchange.tls)() if exchange.tls else None
    async with exchange_server(exchange, pause=clients.pause, tls=tls, closed_port=unused_port) as running:
        yield running


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("is_plain", [False, True], ids=["fast", "plain"])
async def test_an_exchange_comes_to_what_is_right(
    exchange: Exchange, server: ExchangeServer, authority: Authority, *, is_plain: bool
) -> None:
    async with (
        asyncio.timeout(MAX_SECONDS),
        client_that_reaches_loopback(
            names={name: ["127.0.0.1"] for name in exchange.names},
            tls=authority.client() if exchange.tls else None,
            plain=is_plain,
        ) as client,
    ):
        worker = replace(client, job=make_message(attempt=exchange.attempt))
        seen = await seen_by(worker, exchange, server)

    right = json.loads(server.filled(json.dumps(exchange.right)))
    assert misses(right, seen) == [], json.dumps(seen, indent=1)
    if exchange.requests is not None:
        assert wrong_requests(exchange.requests, server) == []


async def seen_by(client: Client, exchange: Exchange, server: ExchangeServer) -> Mapping[str, Any]:
    """Return all that the job came to: its result, and what the attempt says beside it."""
    written = json.loads(server.filled(json.dumps(dict(exchange.job[exchange.kind]))))
    written["url"] = server.filled(exchange.url)
    try:
        if exchange.kind == "check":
            return seen_of(await check(CheckArgs.model_validate(written), client))
        args = FetchArgs.model_validate(written)
    except ValidationError as error:
        return {"refused": str(error.errors()[0]["loc"][0]), "explanation": error.errors()[0]["msg"]}
    return (
        seen_of(await fetch_or_page(args, client)) if args.pages is None else await fetch_pages(args, client)
    )


def seen_of(outcome: Outcome) -> Mapping[str, Any]:
    """Return what an attempt came to."""
    seen: dict[str, Any] = {"outcome": "succeeded", **(outcome.result or {})}
    if isinstance(outcome, Failed):
        seen |= {
            "outcome": "failed",
            "reason": outcome.reason,
            "explanation": outcome.explanation,
            "transient": outcome.transient,
            "retry_after_seconds": outcome.retry_after_seconds,
        }
    return seen


def misses(right: Any, seen: Any, *, at: str = "") -> list[str]:
    """Return what of the right result was not seen; of a mapping only what is named counts.

    The key `..._has` demands that a text contains another one; it may have a list of them.
    """
    if isinstance(right, Mapping):
        if not isinstance(seen, Mapping):
            return [f"{at}: {seen!r} is no mapping"]
        found = []
        for name, value in right.items():
            if name.endswith("_has"):
                found += _lacks(value, seen.get(name.removesuffix("_has")), at=f"{at}.{name}")
            else:
                found += misses(value, seen.get(name, "nothing"), at=f"{at}.{name}")
        return found
    if isinstance(right, list) and isinstance(seen, list) and len(right) == len(seen):
        return [
            miss
            for n, (one, other) in enumerate(zip(right, seen, strict=True))
            for miss in misses(one, other, at=f"{at}[{n}]")
        ]
    # To Python 1 is 1.0 and True.
    return [] if type(right) is type(seen) and right == seen else [f"{at}: {seen!r} is not {right!r}"]


def _lacks(wanted: str | list[str], text: Any, *, at: str) -> list[str]:
    words = [wanted] if isinstance(wanted, str) else wanted
    return [
        f"{at}: no {word!r} in {text!r}" for word in words if not isinstance(text, str) or word not in text
    ]


def wrong_requests(wanted: tuple[str | tuple[str, ...], ...], server: ExchangeServer) -> list[str]:
    """Return how the requests differ from those wanted; `no X` is a field that must not be there."""
    heads = [head.rstrip("\r\n").split("\r\n") for head in server.heads]
    came = [head[0].rpartition(" ")[0] for head in heads]
    lines = [[one] if isinstance(one, str) else list(one) for one in wanted]
    if came != [server.filled(one[0]) for one in lines]:
        return [f"came: {came}"]
    wrong = []
    for head, (request, *fields) in zip(heads, lines, strict=True):
        names = {line.partition(":")[0].lower() for line in head[1:]}
        for line in fields:
            is_right = (
                line[3:].lower() not in names if line.startswith("no ") else server.filled(line) in head
            )
            wrong += [] if is_right else [f"{request}: {line}: {head}"]
    return wrong


def test_every_exchange_has_a_name_of_its_own() -> None:
    names = [exchange.name for file in exchange_files() for exchange in file.exchanges]

    assert len(set(names)) == len(names)


def test_curl_has_judged_every_exchange_and_every_difference_is_argued() -> None:
    exchanges = [exchange for file in exchange_files() for exchange in file.exchanges]

    assert [one.name for one in exchanges if one.curl is None] == [], "python -m tests.support.curl_verdicts"
    differing = [one.name for one in exchanges if one.curl and one.curl.is_good != one.is_good]
    assert [one.name for one in exchanges if one.differs] == differing


def test_there_are_exchanges_for_every_line_of_the_issue() -> None:
    exchanges = [exchange for file in exchange_files() for exchange in file.exchanges]

    assert {exchange.line for exchange in exchanges} >= LINES
    assert len(exchanges) >= 150
