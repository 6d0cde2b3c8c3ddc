"""Requests with an Idempotency-Key: each is answered again as it was the first time, word for word.

A key is looked up before anything is checked that depends on the time: a deadline may have passed since.
Only what was stored is kept; a request that was refused may be sent again with the same key.
"""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from producer.api.requests import read_caller, read_idempotency_key
from producer.api.responses import json_response
from producer.records import IdempotencyKey, KeptAnswer, KeyScope, SubmissionResult, SubmissionStatus
from producer.store import idempotency
from producer.store.database import Connection, Store
from shared.clock import utc_now
from shared.errors import IdempotencyConflict

REPLAYED_HEADER = "Idempotent-Replayed"
_KEPT = timedelta(hours=24)


def request_key(request: Request, scope: KeyScope, *said: bytes) -> IdempotencyKey | None:
    """Return the Idempotency-Key of a request with what it says, or None when it has none.

    Raises:
        HttpProblem: 400: the key is not valid.
    """
    if (key := read_idempotency_key(request)) is None:
        return None
    fingerprint = hashlib.sha256(b"\n".join(said)).digest()
    return key_of(scope, key, fingerprint, project=read_caller(request).home)


def key_of(scope: KeyScope, key: str, fingerprint: bytes, *, project: str) -> IdempotencyKey:
    """Return a key of a project that is kept for a day, for a request with this fingerprint."""
    return IdempotencyKey(scope, key, fingerprint, utc_now() + _KEPT, project=project)


async def find_replay(store: Store, key: IdempotencyKey | None) -> Response | None:
    """Return what the request was answered before; None when it is new, or its answer was not kept.

    Raises:
        IdempotencyConflict: the key was sent with another request.
    """
    if key is None:
        return None
    taken = await store.read(idempotency.find_key, key.scope, key.key, project=key.project, now=utc_now())
    return replay(taken.result_for(key.fingerprint)) if taken else None


def make_once(
    connection: Connection,
    key: IdempotencyKey | None,
    resource_id: UUID,
    make: Callable[[Connection], KeptAnswer],
) -> SubmissionResult:
    """Make what a request asks for and keep the answer; or make nothing, when the key is taken."""
    if key and (taken := idempotency.take_key(connection, key, resource_id, now=utc_now())):
        return taken.result_for(key.fingerprint)
    answer = make(connection)
    if key:
        idempotency.keep_answer(connection, key, answer)
    return SubmissionResult(resource_id, answer=answer)


def answer_of(result: SubmissionResult) -> Response:
    """Return the answer that comes with what was made once.

    Raises:
        IdempotencyConflict: the key was sent with another request.
    """
    if result.status is SubmissionStatus.STORED and result.answer:
        return respond(result.answer)
    response = replay(result)
    # Every key of these scopes was taken together with its answer.
    assert response is not None
    return response


def replay(result: SubmissionResult) -> Response | None:
    """Return the answer that was kept with a key that is taken; None when there is none.

    Raises:
        IdempotencyConflict: the key was sent with another request.
    """
    if result.status is SubmissionStatus.CONFLICT:
        raise IdempotencyConflict(f"the key was used for {result.id}")
    return respond(result.answer, is_replay=True) if result.answer else None


def respond(answer: KeptAnswer, *, is_replay: bool = False) -> Response:
    """Return an answer as it goes out."""
    headers = {"Location": answer.location, **({REPLAYED_HEADER: "true"} if is_replay else {})}
    return json_response(answer.body, HTTPStatus(answer.status), headers)
