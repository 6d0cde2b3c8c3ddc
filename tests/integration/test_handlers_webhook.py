"""Sending webhooks to a real receiver: signed so that a library of the standard takes them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from consumer.handlers.webhook import send_webhook
from consumer.secrets import Signer
from deploy.local.target_site import Call, TargetSite, open_target
from shared.identity import new_id
from shared.kinds.webhook import WebhookArgs
from shared.messages import JobMessage
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.factories import make_webhook_secret
from tests.support.http_servers import (
    KEEP_OPEN,
    LOOPBACK,
    STAY_SILENT,
    client_that_reaches_loopback,
    raw_server,
    trap,
)

NEW, OLD = make_webhook_secret(), make_webhook_secret(24)
DATA = {"text": "ä\u2028\"'", "n": 1.5, "nothing": None}
HAPPENED = "2026-01-02T12:00:00.123456Z"


@pytest.fixture
async def site() -> AsyncIterator[TargetSite]:
    async with open_target() as running:
        yield running


def make_args(url: str, *, timeout_seconds: float = 5) -> WebhookArgs:
    at = datetime.fromisoformat(HAPPENED).astimezone(UTC)
    return WebhookArgs(url=url, type="invoice.paid", timestamp=at, data=DATA, timeout_seconds=timeout_seconds)


async def send(
    args: WebhookArgs,
    *,
    job_id: UUID | None = None,
    secrets: tuple[str, ...] = (NEW, OLD),
    reach: bool = True,
) -> Outcome:
    signer = Signer(SecretStr(secret) for secret in secrets)
    async with client_that_reaches_loopback(allow=LOOPBACK if reach else ()) as client:
        return await send_webhook(
            args,
            replace(client, signer=signer, job=JobMessage(id=job_id or new_id(), kind="webhook", args={})),
        )


def calls(site: TargetSite) -> list[Call]:
    return site.state.hooks.get("a", [])


def failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed)
    return outcome


async def test_each_live_secret_verifies_alone_and_no_other_does(site: TargetSite) -> None:
    job_id = new_id()

    outcome = await send(make_args(f"{site.url}/hooks/a"), job_id=job_id)

    assert isinstance(outcome, Succeeded) and outcome.result["status"] == 204
    assert outcome.result["seconds"] > 0
    [call] = calls(site)
    for secret in (NEW, OLD):
        assert Webhook(secret).verify(call.body, call.headers) == {
            "type": "invoice.paid",
            "timestamp": HAPPENED,
            "data": DATA,
        }
    with pytest.raises(WebhookVerificationError):
        Webhook(make_webhook_secret()).verify(call.body, call.headers)
    assert call.headers["webhook-id"] == str(job_id)
    assert call.headers["content-type"] == "application/json"
    assert call.headers["user-agent"] == "Retriever/test"
    assert not {"cookie", "authorization"} & call.headers.keys()


async def test_a_repeated_attempt_has_the_same_id_and_body(site: TargetSite) -> None:
    job_id, args = new_id(), make_args(f"{site.url}/hooks/a?fail=1")

    outcomes = [await send(args, job_id=job_id) for _ in range(2)]

    assert [type(outcome) for outcome in outcomes] == [Failed, Succeeded]
    first, second = calls(site)
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)


async def test_nothing_is_sent_without_a_secret(site: TargetSite) -> None:
    outcome = failed(await send(make_args(f"{site.url}/hooks/a"), secrets=()))

    assert (outcome.reason, outcome.transient) == ("no_signing_secret", False)
    assert "RETRIEVER_WEBHOOK_SECRETS" in outcome.explanation
    assert calls(site) == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(site: TargetSite, status: int) -> None:
    outcome = failed(await send(make_args(f"{site.url}/hooks/a?fail=9&status={status}")))

    assert (outcome.reason, outcome.transient) == (f"http_{status}", True)
    assert "webhooks follow none" in outcome.explanation
    assert list(site.state.hooks) == ["a"] and len(calls(site)) == 1


@pytest.mark.parametrize(
    ("status", "transient"), [(410, False), (400, True), (401, True), (404, True), (500, True)]
)
async def test_only_gone_is_for_good(site: TargetSite, status: int, *, transient: bool) -> None:
    outcome = failed(await send(make_args(f"{site.url}/hooks/a?fail=9&status={status}")))

    assert (outcome.reason, outcome.transient) == (f"http_{status}", transient)
    assert outcome.result is not None and outcome.result["status"] == status


async def test_a_receiver_that_asks_to_wait_is_heard() -> None:
    answer = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(answer, then=KEEP_OPEN) as server:
        outcome = failed(await send(make_args(server.url)))

    assert (outcome.transient, outcome.retry_after_seconds) == (True, 7.0)


async def test_a_receiver_that_is_away_or_silent_may_come_back(unused_port: int) -> None:
    refused = failed(await send(make_args(f"http://127.0.0.1:{unused_port}/")))
    async with raw_server(b"", then=STAY_SILENT) as server:
        silent = failed(await send(make_args(server.url, timeout_seconds=0.2)))

    assert (refused.reason, refused.transient) == ("connection_refused", True)
    assert (silent.reason, silent.transient) == ("timeout", True)


async def test_a_body_without_end_does_not_matter() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n"
    async with raw_server(head + b"x" * 200_000, then=STAY_SILENT) as server:
        large = await send(make_args(server.url))
    async with raw_server(head, then=STAY_SILENT) as server:
        slow = await send(make_args(server.url))

    assert isinstance(large, Succeeded) and isinstance(slow, Succeeded)


async def test_a_receiver_on_a_private_address_is_never_called() -> None:
    async with trap() as server:
        outcome = failed(await send(make_args(server.url), reach=False))

    assert (outcome.reason, outcome.transient) == ("egress_denied", False)
    assert server.connections == 0
