"""The work of the `check` kind: request a URL, follow its redirects, and say what is wrong with it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace

import aiohttp
from multidict import CIMultiDict

from consumer.compute.answers import Judged, Judgement
from consumer.compute.html import is_top
from consumer.compute.judgement import SMALL_EXTRACT_SECONDS, SeenAnswer, is_small, judge
from consumer.deadlines import time_limit
from consumer.handlers.certificates import asks_for_certificate, read_certificate
from consumer.handlers.check_verdict import failure_of_answer, failure_of_assertions, wanted_of
from consumer.http.body import Beginning, read_beginning
from consumer.http.body_room import HeldRoom
from consumer.http.client import Client, http_request
from consumer.http.echoes import masked_body, masked_outcome
from consumer.http.failures import (
    BAD_CERTIFICATE,
    CLIENT_CERTIFICATE_REQUIRED,
    CONNECTION_RESET,
    PERMIT_TOO_LATE,
    TLS_INTERRUPTED,
    Failure,
    timed_out,
)
from consumer.http.header_fields import declared_bytes
from consumer.http.markup import Markup, markup_of
from consumer.http.recording import Recording, dialling, put_permitted_first
from consumer.http.redirect_chain import PoliteRequest, RedirectChain, final_answer
from consumer.http.text import bounded_text
from consumer.politeness.address_limiters import AddressBusy
from shared.clock import utc_now
from shared.hosts import host_key
from shared.kinds.check import (
    AssertionResult,
    Certificate,
    CheckArgs,
    CheckMethod,
    Verdict,
    success_words,
)
from shared.outcomes import Outcome, Succeeded
from shared.redaction import NO_ECHOES, Echoes
from shared.urls import url_fragment, url_host

MAX_CONTENT_TYPE_LENGTH = 200

LOOK_SECONDS = 3.0
"""For why a host hung up during TLS; on top of the attempt's own limit, so that it never costs the verdict,
and below the executor's overtime."""


async def check(args: CheckArgs, client: Client) -> Outcome:
    """Return what a URL came to: a verdict, or a failure that may pass.

    A definite answer, good or bad, succeeds. A failure that may pass carries the verdict `down` and what was
    seen. A failure of ours, such as a denied address, has no verdict.
    """
    attempt = _Check(args, client, RedirectChain(args.url))
    failure = await attempt.within_time()
    return masked_outcome(attempt.echoes, _outcome(attempt, failure))


def _outcome(attempt: "_Check", failure: Failure | None) -> Outcome:
    if failure is None:
        return Succeeded(attempt.result(Verdict.OK, "ok", success_words(attempt.assertions)))
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
    fragments: dict[str, AssertionResult] | None = None
    echoes: Echoes = NO_ECHOES

    async def within_time(self) -> Failure | None:
        """Return what is wrong with the URL, or None, within the attempt's time."""
        try:
            with time_limit(self.args.timeout_seconds):
                failure = await self._request()
        except TimeoutError:
            return self._timed_out(self.args.timeout_seconds)
        if failure is not None and failure.reason == BAD_CERTIFICATE.reason:
            self._note_certificate(trusted=False)
        if failure is not None and self._may_want_certificate(failure):
            return await self._look_for_wish(failure)
        return failure

    def _timed_out(self, limit_seconds: float) -> Failure:
        if self.chain.awaits_permit:
            return PERMIT_TOO_LATE
        return timed_out(limit_seconds, while_doing=self.chain.recording.phase)

    def _request(self) -> Coroutine[None, None, Failure | None]:
        if self.args.method is not CheckMethod.AUTO:
            return self._request_with(self.args.method)
        job = self.client.job
        # GET has the last word, so a repetition need not go through HEAD: some hosts answer it 429 for ever.
        if self._needs_body(Markup.UNKNOWN) or (job is not None and job.attempt > 1):
            return self._request_with(CheckMethod.GET)
        return self._request_head_then_get()

    async def _request_head_then_get(self) -> Failure | None:
        limit_seconds = self.args.timeout_seconds / 2
        try:
            # Some hosts never answer a HEAD, so it gets half the time and leaves the rest to GET.
            with time_limit(limit_seconds):
                failure = await self._request_with(CheckMethod.HEAD)
        except TimeoutError:
            failure = self._timed_out(limit_seconds)
        if self._head_settles(failure):
            return failure
        # Hosts answer HEAD with any wrong status and redirect there is, so all else is worth a GET.
        return await self._request_with(CheckMethod.GET)

    def _head_settles(self, failure: Failure | None) -> bool:
        """Return whether what came of HEAD is the result, or else GET is to be asked."""
        chain = self.chain
        if failure is None:
            if self.args.needs_body and self._needs_body(markup_of(self.content_type)):
                return False  # A redirect brought a fragment.
            return len(chain.hops) == 1 or host_key(chain.url) == host_key(self.args.url)
        if not chain.hops:
            return failure.before_sending  # GET would fail alike.
        # A GET at once would be the opposite of what the host asks for, or more work for a worker in trouble.
        return failure.transient and (failure.is_ours or chain.asks_us_to_wait)

    async def _request_with(self, method: CheckMethod) -> Failure | None:
        request = await http_request(
            self.args,
            self.client.secrets,
            method=method,
            allow_downgrade=self.args.allow_downgrade,
            job=self.client.job,
        )
        if isinstance(request, Failure):
            return request
        self.echoes = request.echoes
        with self.client.session.bodies.hold() as held:
            async with final_answer(self.client, self.chain, request) as answer:
                seen = answer if isinstance(answer, Failure) else await self._examine(answer, held)
            # The host's permit is free by now, however long this waits.
            return await self._judge(seen) if isinstance(seen, SeenAnswer) else seen

    async def _examine(self, answer: aiohttp.ClientResponse, held: HeldRoom) -> SeenAnswer | Failure | None:
        """Return what is to be judged, if anything, or what is wrong already."""
        self._note_answer(answer)
        is_own = not self.chain.has_left
        if failure := failure_of_answer(self.args, answer.status, answer.headers, is_own=is_own):
            return failure
        if not self.args.needs_body and self.args.assertions is None:
            return None
        markup = markup_of(answer.headers.get("Content-Type"))
        if not self._needs_body(markup):
            return self._seen(answer, markup, None)
        if answer.method == CheckMethod.HEAD:
            return None  # GET follows.
        body = await read_beginning(answer, max_bytes=self.args.max_body_bytes, held=held)
        if isinstance(body, Failure):
            return body
        self.chain.end_body()
        if body.is_whole:
            self.body_bytes = len(body.content)
        return self._seen(answer, markup, body)

    def _needs_body(self, markup: Markup) -> bool:
        assertions = self.args.assertions
        if assertions is not None and assertions.on_text:
            return True
        return (self.args.title or bool(self._sought)) and markup is not Markup.NONE

    @property
    def _fragment(self) -> str:
        return url_fragment(self.chain.url)

    @property
    def _sought(self) -> list[str]:
        """The fragments that a look at the page is needed for."""
        assertions = self.args.assertions
        is_judged = assertions is not None and assertions.fragment
        sought = [self._fragment] if is_judged or self.args.fragments else []
        if not self.chain.brings_fragment:
            sought += self.args.fragments
        return [fragment for fragment in sought if not is_top(fragment)]

    def _seen(self, answer: aiohttp.ClientResponse, markup: Markup, body: Beginning | None) -> SeenAnswer:
        named = self.args.assertions.header if self.args.assertions is not None else []
        names = {"content-type", *(header.name.lower() for header in named)}
        return SeenAnswer(
            headers=CIMultiDict(
                (name, self.echoes.text(value))
                for name in sorted(names)
                for value in answer.headers.getall(name, [])
            ),
            latency_seconds=self.chain.latency_seconds,
            days_left=None if self.certificate is None else self.certificate.days_left,
            fragment=self._fragment,
            brings_fragment=self.chain.brings_fragment,
            body=None if body is None else body.content,
            markup=markup,
            charset=answer.charset,
            content_type=self.content_type,
            limit_bytes=self.args.max_body_bytes if body is not None and not body.is_whole else None,
        )

    async def _judge(self, seen: SeenAnswer) -> Failure | None:
        """Hold the assertions against the answer, and note the title."""
        if seen.body is not None:
            body = await masked_body(self.client, self.chain.url, self.echoes, seen.body)
            if isinstance(body, Failure):
                return body
            seen = replace(seen, body=body)
        judgement = await self._judgement(seen)
        if isinstance(judgement, Failure):
            return judgement
        self.title = judgement.title if seen.body is not None else self.title
        self.fragments = {name: _result_of(each) for name, each in judgement.fragments.items()}
        if self.args.assertions is None:
            return None
        self.assertions = [_result_of(each) for each in judgement.assertions]
        return failure_of_assertions(
            self.assertions, limit_bytes=self.args.max_body_bytes, limit=judgement.limit
        )

    async def _judgement(self, seen: SeenAnswer) -> Judgement | Failure:
        """Return what small answers come to at once, and all others in a process of their own."""
        assertions = self.args.assertions
        wanted = None if assertions is None else wanted_of(assertions)
        fragments, sought = self.args.fragments, self._sought
        if is_small(wanted, seen):
            judgement = judge(wanted, fragments, seen, sought=sought, extract_seconds=SMALL_EXTRACT_SECONDS)
            if not judgement.ran_out:
                return judgement
        names = self.client.names(self.chain.url)
        return await self.client.compute.run(names, judge, wanted, fragments, seen, sought=sought)

    def _note_answer(self, answer: aiohttp.ClientResponse) -> None:
        self.certificate = None
        self._note_certificate(trusted=True)
        declared = answer.headers.get("Content-Type")
        self.content_type = (
            None if declared is None else bounded_text(self.echoes.text(declared), MAX_CONTENT_TYPE_LENGTH)
        )
        self.body_bytes = declared_bytes(answer.headers)

    def _note_certificate(self, *, trusted: bool) -> None:
        recording = self.chain.recording
        if recording.certificate is not None:
            self.certificate = read_certificate(
                recording.certificate, protocol=recording.protocol, trusted=trusted, now=utc_now()
            )

    def _may_want_certificate(self, failure: Failure) -> bool:
        """Return whether a host hung up where hosts do that want a client certificate and say nothing."""
        recording = self.chain.recording
        is_new = bool(recording.addresses) and not recording.is_reused
        is_reset = failure.reason == CONNECTION_RESET.reason and self.chain.url.startswith("https:")
        return is_new and (is_reset or failure.reason == TLS_INTERRUPTED.reason)

    async def _look_for_wish(self, failure: Failure) -> Failure:
        url, polite = self.chain.url, PoliteRequest(self.client)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if await polite.permit(url) is not None:
                    return failure
                wants = await self._asks_for_certificate(url_host(url).rstrip("."), polite)
        except (OSError, AddressBusy):
            return failure  # A time limit, too. The host hung up, and that is all there is to say.
        finally:
            polite.release()
        return CLIENT_CERTIFICATE_REQUIRED if wants else failure

    async def _asks_for_certificate(self, host: str, polite: PoliteRequest) -> bool:
        look, addresses = Recording(permits=polite.addresses), list(self.chain.recording.addresses)
        await put_permitted_first(addresses, look)
        with dialling(polite.addresses):
            make_socket = self.client.session.connector.polite_socket
            return await asks_for_certificate(addresses, host, make_socket=make_socket)

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
            **self._fragments_found(),
            "assertions": [each.model_dump(mode="json") for each in self.assertions],
        }

    def _fragments_found(self) -> dict[str, object]:
        found = self.fragments or {}
        return (
            {"fragments": {name: each.model_dump(mode="json") for name, each in found.items()}}
            if found
            else {}
        )


def _result_of(judged: Judged) -> AssertionResult:
    return AssertionResult(
        assertion=judged.assertion,
        expected=judged.expected,
        passed=judged.passed,
        observed=judged.observed,
        explanation=judged.explanation,
    )
