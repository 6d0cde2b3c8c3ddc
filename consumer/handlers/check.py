"""The work of the `check` kind: ask a URL, follow its redirects, and say what is wrong with it."""

import asyncio

from consumer.handlers.client import Client, question_of
from consumer.handlers.failures import Failure, failure_of_status, timed_out
from consumer.handlers.hops import Trail, final_answer
from shared.kinds.check import CheckArgs, CheckMethod, CheckResult, Verdict
from shared.outcomes import Outcome, Succeeded


async def check(args: CheckArgs, client: Client) -> Outcome:
    """Return what a URL came to: a verdict, or a failure that may pass.

    A definite answer, good or bad, succeeds. What may pass fails with the verdict `down` and what was
    seen. What only we are to blame for, such as a denied address, fails without a verdict.
    """
    trail = Trail(args.url)
    failure = await _look(args, client, trail)
    if failure is None:
        return Succeeded(_result(trail, Verdict.OK, "ok", "The host answered with success."))
    if failure.is_ours:
        return failure.as_outcome()
    verdict = Verdict.DOWN if failure.transient else Verdict.BROKEN
    result = _result(trail, verdict, failure.reason, failure.explanation)
    if failure.transient:
        return failure.as_outcome(retry_after_seconds=trail.retry_after_seconds, result=result)
    return Succeeded(result)


async def _look(args: CheckArgs, client: Client, trail: Trail) -> Failure | None:
    try:
        async with asyncio.timeout(args.timeout_seconds):
            if args.method is not CheckMethod.AUTO:
                return await _ask(args, client, trail, args.method)
            return await _ask_head_then_get(args, client, trail)
    except TimeoutError:
        return timed_out(args.timeout_seconds)


async def _ask_head_then_get(args: CheckArgs, client: Client, trail: Trail) -> Failure | None:
    try:
        # Some hosts never answer a HEAD, so it gets half the time and GET is sure of the rest.
        async with asyncio.timeout(args.timeout_seconds / 2):
            failure = await _ask(args, client, trail, CheckMethod.HEAD)
    except TimeoutError:
        failure = timed_out(args.timeout_seconds / 2)
    if failure is None or failure.before_sending or _asks_us_to_wait(trail):
        return failure
    # HEAD lies in every status there is, so anything but success is worth a GET.
    return await _ask(args, client, trail, CheckMethod.GET)


def _asks_us_to_wait(trail: Trail) -> bool:
    # To ask again at once, only louder, would be the opposite of what it wants.
    return trail.status == 429 or bool(trail.retry_after_seconds)


async def _ask(args: CheckArgs, client: Client, trail: Trail, method: CheckMethod) -> Failure | None:
    question = question_of(args, client.secrets, method=method)
    if isinstance(question, Failure):
        return question
    async with final_answer(client, trail, question) as answer:
        return answer if isinstance(answer, Failure) else failure_of_status(answer.status)


def _result(trail: Trail, verdict: Verdict, reason: str, explanation: str) -> dict[str, object]:
    return CheckResult(
        verdict=verdict,
        reason=reason,
        explanation=explanation,
        status=trail.status,
        final_url=trail.url,
        hops=trail.hops,
        total_seconds=trail.total_seconds,
    ).model_dump(mode="json")
