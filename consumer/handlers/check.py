"""The work of the `check` kind: ask a URL, follow its redirects, and say what is wrong with it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from consumer.deadlines import time_limit
from consumer.handlers.assertions import Seen, judge
from consumer.handlers.body import decode_text, read_body
from consumer.handlers.certificates import read_certificate
from consumer.handlers.client import Client, question_of
from consumer.handlers.connector import RecordingConnector
from consumer.handlers.failures import BAD_CERTIFICATE, Failure, assertion_failed, timed_out
from consumer.handlers.hops import Trail, final_answer
from consumer.handlers.judgement import failure_of_answer
from consumer.handlers.page import title_of
from consumer.handlers.texts import bounded_text
from shared.clock import utc_now
from shared.kinds.check import (
    AssertionResult,
    Certificate,
    CheckArgs,
    CheckMethod,
    Verdict,
)
from shared.outcomes import Outcome, Succeeded

MAX_CONTENT_TYPE_LENGTH = 200

PEEK_SECONDS = 3.0
"""For the details of a bad certificate; beyond the attempt's own limit, so that they never cost the verdict.
Below the executor's overtime."""


async def check(args: CheckArgs, client: Client) -> Outcome:
    """Return what a URL came to: a verdict, or a failure that may pass.

    A definite answer, good or bad, succeeds. What may pass fails with the verdict `down` and what was
    seen. What only we are to blame for, such as a denied address, fails without a verdict.
    """
    look = _Look(args, client, Trail(args.url))
    failure = await look.within_time()
    if failure is None:
        return Succeeded(look.result(Verdict.OK, "ok", "The host answered as it should."))
    if failure.verdict is None:
        return failure.as_outcome()
    result = look.result(failure.verdict, failure.reason, failure.explanation)
    if failure.verdict is Verdict.DOWN:
        return failure.as_outcome(retry_after_seconds=look.trail.retry_after_seconds, result=result)
    return Succeeded(result)


@dataclass(slots=True)
class _Look:
    """One attempt, and what was seen of the final answer so far."""

    args: CheckArgs
    client: Client
    trail: Trail
    certificate: Certificate | None = None
    content_type: str | None = None
    body_bytes: int | None = None
    title: str | None = None
    assertions: list[AssertionResult] = field(default_factory=list)

    async def within_time(self) -> Failure | None:
        """Return what is wrong with the URL, or None, before the time is up."""
        try:
            with time_limit(self.args.timeout_seconds):
                failure = await self._ask()
        except TimeoutError:
            return timed_out(self.args.timeout_seconds, while_doing=self.trail.recording.phase)
        if failure is not None and failure.reason == BAD_CERTIFICATE.reason:
            await self._peek_certificate()
        return failure

    def _ask(self) -> Coroutine[None, None, Failure | None]:
        if self.args.method is not CheckMethod.AUTO:
            return self._ask_with(self.args.method)
        if self.args.needs_body:
            return self._ask_with(CheckMethod.GET)
        return self._ask_head_then_get()

    async def _ask_head_then_get(self) -> Failure | None:
        limit_seconds = self.args.timeout_seconds / 2
        try:
            # Some hosts never answer a HEAD, so it gets half the time and GET is sure of the rest.
            async with asyncio.timeout(limit_seconds):
                failure = await self._ask_with(CheckMethod.HEAD)
        except TimeoutError:
            failure = timed_out(limit_seconds, while_doing=self.trail.recording.phase)
        if failure is None or failure.before_sending or self._asks_us_to_wait():
            return failure
        # HEAD lies in every status there is, so anything but success is worth a GET.
        return await self._ask_with(CheckMethod.GET)

    def _asks_us_to_wait(self) -> bool:
        # To ask again at once, only louder, would be the opposite of what it wants.
        return self.trail.status == 429 or bool(self.trail.retry_after_seconds)

    async def _ask_with(self, method: CheckMethod) -> Failure | None:
        question = question_of(
            self.args, self.client.secrets, method=method, allow_downgrade=self.args.allow_downgrade
        )
        if isinstance(question, Failure):
            return question
        async with final_answer(self.client, self.trail, question) as answer:
            return answer if isinstance(answer, Failure) else await self._examine(answer)

    async def _examine(self, answer: aiohttp.ClientResponse) -> Failure | None:
        self._note_answer(answer)
        if failure := failure_of_answer(self.args, answer.status, answer.headers, url=self.trail.url):
            return failure
        text = None
        if self.args.needs_body:
            body = await read_body(answer, max_bytes=self.args.max_body_bytes)
            if isinstance(body, Failure):
                return body
            self.trail.end_body()
            self.body_bytes = len(body)
            text, _ = decode_text(body, answer.charset) or (None, None)
        if text is None and self.args.assertions is None:
            return None
        return await self._assert(answer, text)

    async def _assert(self, answer: aiohttp.ClientResponse, text: str | None) -> Failure | None:
        if text is not None:
            self.title = await asyncio.to_thread(title_of, text)
        if self.args.assertions is None:
            return None
        seen = Seen(
            headers=answer.headers,
            latency_seconds=self.trail.latency_seconds,
            certificate=self.certificate,
            fragment=URL(self.trail.url, encoded=True).raw_fragment,
            text=text,
        )
        if self.args.assertions.on_body:
            self.assertions = await asyncio.to_thread(judge, self.args.assertions, seen)
        else:
            self.assertions = judge(self.args.assertions, seen)
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
        recording = self.trail.recording
        if recording.certificate is not None:
            self.certificate = read_certificate(
                recording.certificate, protocol=recording.protocol, trusted=trusted, now=utc_now()
            )

    async def _peek_certificate(self) -> None:
        connector = self.client.session.connector
        host = URL(self.trail.url, encoded=True).raw_host
        if not isinstance(connector, RecordingConnector) or host is None:
            return
        try:
            async with asyncio.timeout(PEEK_SECONDS):
                if await connector.peek_certificate(self.trail.recording, host.rstrip(".")):
                    self._note_certificate(trusted=False)
        except OSError:
            pass  # What is wrong is known; the details are not to be had this time.

    def result(self, verdict: Verdict, reason: str, explanation: str) -> dict[str, object]:
        """Return all that was seen, as the JSON of a `CheckResult`; one would only be taken apart again."""
        trail, recording = self.trail, self.trail.recording
        return {
            "verdict": verdict.value,
            "reason": reason,
            "explanation": explanation,
            "status": trail.status,
            "final_url": trail.url,
            "hops": trail.hops,
            "total_seconds": trail.total_seconds,
            "ip": recording.ip,
            "family": recording.family,
            "timings": recording.timings,
            "redirects_to_http": trail.redirects_to_http,
            "certificate": self.certificate and self.certificate.model_dump(mode="json"),
            "content_type": self.content_type,
            "bytes": self.body_bytes,
            "title": self.title,
            "assertions": [each.model_dump(mode="json") for each in self.assertions],
        }
