"""Bodies that are too large for a result: written with the report, read in pieces, gone with the job."""

from collections.abc import Iterable
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from producer.records import BodyRecord
from producer.store.engine import POSTGRESQL
from producer.store.schema import bodies
from shared.messages import Report

_META = (bodies.c.job_id, bodies.c.content_type, bodies.c.charset, bodies.c.size, bodies.c.sha256)


def write_bodies(connection: sa.Connection, reports: Iterable[Report]) -> None:
    """Store the bodies of reports that have moved their job; a body of an earlier run is replaced."""
    rows = [
        {"job_id": report.job_id, "run": report.run, **dict(report.body)}
        for report in reports
        if report.body is not None
    ]
    if not rows:
        return
    insert = (postgresql.insert if connection.dialect.name == POSTGRESQL else sqlite.insert)(bodies)
    columns = [column.name for column in bodies.c if not column.primary_key]
    upsert = insert.on_conflict_do_update(
        index_elements=[bodies.c.job_id], set_={name: insert.excluded[name] for name in columns}
    )
    # One at a time, so that no statement holds them all.
    for row in rows:
        connection.execute(upsert, row)


def find_body(connection: sa.Connection, job_id: UUID) -> BodyRecord | None:
    """Return what is known of a job's body, without the body; None when none is stored."""
    row = connection.execute(sa.select(*_META).where(bodies.c.job_id == job_id)).mappings().one_or_none()
    return BodyRecord(**row) if row else None


def read_piece(connection: sa.Connection, job_id: UUID, *, start: int, length: int) -> bytes:
    """Return a piece of a compressed body; empty behind its end, or when it is gone."""
    # Columns count from 1. PostgreSQL reads the piece alone, because the column is stored uncompressed.
    piece = sa.func.substr(bodies.c.content, start + 1, length, type_=sa.LargeBinary())
    return bytes(connection.scalar(sa.select(piece).where(bodies.c.job_id == job_id)) or b"")
