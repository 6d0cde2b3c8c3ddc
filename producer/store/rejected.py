"""What was handed in with a batch and became no job."""

from collections.abc import Iterable
from itertools import islice
from uuid import UUID

import sqlalchemy as sa

from producer.records import Rejected
from producer.store.schema import rejected_lines

_CHUNK_LINES = 1_000


def insert_rejected(connection: sa.Connection, batch_id: UUID, rejected: Iterable[Rejected]) -> int:
    """Store the rejected lines of a batch, read a chunk at a time; return how many there were."""
    remaining, count = iter(rejected), 0
    while chunk := list(islice(remaining, _CHUNK_LINES)):
        rows = [
            {"batch_id": batch_id, "number": each.number, "loc": each.loc, "msg": each.msg} for each in chunk
        ]
        connection.execute(rejected_lines.insert(), rows)
        count += len(chunk)
    return count


def list_rejected(connection: sa.Connection, batch_id: UUID, *, after: int, limit: int) -> list[Rejected]:
    """Return a page of a batch's rejected lines in their order, from above the number `after`."""
    query = (
        sa.select(rejected_lines.c.number, rejected_lines.c.loc, rejected_lines.c.msg)
        .where(rejected_lines.c.batch_id == batch_id, rejected_lines.c.number > after)
        .order_by(rejected_lines.c.number)
        .limit(limit)
    )
    return [Rejected(number, loc, msg) for number, loc, msg in connection.execute(query)]


def delete_rejected(connection: sa.Connection, batch_id: UUID, *, limit: int) -> int:
    """Delete up to `limit` rejected lines of a batch; return how many."""
    of_batch = rejected_lines.c.batch_id == batch_id
    numbers = connection.scalars(sa.select(rejected_lines.c.number).where(of_batch).limit(limit)).all()
    if numbers:
        connection.execute(rejected_lines.delete().where(of_batch, rejected_lines.c.number.in_(numbers)))
    return len(numbers)
