"""The messages that ask for accepted jobs: one for each job, or for several of the bulk lane. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from producer.ledger.outbox import Packed
from producer.records import ClaimedJob
from shared.broker.bundle import NDJSON, bundled
from shared.broker.outgoing import Outgoing
from shared.broker.topology import JOBS, bundle_key, stored_key
from shared.kinds.registry import Lane, is_bundled
from shared.messages import JOB_TYPE, JOBS_TYPE, JobMessage

# Of one message, more than ten jobs of any usual size: a broker and a worker hold several in memory.
BUNDLE_BYTES = 131_072

_Encoded = tuple[ClaimedJob, bytes]


def relayed_messages(jobs: Iterable[ClaimedJob], *, bundle_jobs: int) -> Iterator[Packed[ClaimedJob]]:
    """Return what to publish of some jobs, and which of them each message asks for.

    Jobs of the bulk lane share messages, each of one kind, in the order they have. All others come first, so
    that nobody who waits for one waits for a batch.

    Args:
        bundle_jobs: How many one message may carry.
    """
    bulk: dict[str, list[_Encoded]] = {}
    for job in jobs:
        if job.lane is Lane.BULK:
            bulk.setdefault(job.kind, []).append((job, _body(job)))
        else:
            yield _alone(job, _body(job))
    for kind, encoded in bulk.items():
        most = bundle_jobs if is_bundled(kind, Lane.BULK) else 1
        for group in _groups(encoded, most):
            yield _alone(*group[0]) if len(group) == 1 else _together(kind, group)


def job_message(job: ClaimedJob, *, attempt: int = 1) -> JobMessage:
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
        expires_at=job.deadline_at,
        known=job.known,
    )


def _alone(job: ClaimedJob, body: bytes) -> Packed[ClaimedJob]:
    return Outgoing(JOBS, stored_key(job.kind, job.lane), body, JOB_TYPE, str(job.id)), (job,)


def _together(kind: str, group: Sequence[_Encoded]) -> Packed[ClaimedJob]:
    body = bundled(body for _, body in group)
    message = Outgoing(JOBS, bundle_key(kind), body, JOBS_TYPE, content_type=NDJSON)
    return message, [job for job, _ in group]


def _groups(encoded: Sequence[_Encoded], most: int) -> Iterator[Sequence[_Encoded]]:
    """Return the jobs in groups that one message may carry; one that is too large is a group of its own."""
    first = size = 0
    for place, (_, body) in enumerate(encoded):
        size += len(body) + 1
        if place > first and (place - first == most or size > BUNDLE_BYTES):
            yield encoded[first:place]
            first, size = place, len(body) + 1
    if encoded:
        yield encoded[first:]


def _body(job: ClaimedJob) -> bytes:
    """Return what `job_message` encodes, put together of what is stored as JSON: a tenth of the time.

    Nothing else of it needs an escape: kinds and lanes are written in lower case.
    """
    batch = f',"batch_id":"{job.batch_id}"' if job.batch_id else ""
    expiry = f',"expires_at":"{job.deadline_at.isoformat()}"' if job.deadline_at else ""
    known = f',"known":{job.known.model_dump_json(exclude_none=True)}' if job.known else ""
    return (
        f'{{"version":1,"id":"{job.id}","kind":"{job.kind}","lane":"{job.lane}","args":{job.args_json},'
        f'"retry":{job.retry_json},"run":{job.run},"attempt":1,"deferrals":0,"returns":0{batch}{expiry}{known}}}'
    ).encode()
