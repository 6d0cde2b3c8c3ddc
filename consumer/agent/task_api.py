"""The agents' side of the API: pick tasks, extend leases, report ends. It decides nothing."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from shared import exact_json
from shared.errors import LeaseLost, RetrieverError
from shared.kinds.command import OutputSnapshot
from shared.kinds.task import PickOrder
from shared.outcomes import Cancelled, Failed, Succeeded

REQUEST_SECONDS = 20.0
"""How long the API may take for an answer, beside a wait that it was asked for."""

_LEASE_LOST = frozenset({404, 409, 410})
# What passes, or is the business of something between the agent and the API.
_TRY_AGAIN = frozenset({401, 403, 407, 408, 421, 425, 429})
# What the API takes.
_MAX_EXPLANATION_LENGTH = 2_000
_JSON = {"Content-Type": "application/json"}

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class ApiUnavailable(RetrieverError):
    """The API did not answer, or with something that passes; ask again later."""

    def __init__(self, said: str, *, retry_after_seconds: float | None = None) -> None:
        """Make one; `retry_after_seconds` is what the API asked for, if it did."""
        super().__init__(said)
        self.retry_after_seconds = retry_after_seconds


class RequestRefused(RetrieverError):
    """The API will not take this request, however often it is sent; the message says why."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Lease(_Answer):
    """The right to work on a task until a time; the token proves it."""

    token: str


class PickedTask(_Answer):
    """A task in hand.

    Its command is as the API sent it: one that this version cannot read fails one task, not all.
    """

    id: UUID
    attempt: int
    lease: Lease
    command: dict[str, Any] | None = None
    payload: Any = None


class Extension(_Answer):
    """A lease that was extended."""

    cancel_requested: bool = False
    """Somebody has cancelled the task: the agent is to stop, and to report that it has."""


class _Picked(_Answer):
    tasks: list[PickedTask]


class _Problem(_Answer):
    detail: str


End = Succeeded | Failed | Cancelled


class TaskApi:
    """Sends an agent's requests to one API, on connections that are kept."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """Make one; `url` is where the API serves agents."""
        self._session = session
        self._url = url.rstrip("/")

    async def pick(
        self,
        *,
        queue: str,
        agent: str,
        limit: int,
        order: PickOrder,
        wait_seconds: float,
        lease_seconds: float,
    ) -> list[PickedTask]:
        """Return up to `limit` tasks that are now this agent's; none after the wait.

        Raises:
            ApiUnavailable: no answer; tasks that were picked all the same come back when their leases end.
            RequestRefused: it takes no such pick.
        """
        request = {
            "queue": queue,
            "agent": agent,
            "max": limit,
            "order": order,
            "wait_seconds": wait_seconds,
            "lease_seconds": lease_seconds,
        }
        try:
            answer = await self._post("/tasks/pick", request, _Picked, seconds=wait_seconds + REQUEST_SECONDS)
        except LeaseLost as error:
            # There is no lease yet, so a 404 is about the address.
            raise RequestRefused(str(error)) from None
        return answer.tasks

    async def extend(
        self, task: PickedTask, *, lease_seconds: float, output: OutputSnapshot | None
    ) -> Extension:
        """Hold a task for so long from now, and show what its work has written so far.

        Raises:
            LeaseLost: it is no longer this agent's.
            ApiUnavailable: no answer; whether it was extended is not known.
            RequestRefused: it takes no such request.
        """
        request: dict[str, Any] = {"token": task.lease.token, "lease_seconds": lease_seconds}
        if output is not None:
            request["output"] = output.model_dump(mode="json")
        return await self._post(f"/tasks/{task.id}/extend", request, Extension)

    async def report(self, task: PickedTask, end: End) -> None:
        """Say how a task ended. Saying the same again changes nothing.

        Raises:
            LeaseLost: it is no longer this agent's; nothing was recorded.
            ApiUnavailable: no answer; whether it was recorded is not known.
            RequestRefused: it does not take this end.
        """
        request: dict[str, Any] = {"token": task.lease.token, **(end.result or {})}
        if isinstance(end, Failed):
            request |= {
                "transient": end.transient,
                "reason": end.reason,
                "explanation": end.explanation[:_MAX_EXPLANATION_LENGTH],
            }
        else:
            request["outcome"] = "succeeded" if isinstance(end, Succeeded) else "cancelled"
        path = "fail" if isinstance(end, Failed) else "finish"
        await self._post(f"/tasks/{task.id}/{path}", request, _Answer)

    async def _post(
        self,
        path: str,
        request: Mapping[str, Any],
        model: type[AnswerT],
        *,
        seconds: float = REQUEST_SECONDS,
    ) -> AnswerT:
        try:
            async with (
                asyncio.timeout(seconds),
                # A redirect would turn the POST into a GET.
                self._session.post(
                    f"{self._url}{path}",
                    data=exact_json.dumps(request),
                    headers=_JSON,
                    allow_redirects=False,
                ) as answer,
            ):
                body = await answer.read()
        except (aiohttp.ClientError, OSError) as error:  # A TimeoutError is an OSError.
            raise ApiUnavailable(f"{self._url} did not answer: {str(error) or 'in time'}") from error
        if answer.status == HTTPStatus.OK:
            return _read(body, model, url=self._url)
        raise _error_of(answer, body, url=self._url)


def _read(body: bytes, model: type[AnswerT], *, url: str) -> AnswerT:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise ApiUnavailable(f"{url} answered with something else than the API's JSON: {said}") from None


def _error_of(answer: aiohttp.ClientResponse, body: bytes, *, url: str) -> RetrieverError:
    try:
        detail = _Problem.model_validate_json(body).detail
    except ValidationError:
        detail = f"{answer.status} {answer.reason}"
    said = f"{url} answered {answer.status}: {detail}"
    if answer.status in _LEASE_LOST:
        return LeaseLost(said)
    if 400 <= answer.status < 500 and answer.status not in _TRY_AGAIN:
        return RequestRefused(said)
    return ApiUnavailable(said, retry_after_seconds=_retry_after(answer))


def _retry_after(answer: aiohttp.ClientResponse) -> float | None:
    # Our API says seconds; the date that RFC 9110 allows too is left to the back-off.
    written = answer.headers.get("Retry-After", "")
    return float(written) if written.isdecimal() and written.isascii() else None
