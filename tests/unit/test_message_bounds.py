"""Numbers, times and texts of messages have bounds, so that nothing that is done with them later can fail."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.errors import MessageUndecodable
from shared.events import Cancellation, PauseSnapshot
from shared.messages import MAX_RUN, JobMessage, Report, WireMessage
from shared.retry import DAY_SECONDS
from shared.states import JobState
from tests.support.factories import make_report

JOB: dict[str, Any] = {"id": str(uuid.uuid4()), "kind": "check", "args": {}}
REPORT: dict[str, Any] = {
    "job_id": str(uuid.uuid4()),
    "kind": "check",
    "run": 1,
    "attempt": 1,
    "state": "succeeded",
    "worker": "w",
}
HOSTILE_TIMES = [
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00",
    "1969-12-31T23:59:59Z",
    "2200-01-01T00:00:01Z",
    "2026-12-01",
    "2026-12-01T12:00:00",
    "20261201",
    "5",
    5,
    1.5e9,
    True,
    "2026-12-01T12:00:00Z\n",
    "2026-02-30T12:00:00Z",
]
HOSTILE_COUNTS = [-1, 10**7, 2**31, 2**63, 10**30, 1.5, "x", None]


def decode(model: type[WireMessage], document: dict[str, Any], **said: Any) -> WireMessage:
    return model.decode(json.dumps({**document, **said}).encode())


@pytest.mark.parametrize("at", HOSTILE_TIMES)
@pytest.mark.parametrize(
    ("model", "document", "name"),
    [
        (JobMessage, JOB, "expires_at"),
        (JobMessage, JOB, "turn_at"),
        (Report, REPORT, "started_at"),
        (Report, REPORT, "ended_at"),
        (Report, REPORT, "due_at"),
    ],
)
def test_a_time_that_no_clock_of_ours_shows_is_refused_by_name(
    model: type[WireMessage], document: dict[str, Any], name: str, at: object
) -> None:
    with pytest.raises(MessageUndecodable, match=name):
        decode(model, document, **{name: at})


@pytest.mark.parametrize("at", ["2026-12-01T12:00:00Z", "2026-12-01t12:00:00.123456789+14:00"])
def test_a_time_of_rfc_3339_is_taken_and_every_wait_can_be_added_to_it(at: str) -> None:
    expires_at = JobMessage.decode(json.dumps({**JOB, "expires_at": at}).encode()).expires_at

    assert expires_at is not None
    assert (expires_at + timedelta(seconds=DAY_SECONDS)).astimezone(UTC) > datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize("count", HOSTILE_COUNTS)
@pytest.mark.parametrize(
    ("model", "document", "name"),
    [
        (JobMessage, JOB, "run"),
        (JobMessage, JOB, "attempt"),
        (JobMessage, JOB, "deferrals"),
        (JobMessage, JOB, "returns"),
        (Report, REPORT, "run"),
        (Report, REPORT, "attempt"),
        (Cancellation, {}, "run"),
    ],
)
def test_a_number_beyond_its_bounds_is_refused_by_name(
    model: type[WireMessage], document: dict[str, Any], name: str, count: object
) -> None:
    if count is None and model is Cancellation:
        return
    with pytest.raises(MessageUndecodable, match=name):
        decode(model, document, **{name: count})


@pytest.mark.parametrize(
    ("model", "document", "said"),
    [
        (Report, REPORT, {"wait_seconds": -1}),
        (Report, REPORT, {"wait_seconds": 1e300}),
        (Report, REPORT, {"wait_seconds": float("inf")}),
        (Report, REPORT, {"wait_seconds": float("nan")}),
        (Report, REPORT, {"reason": "x" * 1_001}),
        (Report, REPORT, {"explanation": "x" * 20_001}),
        (Report, REPORT, {"worker": "x" * 1_001}),
        (Report, REPORT, {"output": {"sequence": 10**16}}),
        (Report, REPORT, {"output": {"sequence": 1, "stdout": {"text": "x" * 131_073}}}),
        (Report, REPORT, {"output": {"sequence": 1, "stderr": {"bytes": 10**16}}}),
        (JobMessage, JOB, {"kind": "check\n"}),
        (JobMessage, JOB, {"token": "x" * 201}),
        (JobMessage, JOB, {"retry": {"max_attempts": 10**9}}),
        (JobMessage, JOB, {"retry": {"first_delay_seconds": float("nan")}}),
        (PauseSnapshot, {}, {"revision": 10**16}),
        (PauseSnapshot, {}, {"pauses": [{"kind": "x" * 101, "lane": "*"}]}),
    ],
)
def test_whatever_is_longer_or_larger_than_we_write_is_refused(
    model: type[WireMessage], document: dict[str, Any], said: dict[str, Any]
) -> None:
    with pytest.raises(MessageUndecodable):
        decode(model, document, **said)


def test_a_run_that_the_version_before_began_beyond_the_last_can_be_read() -> None:
    assert JobMessage.decode(json.dumps({**JOB, "run": MAX_RUN + 1}).encode()).run == MAX_RUN + 1


@pytest.mark.parametrize("depth", range(190, 205))
def test_a_job_is_read_only_if_its_report_could_be(depth: int) -> None:
    args = b'{"url":"http://a.example/","json":' + b"[" * depth + b"]" * depth + b"}"
    body = b'{"id":"01a00000-0000-7000-8000-000000000000","kind":"check","args":%b}' % args
    try:
        job = JobMessage.decode(body)
    except MessageUndecodable:
        assert depth > 195
        return

    report = make_report(job.id, JobState.SUCCEEDED).model_copy(update={"job": job})

    assert Report.decode(report.encode()).job is not None
    copy = job.model_copy(update={"report": report.model_copy(update={"job": None})})
    assert JobMessage.decode(copy.encode()).id == job.id


def test_a_job_of_many_values_side_by_side_is_read() -> None:
    body = b'{"id":"01a00000-0000-7000-8000-000000000000","kind":"check","args":{"a":[%b]}}'

    assert len(JobMessage.decode(body % b",".join([b"{}"] * 1_000)).args["a"]) == 1_000
