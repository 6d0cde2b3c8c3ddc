"""A success put together as JSON says what the model says."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.executor import Attempt
from consumer.settlement import Finish, encode_success, settlement_message
from shared.bodies import StoredBody
from shared.broker.bundle import bodies_of
from shared.kinds.check import Family
from shared.kinds.registry import Lane
from shared.messages import JobMessage, KnownCopy, Report
from shared.outcomes import Failed, Outcome, Succeeded
from shared.retry import RetryPolicy

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
JOBS = st.builds(
    JobMessage,
    id=st.uuids(),
    kind=st.sampled_from(["check", "fetch"]),
    lane=st.sampled_from(Lane),
    args=st.dictionaries(st.text(), JSON, max_size=3),
    retry=st.just(RetryPolicy(max_attempts=3)),
    run=st.integers(1, 9),
    attempt=st.integers(1, 9),
    batch_id=st.none() | st.uuids(),
    expires_at=st.just(NOON),
    token=st.none() | st.just("0" * 32),
    deferrals=st.integers(0, 9),
    returns=st.integers(0, 9),
    turn_at=st.none() | st.just(NOON),
    known=st.none() | st.just(KnownCopy(job_id=uuid.UUID(int=7), etag='"1"')),
    report=st.none(),
)


def job(**fields: Any) -> JobMessage:
    args = {"url": "http://example.com/"}
    return JobMessage(id=uuid.uuid4(), kind="check", lane=Lane.BULK, args=args, **fields)


def attempt(outcome: Outcome) -> Attempt:
    return Attempt(NOON, NOON + timedelta(microseconds=1_234_567), outcome)


def body_of(told: JobMessage, outcome: Outcome, message: bytes | None = None) -> bytes | None:
    return encode_success(told, attempt(outcome), worker="w", message=message or told.encode())


@given(told=JOBS, result=st.dictionaries(st.text(), JSON, max_size=4))
def test_a_success_is_read_as_what_the_model_writes_is(told: JobMessage, result: dict[str, Any]) -> None:
    done = attempt(Succeeded(result))
    quick = settlement_message(told, done, Finish(), worker="w", message=told.encode())
    slow = settlement_message(told, done, Finish(), worker="w")

    assert Report.decode(quick.body) == Report.decode(slow.body)
    assert quick._replace(body=b"") == slow._replace(body=b"")
    assert json.loads(quick.body).keys() == json.loads(slow.body).keys()
    assert bodies_of(quick.body) == [quick.body]


def test_words_of_ours_are_written_as_their_values() -> None:
    body = body_of(job(), Succeeded({"family": Family.IPV4}))

    assert body is not None
    assert json.loads(body)["result"] == {"family": "ipv4"}


@pytest.mark.parametrize(
    "outcome",
    [
        Failed("http_503", "down", transient=True),
        Succeeded({}, body=StoredBody(size=1, sha256="0" * 64, content=b"x")),
        Succeeded({"number": 2**64}),
        Succeeded({"text": "\ud800"}),
    ],
)
def test_what_is_not_plain_is_left_to_the_model(outcome: Outcome) -> None:
    assert body_of(job(), outcome) is None


def test_a_message_with_line_breaks_or_with_much_that_nobody_reads_is_not_passed_on() -> None:
    told = job()
    padded = told.encode()[:-1] + b',"unread":"' + b"x" * 65_536 + b'"}'

    for message in (told.model_dump_json(indent=1).encode(), padded):
        assert JobMessage.decode(message) == told
        assert body_of(told, Succeeded({}), message) is None


def test_a_copy_that_carries_a_report_is_not_passed_on() -> None:
    first = job()
    report = Report.decode(body_of(first, Succeeded({})) or b"")

    assert body_of(first.model_copy(update={"report": report}), Succeeded({})) is None
