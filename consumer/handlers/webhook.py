"""The work of the `webhook` kind: POST what has happened, signed."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import aiohttp

from consumer.http.client import Client, HttpRequest
from consumer.http.failures import (
    EGRESS_DENIED,
    INVALID_URL,
    NO_SIGNING_SECRET,
    PERMIT_TOO_LATE,
    Failure,
    failure_of_status,
    timed_out,
)
from consumer.http.redirect_chain import RedirectChain, final_answer
from shared.clock import utc_now
from shared.kinds.requests import Redirects
from shared.kinds.webhook import WebhookArgs, WebhookResult, encode_json
from shared.outcomes import Outcome, Succeeded

DROPPED_BYTES = 65_536
DROP_SECONDS = 1.0

# Failures that no receiver can mend.
_FOR_GOOD = frozenset({INVALID_URL.reason, EGRESS_DENIED})
_REDIRECT = "The receiver answered {status}, a redirect; webhooks follow none: change the URL."


async def send_webhook(args: WebhookArgs, client: Client) -> Outcome:
    """Return whether the receiver took it, which any 2xx says. Never sends unsigned.

    A receiver may be in the middle of a deploy, so every other answer may pass, except 410.
    """
    # A worker always says for which job.
    assert client.job is not None
    signer = client.secrets.signer_for(args.url, client.job) or client.signer
    if isinstance(signer, Failure):
        return signer.as_outcome()
    if not signer.can_sign:
        return NO_SIGNING_SECRET.as_outcome()
    chain = RedirectChain(args.url)
    failure = await _send(args, client, chain, signer.headers(client.job.id, payload(args), now=utc_now()))
    seconds = chain.total_seconds
    result = WebhookResult(status=chain.status, seconds=seconds).model_dump(mode="json")
    if failure is None:
        return Succeeded(result)
    return failure.as_outcome(
        retry_after_seconds=chain.retry_after_seconds, result=None if chain.status is None else result
    )


def payload(args: WebhookArgs) -> str:
    """Return the body: what is signed and sent, the same for every attempt."""
    timestamp: dict[str, Any] = args.model_dump(mode="json", include={"timestamp"})
    return encode_json({"type": args.type, **timestamp, "data": args.data})


async def _send(
    args: WebhookArgs, client: Client, chain: RedirectChain, signature: Mapping[str, str]
) -> Failure | None:
    headers = {"Content-Type": "application/json", **signature}
    body = payload(args).encode("ascii")
    request = HttpRequest("POST", args.url, headers, body, redirects=Redirects.REPORT)
    try:
        async with (
            asyncio.timeout(args.timeout_seconds),
            final_answer(client, chain, request) as answer,
        ):
            if isinstance(answer, Failure):
                return replace(answer, transient=answer.reason not in _FOR_GOOD)
            await _drop_body(answer)
            return _failure_of(answer.status)
    except TimeoutError:
        return PERMIT_TOO_LATE if chain.awaits_permit else timed_out(args.timeout_seconds)


def _failure_of(status: int) -> Failure | None:
    failure = failure_of_status(status)
    if failure is None:
        return None
    failure = replace(failure, transient=status != HTTPStatus.GONE)
    return replace(failure, explanation=_REDIRECT.format(status=status)) if 300 <= status < 400 else failure


async def _drop_body(answer: aiohttp.ClientResponse) -> None:
    """Read a little of the body, so that the connection can be used again; the status says it all."""
    seen_bytes = 0
    try:
        async with asyncio.timeout(DROP_SECONDS):
            async for chunk in answer.content.iter_any():
                seen_bytes += len(chunk)
                if seen_bytes > DROPPED_BYTES:
                    break
    except (aiohttp.ClientError, OSError, TimeoutError):
        # What is left unread costs the connection, and nothing else.
        answer.close()
