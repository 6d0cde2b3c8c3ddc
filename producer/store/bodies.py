"""Bodies that are too large for a result, and what targets call the versions that were fetched.

A validator (RFC 9110 section 8.8) is an `ETag` or a `Last-Modified`. The last one of each URL and arguments
is kept, with the job that has the body, so that the next fetch can ask for changes alone.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import ValidationError

from producer.callers import DEFAULT_PROJECT
from producer.records import BodyRecord
from producer.store.schema import bodies, jobs, validators
from producer.store.sql import upsert
from shared import exact_json
from shared.kinds.fetch import FetchMethod, FetchResult
from shared.messages import KnownCopy, Report
from shared.states import JobState

_META = (bodies.c.job_id, bodies.c.content_type, bodies.c.charset, bodies.c.size, bodies.c.sha256)
FETCH = "fetch"
# These arguments say how to ask, not what for.
_BESIDE = frozenset({"if_changed", "max_bytes", "max_redirects", "timeout_seconds"})


def write_bodies(connection: sa.Connection, reports: Iterable[Report]) -> None:
    """Store the bodies of reports that have moved their job; a body of an earlier run is replaced."""
    rows = [
        {"job_id": report.job_id, "run": report.run, **dict(report.body)}
        for report in reports
        if report.body is not None
    ]
    # One at a time, so that no statement holds them all.
    for row in rows:
        connection.execute(upsert(connection.dialect.name, bodies), row)


def find_body(connection: sa.Connection, job_id: UUID) -> BodyRecord | None:
    """Return what is known of a job's body, without the body; None when none is stored."""
    row = connection.execute(sa.select(*_META).where(bodies.c.job_id == job_id)).mappings().one_or_none()
    return BodyRecord(**row) if row else None


def read_piece(connection: sa.Connection, job_id: UUID, *, start: int, length: int) -> bytes:
    """Return a piece of a compressed body; empty behind its end, or when it is gone."""
    # Columns count from 1. PostgreSQL reads the piece alone, because the column is stored uncompressed.
    piece = sa.func.substr(bodies.c.content, start + 1, length, type_=sa.LargeBinary())
    return bytes(connection.scalar(sa.select(piece).where(bodies.c.job_id == job_id)) or b"")


def remember_validators(connection: sa.Connection, reports: Iterable[Report], *, now: datetime) -> None:
    """Keep the validators of fetches that have just succeeded; the latest fetch wins."""
    fetched = {report.job_id: (report.ended_at or now, copy) for report in reports if (copy := _copy(report))}
    if not fetched:
        return
    query = sa.select(jobs.c.id, jobs.c.args, jobs.c.project).where(jobs.c.id.in_(sorted(fetched)))
    keys = {job_id: copy_key(args, project=project) for job_id, args, project in connection.execute(query)}
    # In the order of their ends, so that the later of two with one key is kept; written in the order of the
    # keys, so that two transactions cannot deadlock.
    rows = {
        key: {**dict(copy), "key": key, "fetched_at": fetched_at}
        for fetched_at, job_id, copy in sorted(
            ((at, job_id, copy) for job_id, (at, copy) in fetched.items()), key=itemgetter(0, 1)
        )
        if (key := keys.get(job_id))
    }
    if rows:
        latest = upsert(
            connection.dialect.name, validators, where=lambda new: validators.c.fetched_at <= new.fetched_at
        )
        connection.execute(latest, [rows[key] for key in sorted(rows)])


def find_copies(connection: sa.Connection, asking: Mapping[UUID, bytes]) -> dict[UUID, KnownCopy]:
    """Return the copy that each job can build on, by the job's id; those without one are missing.

    Args:
        asking: The keys of the jobs' arguments, as `copy_key` makes them.
    """
    if not asking:
        return {}
    query = sa.select(validators).where(validators.c.key.in_(sorted(set(asking.values()))))
    copies = {
        bytes(row["key"]): KnownCopy(
            job_id=row["job_id"], etag=row["etag"], last_modified=row["last_modified"]
        )
        for row in connection.execute(query).mappings()
    }
    return {job_id: copies[key] for job_id, key in asking.items() if key in copies}


def copy_key(args: Mapping[str, Any], *, project: str) -> bytes | None:
    """Return 16 bytes that are the same for fetches of a project that bring back the same.

    None for all but GET. The project is in them, because a copy hands over a body. Third parties' arguments
    may be no JSON that can be written; they have none, either.

    The arguments are normalized already; a fragment is never sent (RFC 9110 section 4.2.5).
    """
    if args.get("method", FetchMethod.GET) != FetchMethod.GET:
        return None
    asked = {name: value for name, value in args.items() if name not in _BESIDE}
    asked["url"] = str(asked.get("url", "")).partition("#")[0]
    said = asked if project == DEFAULT_PROJECT else [project, asked]
    try:
        return hashlib.sha256(exact_json.dumps(said, sort_keys=True)).digest()[:16]
    except (TypeError, ValueError):
        return None


def _copy(report: Report) -> KnownCopy | None:
    """Return what the next fetch can ask with, if this one was a success that can be asked for again."""
    if report.kind != FETCH or report.state is not JobState.SUCCEEDED or report.result is None:
        return None
    if not (report.result.get("etag") or report.result.get("last_modified")):
        return None
    try:
        seen = FetchResult.model_validate(report.result)
        copy = KnownCopy(job_id=report.job_id, etag=seen.etag, last_modified=seen.last_modified)
    except ValidationError:
        # Anyone may publish a report; without this copy the next fetch is merely a whole one.
        return None
    # Behind a redirect nobody can say whose validators they are.
    is_whole = len(seen.hops) == 1 and not seen.not_modified
    return copy if is_whole and (copy.etag or copy.last_modified) else None
