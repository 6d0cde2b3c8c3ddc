"""The work of the `check` kind: request a URL, follow its redirects, and say what is wrong with it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field

import aiohttp

from consumer.deadlines import time_limit
from consumer.handlers.certificates import peek_certificate, read_certificate
from consumer.handlers.check_verdict import CheckedAnswer, failure_of_answer, results_of_assertions
from consumer.handlers.html import title_of
from consumer.http.body import bounded_text, decode_text, read_body
from consumer.http.client import Client, http_request
from consumer.http.failures import BAD_CERTIFICATE, Failure, assertion_failed, timed_out
from consumer.http.redirect_chain import RedirectChain, final_answer
from shared.clock import utc_now
from shared.hosts import host_key
from shared.kinds.check import (
    AssertionResult,
    Certificate,
    CheckArgs,
    CheckMethod,
    Verdict,
)
from shared.outcomes import Outcome, Succeeded
from shared.urls import url_fragment, url_host

MAX_CONTENT_TYPE_LENGTH = 200

PEEK_SECONDS = 3.0
"""For the details of a bad certificate; on top of the attempt's own limit, so that they never cost the
verdict, and below the executor's overtime."""


async def check(args: CheckArgs, client: Client) -> Outcome:
    """Return what a URL came to: a verdict, or a failure that may pass.

    A definite answer, good or bad, succeeds. A failure that may pass carries the verdict `down` and what was
    seen. A failure of ours, such as a denied address, has no verdict.
    """
    attempt = _Check(args, client, RedirectChain(args.url))
    failure = await attempt.within_time()
    if failure is None:
        return Succeeded(attempt.result(Verdict.OK, "ok", "The host answered as it should."))
    if failure.verdict is None:
        return failure.as_outcome()
    result = attempt.result(failure.verdict, failure.reason, failure.explanation)
    if failure.verdict is Verdict.DOWN:
        return failure.as_outcome(retry_after_seconds=attempt.chain.retry_after_seconds, result=result)
    return Succeeded(result)


@dataclass(slots=True)
class _Check:
    """One attempt, and what was seen of the final answer so far."""

    args: CheckArgs
    client: Client
    chain: RedirectChain
    certificate: Certificate | None = None
    content_type: str | None = None
    body_bytes: int | None = None
    title: str | None = None
    assertions: list[AssertionResult] = field(default_factory=list)

    async def within_time(self) -> Failure | None:
        """Return what is wrong with the URL, or None, within the attempt's time."""
        try:
            with time_limit(self.args.timeout_seconds):
                failure = await self._request()
        except TimeoutError:
            return timed_out(self.args.timeout_seconds, while_doing=self.chain.recording.phase)
        if failure is not None and failure.reason == BAD_CERTIFICATE.reason:
            await self._peek_certificate()
        return failure

    def _request(self) -> Coroutine[None, None, Failure | None]:
        if self.args.method is not CheckMethod.AUTO:
            return self._request_with(self.args.method)
        job = self.client.job
        # GET has the last word, so a repetition need not go through HEAD: some hosts answer it 429 for ever.
        if self.args.needs_body or (job is not None and job.attempt > 1):
            return self._request_with(CheckMethod.GET)
        return self._request_head_then_get()

    async def _request_head_then_get(self) -> Failure | None:
        limit_seconds = self.args.timeout_seconds / 2
        try:
            # Some hosts never answer a HEAD, so it gets half the time and leaves the rest to GET.
            async with asyncio.timeout(limit_seconds):
                failure = await self._request_with(CheckMethod.HEAD)
        except TimeoutError:
            failure = timed_out(limit_seconds, while_doing=self.chain.recording.phase)
        if self._head_settles(failure):
            return failure
        # Hosts answer HEAD with any wrong status and redirect there is, so all else is worth a GET.
        return await self._request_with(CheckMethod.GET)

    def _head_settles(self, failure: Failure | None) -> bool:
        """Return whether what came of HEAD is the result, or else GET is to be asked."""
        chain = self.chain
        if failure is None:
            return len(chain.hops) == 1 or host_key(chain.url) == host_key(self.args.url)
        if not chain.hops:
            return failure.before_sending  # GET would fail alike.
        # A GET at once would be the opposite of what the host asks for, or more work for a worker in trouble.
        return failure.transient and (failure.is_ours or chain.asks_us_to_wait)

    async def _request_with(self, method: CheckMethod) -> Failure | None:
        request = await http_request(
            self.args, self.client.secrets, method=method, allow_downgrade=self.args.allow_downgrade
        )
        if isinstance(request, Failure):
            return request
        async with final_answer(self.client, self.chain, request) as answer:
            return answer if isinstance(answer, Failure) else await self._examine(answer)

    async def _examine(self, answer: aiohttp.ClientResponse) -> Failure | None:
        self._note_answer(answer)
        if failure := failure_of_answer(self.args, answer.status, answer.headers, url=self.chain.url):
            return failure
        text: str | None = None
        body: bytes | None = None
        if self.args.needs_body:
            read = await read_body(answer, max_bytes=self.args.max_body_bytes)
            if isinstance(read, Failure):
                return read
            body = read
            self.chain.end_body()
            self.body_bytes = len(body)
            text, _ = decode_text(body, answer.charset) or (None, None)
        if text is None and self.args.assertions is None:
            return None
        return await self._assert(answer, body, text)

    async def _assert(
        self, answer: aiohttp.ClientResponse, body: bytes | None, text: str | None
    ) -> Failure | None:
        if text is not None:
            self.title = await asyncio.to_thread(title_of, text)
        if self.args.assertions is None:
            return None
        checked = CheckedAnswer(
            headers=answer.headers,
            latency_seconds=self.chain.latency_seconds,
            certificate=self.certificate,
            fragment=url_fragment(self.chain.url),
            text=text,
            body=body,
            charset=answer.charset,
        )
        if self.args.assertions.on_body:
            self.assertions = await asyncio.to_thread(results_of_assertions, self.args.assertions, checked)
        else:
            self.assertions = results_of_assertions(self.args.assertions, checked)
        wrong = [result for result in self.assertions if not result.passed]
        if not wrong:
            return None
        return assertion_failed(wrong[0].assertion, wrong[0].expected, others=len(wrong) - 1)

    def _note_answer(self, answer: aiohttp.ClientResponse) -> None:
        self.certificate = None
        self._note_certificate(trusted=True)
        declared = answer.headers.get("Content-Type")
        self.content_type = None if declared is None else bounded_text(declared, MAX_CONTENT_TYPE_LENGTH)
        self.body_bytes = answer.content_length

    def _note_certificate(self, *, trusted: bool) -> None:
        recording = self.chain.recording
        if recording.certificate is not None:
            self.certificate = read_certificate(
                recording.certificate, protocol=recording.protocol, trusted=trusted, now=utc_now()
            )

    async def _peek_certificate(self) -> None:
        guarded_socket = self.client.session.connector.guarded_socket
        host = url_host(self.chain.url)
        try:
            async with asyncio.timeout(PEEK_SECONDS):
                if await peek_certificate(
                    self.chain.recording, host.rstrip("."), guarded_socket=guarded_socket
                ):
                    self._note_certificate(trusted=False)
        except OSError:
            pass  # What is wrong is known; the details cannot be had this time.

    def result(self, verdict: Verdict, reason: str, explanation: str) -> dict[str, object]:
        """Return all that was seen, as the JSON of a `CheckResult`, without a model in between."""
        chain, recording = self.chain, self.chain.recording
        return {
            "verdict": verdict.value,
            "reason": reason,
            "explanation": explanation,
            "status": chain.status,
            "final_url": chain.url,
            "hops": chain.hops,
            "total_seconds": chain.total_seconds,
            "ip": recording.ip,
            "family": recording.family,
            "timings": recording.timings,
            "redirects_to_http": chain.redirects_to_http,
            "certificate": self.certificate and self.certificate.model_dump(mode="json"),
            "content_type": self.content_type,
            "bytes": self.body_bytes,
            "title": self.title,
            "assertions": [each.model_dump(mode="json") for each in self.assertions],
        }
