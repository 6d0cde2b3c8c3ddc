"""Store what is submitted: single jobs, batches, and jobs that came over the broker.

A new job is `accepted`, where the relay finds it, `scheduled`, where the scheduler does, or, if it is a task,
`queued`, where agents do.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import chain, islice
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

import psycopg
import sqlalchemy as sa

from producer.callers import scoped
from producer.quotas import LimitName, Limits, Room
from producer.records import (
    AdoptedJob,
    IdempotencyKey,
    NewBatch,
    NewJob,
    Rejected,
    SubmissionResult,
    SubmissionStatus,
)
from producer.store.idempotency import find_key, point_key, read_key, take_key
from producer.store.quotas import check_batch, check_counted, count_stored, limits_in_force, rooms_of
from producer.store.reuse import let_answer
from producer.store.rows import FINAL_STATES, new_job_row, stored_host
from producer.store.schema import batches, jobs, rejected_lines
from producer.store.sql import POSTGRESQL, bound_value, encode_document, insert_absent, is_one_of
from producer.store.wakeup import announce_jobs, announce_tasks, announce_tasks_where
from shared.errors import FieldError, JobInvalid, ProjectLimitReached, RetrieverError
from shared.kinds.registry import waiting_state
from shared.states import JobState, position

T = TypeVar("T")


class Adoption(NamedTuple):
    """The ids of jobs that are new in the store, and why others may not be stored."""

    stored: frozenset[UUID]
    refused: Mapping[UUID, ProjectLimitReached]


# The columns that a job shares with others of its batch, and its own values, as the driver takes them.
_Own = tuple[str, str, str, int | None, str | None, str | None, str | None, str | None, bytes | None]
_Row = tuple[Mapping[str, Any], _Own]
_Keyed = tuple[NewJob, IdempotencyKey]
_OWN = ("id", "args", "host", "line", "ref", "given_url", "same_as", "queue", "unique_key")
_common_fields = attrgetter(*(each.name for each in fields(NewJob) if each.name not in _OWN))
# One COPY is one statement, and a statement has a time limit.
_COPY_JOBS = 20_000
# One write to the socket: PostgreSQL stores these while the next are put together.
_WRITE_JOBS = 250
_CHUNK_LINES = 1_000
# Five nulls, as COPY writes them.
_NONE_GIVEN = "\\N\t\\N\t\\N\t\\N\t\\N"


def admit_jobs(connection: sa.Connection, new_jobs: Sequence[NewJob]) -> dict[UUID, SubmissionResult]:
    """Store the jobs whose idempotency key or unique key leads to no other job, and wake the relay.

    When many requests with one key, or for one thing, come at once, one is stored.

    Returns:
        By the id of the job handed in, which job answers it and why, or why its project may not store it.
    """
    if limits := limits_in_force(connection):
        return _admit_limited(connection, new_jobs, limits)
    return _admit(connection, new_jobs, {})


def _admit_limited(
    connection: sa.Connection, new_jobs: Sequence[NewJob], limits: Limits
) -> dict[UUID, SubmissionResult]:
    """Store the jobs that their projects may store. One that was there before is an answer all the same."""
    answers: dict[UUID, SubmissionResult] = {}
    for job in new_jobs:
        try:
            check_labels(job.labels, job.project, limits)
        except JobInvalid as error:
            answers[job.id] = _refused(job, error)
    rest = [job for job in new_jobs if job.id not in answers]
    rooms = rooms_of(connection, {job.project for job in rest})
    return answers | _admit(connection, rest, rooms)


def _admit(
    connection: sa.Connection, new_jobs: Sequence[NewJob], rooms: Mapping[str, Room]
) -> dict[UUID, SubmissionResult]:
    first, repeated = _by_key(new_jobs)
    # Keys are taken in order, and locks on unique keys in order after them, so that two transactions
    # cannot wait for each other.
    answers = _take_keys(connection, first, rooms)
    waiting = answers.keys() | {job.id for job, _ in repeated}
    open_jobs = [job for job in new_jobs if job.id not in waiting]
    answers |= _admit_unique(connection, (job for job in open_jobs if job.unique_for_seconds), rooms)
    plain = [job for job in open_jobs if not job.unique_for_seconds]
    if rooms:
        answers |= {
            job.id: _refused(job, error) for job in plain if (error := _take_place_without_key(job, rooms))
        }
        plain = [job for job in plain if job.id not in answers]
    insert_jobs(connection, plain)
    firsts = {_place_of(each): each[0].id for each in first}
    for job, idempotency in repeated:
        # Only now it is known which job the key leads to: a unique one may have been there before.
        of_first = answers.get(firsts[_place_of((job, idempotency))])
        if of_first is not None and of_first.refusal is not None:
            answers[job.id] = _refused(job, of_first.refusal)
        else:
            answers[job.id] = read_key(connection, idempotency).result_for(idempotency.fingerprint)
    return answers | {job.id: SubmissionResult(job.id) for job in plain}


def _take_keys(
    connection: sa.Connection, keyed: Iterable[_Keyed], rooms: Mapping[str, Room]
) -> dict[UUID, SubmissionResult]:
    """Take keys for new jobs; return the answers to those whose key was taken before, or that do not fit."""
    answers: dict[UUID, SubmissionResult] = {}
    for job, idempotency in keyed:
        if error := _take_place(job, rooms):
            # No key is taken for nothing, but what was stored with it is still the answer.
            taken = find_key(
                connection, idempotency.scope, idempotency.key, project=job.project, now=job.created_at
            )
            answers[job.id] = taken.result_for(idempotency.fingerprint) if taken else _refused(job, error)
        elif taken := take_key(connection, idempotency, job.id, now=job.created_at):
            _leave_place(job, rooms)
            answers[job.id] = taken.result_for(idempotency.fingerprint)
    return answers


def _admit_unique(
    connection: sa.Connection, unique: Iterable[NewJob], rooms: Mapping[str, Room]
) -> dict[UUID, SubmissionResult]:
    """Store those of the jobs that nobody has asked for already, and return the answers to all."""
    answers: dict[UUID, SubmissionResult] = {}
    for job in sorted(unique, key=_unique_key_of):
        if same := _find_same_job(connection, job):
            answers[job.id] = SubmissionResult(same, SubmissionStatus.DUPLICATE)
            if job.idempotency:
                _leave_place(job, rooms)
                point_key(connection, job.idempotency, same)
        elif error := _take_place_without_key(job, rooms):
            answers[job.id] = _refused(job, error)
        else:
            # At once, so that the next of this group that asks for the same finds it.
            insert_jobs(connection, [job])
            answers[job.id] = SubmissionResult(job.id)
    return answers


def _refused(job: NewJob, why: RetrieverError) -> SubmissionResult:
    return SubmissionResult(job.id, SubmissionStatus.REFUSED, refusal=why)


def _take_place_without_key(job: NewJob, rooms: Mapping[str, Room]) -> ProjectLimitReached | None:
    # A job that has taken a key has its place already.
    return None if job.idempotency else _take_place(job, rooms)


def _take_place(job: NewJob, rooms: Mapping[str, Room]) -> ProjectLimitReached | None:
    """Let a job in, or return why it does not fit."""
    if (room := rooms.get(job.project)) is None:
        return None
    if (refused := room.refusal(job.kind)) is None:
        room.take(job.kind)
    return refused


def _leave_place(job: NewJob, rooms: Mapping[str, Room]) -> None:
    if (room := rooms.get(job.project)) is not None:
        room.take(job.kind, more=-1)


def check_labels(labels: Mapping[str, str], project: str, limits: Limits) -> None:
    """Do nothing if a project may put so many labels on one thing.

    Raises:
        JobInvalid: it may not.
    """
    most = limits.of(project).get(LimitName.LABELS)
    if most is not None and len(labels) > most:
        msg = f"There are {len(labels)}, and the project {project} may put {most} on one ({LimitName.LABELS})"
        raise JobInvalid([FieldError("/labels", msg)])


def insert_jobs(connection: sa.Connection, new_jobs: Sequence[NewJob]) -> None:
    """Store the jobs. One that is stored already is left as it is, so a caller in doubt calls again."""
    if not new_jobs:
        return
    rows = [new_job_row(job, batch_id=job.batch_id) for job in new_jobs]
    insert = insert_absent(connection, jobs)
    if limits_in_force(connection).counted(job.project for job in new_jobs):
        new = connection.execute(insert.returning(jobs.c.project, jobs.c.kind), rows).all()
        count_stored(connection, Counter((project, kind) for project, kind in new))
    else:
        connection.execute(insert, rows)
    picked = (job for job in new_jobs if job.state is JobState.QUEUED and job.queue is not None)
    announce_tasks(connection, (scoped(job.queue or "", job.project) for job in picked))
    if any(job.queue is None for job in new_jobs):
        announce_jobs(connection)


def insert_batch(
    connection: sa.Connection,
    batch: NewBatch,
    new_jobs: Iterable[NewJob],
    rejected: Iterable[Rejected] = (),
    *,
    jobs_wanted: int = 1,
) -> SubmissionResult:
    """Store a batch, its jobs and those of its rejected lines that are kept, unless its key leads to a batch.

    Reads both a chunk at a time, the jobs first. SQLite has no other writer until the last is read, so
    neither may wait for a network. When reading raises, nothing is stored.

    Args:
        jobs_wanted: How many jobs there will be, as far as is known: what cannot fit is not even begun.

    Raises:
        ProjectLimitReached: its project may not store it.
        JobInvalid: its project may not put so many labels on one.
    """
    if (idempotency := batch.idempotency) and (
        taken := take_key(connection, idempotency, batch.id, now=batch.created_at)
    ):
        return taken.result_for(idempotency.fingerprint)
    if limits := limits_in_force(connection):
        check_labels(batch.labels, batch.project, limits)
        check_batch(connection, batch.project, batch.kind, jobs_wanted=jobs_wanted)
    connection.execute(
        batches.insert().values(
            id=batch.id,
            kind=batch.kind,
            total=0,
            labels=batch.labels,
            schedule_id=batch.schedule_id,
            project=batch.project,
            repeats=batch.repeats,
            callback_url=batch.callback_url,
            callback_events=batch.callback_events,
            created_at=batch.created_at,
            current_mark_at=batch.created_at,
            current_mark_ended=0,
        )
    )
    counts = _insert_many(connection, new_jobs, batch_id=batch.id)
    if batch.reuses:
        let_answer(connection, batch.id)
    finished_at = None if counts else batch.created_at
    kept = _insert_rejected(connection, batch.id, rejected)
    # Who counted none has kept all.
    rejections = {"rejected": max(kept, batch.rejected), "rejected_kept": kept}
    connection.execute(
        batches.update()
        .where(batches.c.id == batch.id)
        .values(total=counts.total(), finished_at=finished_at, **rejections, **counts)
    )
    if waiting_state(batch.kind) is JobState.QUEUED:
        announce_tasks_where(connection, jobs.c.batch_id == batch.id)
    else:
        announce_jobs(connection)
    check_counted(
        connection, batch.project, batch.kind, stored=counts.total(), is_unfinished=finished_at is None
    )
    return SubmissionResult(batch.id)


def insert_adopted(connection: sa.Connection, adopted: Iterable[AdoptedJob]) -> frozenset[UUID]:
    """Store jobs that came over the broker as queued, and return the ids of those that were new."""
    # In the order of their ids, so that two transactions that store the same jobs cannot deadlock.
    rows = [_adopted_row(each) for each in sorted(adopted, key=lambda each: each.job.id)]
    if not rows:
        return frozenset()
    new = insert_absent(connection, jobs).returning(jobs.c.id, jobs.c.project, jobs.c.kind)
    stored = connection.execute(new, rows).all()
    count_stored(connection, Counter((project, kind) for _, project, kind in stored))
    return frozenset(job_id for job_id, *_ in stored)


def adopt_fitting(connection: sa.Connection, adopted: Sequence[AdoptedJob]) -> Adoption:
    """Store jobs that came over the broker, but those that their projects may not store."""
    rooms = rooms_of(connection, {each.job.project for each in adopted})
    if not rooms:
        return Adoption(insert_adopted(connection, adopted), {})
    ids = [each.job.id for each in adopted if each.job.project in rooms]
    there = set(connection.scalars(sa.select(jobs.c.id).where(is_one_of(connection, jobs.c.id, ids))))
    # In their order, so that it is not by chance which fit.
    refused = {
        each.job.id: error
        for each in sorted(adopted, key=lambda each: each.job.id)
        if each.job.id not in there and (error := _take_place(each.job, rooms))
    }
    return Adoption(
        insert_adopted(connection, (each for each in adopted if each.job.id not in refused)), refused
    )


def _find_same_job(connection: sa.Connection, job: NewJob) -> UUID | None:
    """Return the newest job that asks for the same and is unfinished, or recent enough.

    It is of the same project: the keys of two projects are never the same. Until the transaction ends nobody
    else looks for the same thing.
    """
    if job.unique_key is None or job.unique_for_seconds is None:
        return None
    if connection.dialect.name == POSTGRESQL:
        number = int.from_bytes(job.unique_key[:8], signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
    since = job.created_at - timedelta(seconds=job.unique_for_seconds)
    recent = sa.or_(jobs.c.created_at > since, jobs.c.finished_at > since, jobs.c.state.not_in(FINAL_STATES))
    query = (
        sa.select(jobs.c.id)
        # Those of batches have a key only to give their answers to other batches.
        .where(jobs.c.unique_key == job.unique_key, jobs.c.batch_id.is_(None), recent)
        .order_by(jobs.c.id.desc())
        .limit(1)
    )
    return connection.scalar(query)


def _insert_many(connection: sa.Connection, new_jobs: Iterable[NewJob], *, batch_id: UUID) -> Counter[str]:
    """Store the jobs of a batch, and return how many are in each state. Reads them while it writes."""
    counts: Counter[str] = Counter()
    insert = _copy if connection.dialect.name == POSTGRESQL else _insert
    for part in _parts(_rows(connection, new_jobs, batch_id, counts), _COPY_JOBS):
        insert(connection, part)
    return counts


def _insert_rejected(connection: sa.Connection, batch_id: UUID, rejected: Iterable[Rejected]) -> int:
    """Store the rejected lines of a batch, read a chunk at a time; return how many there were."""
    remaining, count = iter(rejected), 0
    while chunk := list(islice(remaining, _CHUNK_LINES)):
        rows = [
            {
                "batch_id": batch_id,
                "number": each.number,
                "loc": each.loc,
                "msg": each.msg,
                "ref": each.ref,
                "given": each.given,
            }
            for each in chunk
        ]
        connection.execute(rejected_lines.insert(), rows)
        count += len(chunk)
    return count


def _by_key(new_jobs: Iterable[NewJob]) -> tuple[list[_Keyed], list[_Keyed]]:
    """Return the jobs with an idempotency key in the order of their keys: the first of each, and the rest."""
    keyed = [(job, job.idempotency) for job in new_jobs if job.idempotency]
    first: dict[tuple[str, str], _Keyed] = {}
    for each in keyed:
        first.setdefault(_place_of(each), each)
    rest = [each for each in keyed if each is not first[_place_of(each)]]
    return [first[place] for place in sorted(first)], rest


def _place_of(keyed: _Keyed) -> tuple[str, str]:
    return keyed[1].project, keyed[1].key


def _unique_key_of(job: NewJob) -> bytes:
    return job.unique_key or b""


def _adopted_row(adopted: AdoptedJob) -> dict[str, Any]:
    return {
        **new_job_row(adopted.job, batch_id=None),
        "state": JobState.QUEUED,
        "run": adopted.run,
        "attempt": adopted.attempt,
        # Whoever published it has no token of this run; later ones are ours.
        "token_from_run": adopted.run + 1,
        "position": position(run=adopted.run, attempt=adopted.attempt, state=JobState.QUEUED),
    }


def _rows(
    connection: sa.Connection, new_jobs: Iterable[NewJob], batch_id: UUID, counts: Counter[str]
) -> Iterator[_Row]:
    # Those that repeat others are due at another time than these.
    commons: dict[datetime | None, tuple[Any, Mapping[str, Any]]] = {}
    dialect = connection.dialect
    for job in new_jobs:
        common_to, common = commons.get(job.due_at, (None, {}))
        if (these := _common_fields(job)) != common_to:
            row = new_job_row(job, batch_id=batch_id)
            common = {name: bound_value(row[name], dialect) for name in row if name not in _OWN}
            commons[job.due_at] = these, common
        counts[common["state"]] += 1
        host = bound_value(stored_host(job.host), dialect)
        ref = None if job.ref is None else bound_value(job.ref, dialect)
        given_url = None if job.given_url is None else bound_value(job.given_url, dialect)
        same_as = None if job.same_as is None else job.same_as.hex
        args = encode_document(job.args)
        given = ref, given_url, same_as, job.queue, job.unique_key
        yield common, (job.id.hex, args, host, job.line, *given)


def _copy(connection: sa.Connection, rows: Iterator[_Row]) -> None:
    first = next(rows)
    columns = ", ".join((*first[0], *_OWN))
    lines = _copy_lines(chain([first], rows))
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    with driver.cursor() as cursor, cursor.copy(f"COPY jobs ({columns}) FROM STDIN") as copy:
        for part in _parts(lines, _WRITE_JOBS):
            copy.write("".join(part))


def _copy_lines(rows: Iterable[_Row]) -> Iterator[str]:
    text, text_of = "", None
    for common, own in rows:
        if common is not text_of:
            text, text_of = "\t".join(map(_copy_text, common.values())), common
        job_id, args, host, line, *given = own
        number = r"\N" if line is None else line
        last = "\t".join(map(_copy_text, given)) if any(given) else _NONE_GIVEN
        yield f"{text}\t{job_id}\t{_copy_text(args)}\t{_copy_text(host)}\t{number}\t{last}\n"


def _copy_text(value: object) -> str:
    """Return a value in COPY's text format (https://www.postgresql.org/docs/17/sql-copy.html)."""
    if value is None:
        return r"\N"
    text = rf"\x{value.hex()}" if isinstance(value, bytes) else str(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _insert(connection: sa.Connection, rows: Iterator[_Row]) -> None:
    first = next(rows)
    columns = (*first[0], *_OWN)
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of ours
    for part in _parts(chain([first], rows), _WRITE_JOBS):
        connection.exec_driver_sql(statement, [(*common.values(), *own) for common, own in part])


def _parts(items: Iterable[T], size: int) -> Iterator[Iterator[T]]:
    """Cut items into parts, each to be read to its end before the next is asked for."""
    remaining = iter(items)
    for first in remaining:
        yield chain([first], islice(remaining, size - 1))
