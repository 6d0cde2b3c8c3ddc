"""What commands and tasks have written: while an attempt runs its last snapshot, then what its result has."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from pydantic import ValidationError

from producer.records import JobOutput
from producer.store.projects import visible
from producer.store.schema import attempts, jobs, outputs
from producer.store.sql import upsert
from shared.errors import JobNotFound, OutputNotFound
from shared.kinds.command import OutputSnapshot, OutputText
from shared.kinds.registry import KINDS
from shared.states import JobState

_STREAMS: Final = ("stdout", "stderr")
HAVE_OUTPUT: Final = frozenset(
    name for name, kind in KINDS.items() if kind.result_model.model_fields.keys() >= set(_STREAMS)
)
"""The kinds whose attempts write output."""

# Of two snapshots of a job, the later has the greater of these.
_ORDER = (outputs.c.run, outputs.c.attempt, outputs.c.sequence)
_COLUMNS = (
    *(jobs.c[name] for name in ("kind", "state", "run", "attempt", "result", "updated_at")),
    *(outputs.c[name].label(f"live_{name}") for name in ("run", "attempt", "output", "updated_at")),
    attempts.c.ended_at,
)


def keep_output(
    connection: sa.Connection,
    job_id: UUID,
    run: int,
    attempt: int,
    snapshot: OutputSnapshot,
    *,
    now: datetime,
) -> None:
    """Keep what a running attempt has written so far, unless a later snapshot is kept already.

    The job must be locked, and running this attempt. An earlier attempt's snapshot is replaced.
    """
    row = {
        "job_id": job_id,
        "run": run,
        "attempt": attempt,
        "sequence": snapshot.sequence,
        "output": snapshot.model_dump(mode="json", exclude={"sequence"}, exclude_defaults=True),
        "updated_at": now,
    }
    later = upsert(
        connection.dialect.name,
        outputs,
        where=lambda new: sa.tuple_(*_ORDER) < sa.tuple_(*(new[column.name] for column in _ORDER)),
    )
    connection.execute(later, row)


def forget_outputs(connection: sa.Connection, ended: Mapping[UUID, Mapping[str, Any] | None]) -> None:
    """Delete the snapshots of attempts that have ended with a result, by job, that has their output.

    What a worker or agent had written when it died is kept: nothing else tells of it.
    """
    told = [job_id for job_id, result in ended.items() if _has_output(result)]
    if told:
        connection.execute(outputs.delete().where(outputs.c.job_id.in_(told)))


def output_version(connection: sa.Connection, job_id: UUID, *, project: str | None) -> str:
    """Return a text that is another one as soon as the output is, and read none of that.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
        OutputNotFound: jobs of its kind write none.
    """
    columns = (jobs.c.kind, jobs.c.state, jobs.c.run, jobs.c.attempt, *_ORDER)
    found = jobs.outerjoin(outputs, outputs.c.job_id == jobs.c.id)
    here = [jobs.c.id == job_id, *visible(jobs, project)]
    row = connection.execute(sa.select(*columns).select_from(found).where(*here)).one_or_none()
    if row is None:
        raise JobNotFound(f"no job has the id {job_id}")
    _check_kind(row.kind)
    return ".".join(map(str, row[1:]))


def find_output(connection: sa.Connection, job_id: UUID, *, project: str | None) -> JobOutput:
    """Return what the running attempt of a job has written so far, or what the last one wrote.

    Raises:
        JobNotFound: no row has this id, for a caller of this project.
        OutputNotFound: jobs of its kind write none.
    """
    of_last_attempt = sa.and_(
        attempts.c.job_id == jobs.c.id, attempts.c.run == jobs.c.run, attempts.c.number == jobs.c.attempt
    )
    known = jobs.outerjoin(outputs, outputs.c.job_id == jobs.c.id).outerjoin(attempts, of_last_attempt)
    query = sa.select(*_COLUMNS).select_from(known).where(jobs.c.id == job_id, *visible(jobs, project))
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise JobNotFound(f"no job has the id {job_id}")
    _check_kind(row["kind"])
    return _output_of(row)


def _check_kind(kind: str) -> None:
    if kind not in HAVE_OUTPUT:
        raise OutputNotFound(f"Jobs of kind {kind} write no output; see the job's result.")


def _output_of(row: sa.RowMapping) -> JobOutput:
    is_running, here = row["state"] is JobState.RUNNING, (row["run"], row["attempt"])
    if not is_running and _has_output(row["result"]):
        place, at, said = here, row["ended_at"] or row["updated_at"], row["result"]
    elif row["live_output"] is None or (is_running and here != (row["live_run"], row["live_attempt"])):
        # What the attempt before wrote says nothing of one that runs.
        place, at, said = here, None, {}
    else:
        place, at, said = (row["live_run"], row["live_attempt"]), row["live_updated_at"], row["live_output"]
    return JobOutput(*place, is_running, at, *(_text(said.get(name)) for name in _STREAMS))


def _has_output(result: Mapping[str, Any] | None) -> bool:
    return result is not None and any(result.get(name) is not None for name in _STREAMS)


def _text(said: object) -> OutputText:
    """Return one stream as a result or a snapshot has it; anybody may have published that."""
    try:
        return OutputText.model_validate(said or {})
    except ValidationError:
        return OutputText()
