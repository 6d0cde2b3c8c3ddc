"""The messages that the relays publish: of accepted jobs, alone or several in one, and of events. Pure."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from producer.callers import wire_project
from producer.records import ClaimedEvent, ClaimedJob
from producer.run_tokens import RunTokens
from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.topology import CANCELLED_STREAM, DEFAULT, JOBS, OUTCOMES, bundle_key, stored_key
from shared.events import EventType
from shared.kinds.registry import Lane, is_bundled
from shared.messages import JOB_TYPE, JOBS_TYPE, JobMessage
from shared.times import LAST_WIRE_TIME

# Room for more than ten jobs of any usual size. A broker and a worker hold several messages in memory.
BUNDLE_BYTES = 131_072

_Encoded = tuple[ClaimedJob, bytes]
_PackedJobs = tuple[Outgoing, Sequence[ClaimedJob]]


def job_messages(jobs: Iterable[ClaimedJob], *, tokens: RunTokens, bundle_jobs: int) -> Iterator[_PackedJobs]:
    """Return the messages that ask for some jobs, each with the jobs that it carries.

    Jobs of the bulk lane share messages, each of one kind, in their order. All others come first, so that
    nobody who waits for one waits for a batch.

    Args:
        tokens: Of the store that they are in.
        bundle_jobs: How many jobs one message may carry.
    """
    bulk: dict[str, list[_Encoded]] = {}
    for job in jobs:
        if job.lane is Lane.BULK:
            bulk.setdefault(job.kind, []).append((job, _body(job, tokens)))
        else:
            yield _alone(job, _body(job, tokens))
    for kind, encoded in bulk.items():
        most = bundle_jobs if is_bundled(kind, Lane.BULK) else 1
        for group in _groups(encoded, most):
            yield _alone(*group[0]) if len(group) == 1 else _together(kind, group)


def job_message(job: ClaimedJob, *, tokens: RunTokens, attempt: int = 1) -> JobMessage:
    """Return the body of the message that asks for an attempt of the run that a stored job is in."""
    return JobMessage(
        id=job.id,
        kind=job.kind,
        lane=job.lane,
        args=dict(job.args),
        retry=job.retry,
        run=job.run,
        attempt=attempt,
        batch_id=job.batch_id,
        expires_at=_expires_at(job),
        starts_at=job.starts_at,
        token=tokens.of(job.id, job.run),
        ref=job.ref,
        project=wire_project(job.project),
        known=job.known,
        sealed=job.sealed or None,
    )


def event_message(event: ClaimedEvent) -> Outgoing:
    """Return the message of an event.

    An outcome may find no queue bound. Its message id is the job's, or the job's and the run's after a
    redrive, so it stays the same however often it is sent.
    """
    # As it was encoded when it was stored.
    body = event.body_json.encode()
    match event.type:
        case EventType.OUTCOME:
            ended = event.body
            job_id, run = ended["job_id"], ended["run"]
            message_id = job_id if run == 1 else f"{job_id}.{run}"
            key = f"{ended['kind']}.{ended['state']}"
            return Outgoing(OUTCOMES, key, body, event.type.value, job_id, message_id=message_id)
        case EventType.BATCH:
            return Outgoing(OUTCOMES, "batch.completed", body, event.type.value, message_id=event.body["id"])
        case EventType.CANCELLATION:
            return Outgoing(DEFAULT, CANCELLED_STREAM, body, event.type.value)


def _alone(job: ClaimedJob, body: bytes) -> _PackedJobs:
    return Outgoing(JOBS, stored_key(job.kind, job.lane), body, JOB_TYPE, str(job.id)), (job,)


def _together(kind: str, group: Sequence[_Encoded]) -> _PackedJobs:
    body = bundled(body for _, body in group)
    message = Outgoing(JOBS, bundle_key(kind), body, JOBS_TYPE, content_type=NDJSON)
    return message, [job for job, _ in group]


def _groups(encoded: Sequence[_Encoded], most: int) -> Iterator[Sequence[_Encoded]]:
    """Return the jobs in groups that one message may carry; a job that is too large is alone in its group."""
    first = size = 0
    for place, (_, body) in enumerate(encoded):
        size += len(body) + 1
        if place > first and (place - first == most or size > BUNDLE_BYTES):
            yield encoded[first:place]
            first, size = place, len(body) + 1
    if encoded:
        yield encoded[first:]


def _expires_at(job: ClaimedJob) -> datetime | None:
    # A deadline that no message can say, as version 0.1.0 took it from strangers, is for the scheduler alone.
    return job.deadline_at if job.deadline_at and job.deadline_at <= LAST_WIRE_TIME else None


def _body(job: ClaimedJob, tokens: RunTokens) -> bytes:
    """Return what `job_message` encodes, spliced from the JSON in the store: a tenth of the time.

    Nothing else but a ref needs an escape: kinds and lanes are lower case.
    """
    batch = f',"batch_id":"{job.batch_id}"' if job.batch_id else ""
    expires_at = _expires_at(job)
    expiry = f',"expires_at":"{expires_at.isoformat()}"' if expires_at else ""
    start = f',"starts_at":"{job.starts_at.isoformat()}"' if job.starts_at else ""
    ref = f',"ref":{json.dumps(job.ref)}' if job.ref else ""
    project = f',"project":"{job.project}"' if wire_project(job.project) else ""
    known = f',"known":{job.known.model_dump_json(exclude_none=True)}' if job.known else ""
    sealed = f',"sealed":[{",".join(each.model_dump_json() for each in job.sealed)}]' if job.sealed else ""
    return (
        f'{{"version":1,"id":"{job.id}","kind":"{job.kind}","lane":"{job.lane}","args":{job.args_json},'
        f'"retry":{job.retry_json},"run":{job.run},"attempt":1,"deferrals":0,"returns":0,'
        f'"token":"{tokens.of(job.id, job.run)}"{batch}{expiry}{start}{ref}{project}{known}{sealed}}}'
    ).encode()
