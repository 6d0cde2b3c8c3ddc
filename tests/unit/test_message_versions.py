"""Messages as the version before writes them are understood, and those of a version to come are not mistaken.

`tests/data/messages` has what version 0.1.0 writes, and in files of their own what later versions add:
`job_with_token`, `job_with_ref`, `job_with_project`, `delayed_with_publisher`, `outcome_with_ref`,
`outcome_with_project`, `batch_with_project`, `job_with_secret`, `parked_with_sealed_args`,
`running_with_output`, `put_off`, `delayed_with_asked` and `job_with_time` since 0.2.0. All stay.
`bundles` has messages of several jobs or reports.
"""

import json
import logging
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consumer.control_streams import Cancellations, CurrentPauses
from producer.ledger.reports import parse_delivery
from shared.broker.bundle import bodies_of, bundled
from shared.errors import MessageUndecodable
from shared.events import BatchCompleted, Cancellation, JobEnded, PauseSnapshot
from shared.kinds.registry import Lane
from shared.messages import Job, JobMessage, Report, WireMessage

FOLDER = Path(__file__).resolve().parents[1] / "data" / "messages"
MODELS: dict[str, type[WireMessage]] = {
    "job": JobMessage,
    "report": Report,
    "outcome": JobEnded,
    "batch": BatchCompleted,
    "cancellation": Cancellation,
    "pauses": PauseSnapshot,
}
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
JOB_ID = uuid.UUID("01a203f7-2316-7400-922d-0a315fe2b95f")
BATCH_ID = uuid.UUID("01a203f7-2327-7509-9f78-e075602b9162")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@dataclass
class Recorded:
    """A message that was recorded, as a reader gets it."""

    exchange: str
    routing_key: str
    type: str
    document: dict[str, Any]
    correlation_id: str = ""
    headers: dict[str, object] = field(default_factory=dict)
    user_id: str | None = None

    @property
    def body(self) -> bytes:
        return json.dumps(self.document).encode()


def recorded(name: str) -> Recorded:
    message = json.loads((FOLDER / f"{name}.json").read_text())
    return Recorded(document=message.pop("body"), **message)


def newer(document: dict[str, Any]) -> bytes:
    return json.dumps({**document, "version": 2}).encode()


def missing(said: Any, understood: Any, place: str = "") -> list[str]:
    """Return the places of what was said and not understood."""
    if isinstance(said, dict) and isinstance(understood, dict):
        return [
            lost for name in said for lost in missing(said[name], understood.get(name), f"{place}/{name}")
        ]
    return [] if said == understood else [place]


def test_there_is_a_message_of_each_sort_and_each_field_is_in_one() -> None:
    fields: dict[str, set[str]] = {type_: set() for type_ in MODELS}
    for message in map(recorded, NAMES):
        fields[message.type] |= set(message.document)
        # A copy that waits or is parked brings its report.
        fields["report"] |= set(message.document.get("report", ()))

    assert fields == {type_: set(model.model_fields) for type_, model in MODELS.items()}


@pytest.mark.parametrize("name", NAMES)
def test_all_that_a_message_of_the_version_before_says_is_understood(name: str) -> None:
    message = recorded(name)

    understood = MODELS[message.type].decode(message.body)

    assert missing(message.document, json.loads(understood.encode())) == []


@pytest.mark.parametrize(
    ("name", "state", "attempt", "asks_for"),
    [
        ("delayed", "delayed", 1, 1),
        ("deferred", "delayed", 1, 1),
        ("put_off", "delayed", 0, 1),
        ("parked", "parked", 4, 4),
        ("running", "running", 1, 1),
        ("running_with_output", "running", 1, 1),
        ("succeeded", "succeeded", 2, 2),
        ("cancelled", "cancelled", 1, 1),
        ("large", "succeeded", 1, 1),
        ("page", "succeeded", 1, 1),
    ],
)
def test_the_recorder_hears_what_a_worker_of_the_version_before_says(
    name: str, state: str, attempt: int, asks_for: int
) -> None:
    (parsed,) = parse_delivery(recorded(name), now=NOON).reports

    assert parsed.report is not None and parsed.job is not None
    report, job = parsed.report, parsed.job
    assert (report.job_id, report.run, report.state, report.attempt) == (JOB_ID, 2, state, attempt)
    assert (job.id, job.lane, job.attempt, job.batch_id) == (JOB_ID, Lane.BULK, asks_for, BATCH_ID)
    assert report.is_deferral is (name in {"deferred", "put_off"})
    assert (report.body is not None, report.page is not None) == (name == "large", name == "page")
    assert (report.output is not None) == (name == "running_with_output")


@pytest.mark.parametrize("name", ["jobs", "reports"])
def test_all_that_a_message_of_several_says_is_understood_line_by_line(name: str) -> None:
    message = json.loads((FOLDER / "bundles" / f"{name}.json").read_text())
    body = bundled(json.dumps(line).encode() for line in message["lines"])

    understood = [MODELS[message["type"].removesuffix("s")].decode(line) for line in bodies_of(body)]

    assert len(understood) == 2
    for said, model in zip(message["lines"], understood, strict=True):
        assert missing(said, json.loads(model.encode())) == []


def test_a_worker_knows_what_a_copy_of_the_version_before_asks_for() -> None:
    job, deferred = (JobMessage.decode(recorded(name).body) for name in ("job", "deferred"))

    assert (job.args, job.retry.max_attempts) == ({"url": "https://example.com/", "if_changed": True}, 4)
    assert job.known is not None and job.known.etag == '"v1"'
    assert (deferred.attempt, deferred.deferrals, deferred.returns) == (2, 1, 0)
    assert deferred.turn_at is not None and deferred.turn_at - job_started() == timedelta(seconds=3.205)


def job_started() -> datetime:
    return datetime(2026, 11, 22, 15, 54, 17, 824_466, tzinfo=UTC)


@pytest.mark.parametrize("name", NAMES)
def test_a_message_of_a_version_to_come_is_not_mistaken_for_one_of_ours(name: str) -> None:
    message = recorded(name)

    with pytest.raises(MessageUndecodable, match="version"):
        MODELS[message.type].decode(newer(message.document))


def test_a_field_of_a_version_to_come_is_ignored() -> None:
    document = {**recorded("job").document, "mood": "good"}

    assert Job.decode(json.dumps(document).encode()).id == JOB_ID


def test_a_worker_passes_over_newer_cancellations_and_hears_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cancellations = Cancellations("amqp://nowhere/", name="test")
    job, batch = recorded("cancellation"), recorded("batch_cancellation")

    with caplog.at_level(logging.WARNING):
        cancellations.take(newer(batch.document))
        cancellations.take(job.body)

    ours = JobMessage.decode(recorded("job").body)
    assert cancellations.has(ours)
    assert not cancellations.has(ours.model_copy(update={"id": uuid.uuid4()}))
    assert [entry.message for entry in caplog.records] == ["cancellation_undecodable"]
    cancellations.take(batch.body)
    assert cancellations.has(ours.model_copy(update={"id": uuid.uuid4(), "run": 1}))


def test_a_worker_passes_over_newer_pauses_and_hears_the_next(caplog: pytest.LogCaptureFixture) -> None:
    pauses = CurrentPauses("amqp://nowhere/", name="test")
    snapshot = recorded("pauses")

    with caplog.at_level(logging.WARNING):
        pauses.take(newer({**snapshot.document, "revision": 99, "pauses": []}))
        pauses.take(snapshot.body)

    # The revision of the one that was passed over counts for nothing.
    assert pauses.cover("fetch", Lane.INTERACTIVE) and pauses.cover("check", Lane.BULK)
    assert not pauses.cover("check", Lane.INTERACTIVE)
    assert [entry.message for entry in caplog.records] == ["pauses_undecodable"]
