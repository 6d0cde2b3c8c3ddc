"""Leases: what only one ledger may do at a time. One that dies lets go when its lease runs out.

They end by the wall clock, because another machine has to judge them; and that may be set back.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from producer.store.engine import POSTGRESQL
from producer.store.schema import leases


def hold_lease(connection: sa.Connection, name: str, *, holder: str, seconds: float, now: datetime) -> bool:
    """Take the lease, or keep it; return whether the holder has it now."""
    insert = (postgresql.insert if connection.dialect.name == POSTGRESQL else sqlite.insert)(leases)
    taken = insert.values(name=name, holder=holder, held_until=now + timedelta(seconds=seconds))
    statement = taken.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={"holder": insert.excluded.holder, "held_until": insert.excluded.held_until},
        where=sa.or_(leases.c.holder == holder, is_free(leases.c.held_until, seconds=seconds, now=now)),
    )
    return connection.scalar(statement.returning(leases.c.name)) is not None


def release_lease(connection: sa.Connection, name: str, *, holder: str) -> None:
    """Let go of the lease, if the holder still has it."""
    connection.execute(leases.delete().where(leases.c.name == name, leases.c.holder == holder))


def is_free(
    until: sa.ColumnElement[datetime | None], *, seconds: float, now: datetime
) -> sa.ColumnElement[bool]:
    """Return whether a lease is held no longer: it was none, it is over, or it was taken before a step back.

    A lease that ends later than any that is taken now was given by a clock that has been set back since,
    perhaps by an hour, and its holder may be long dead. Twice the duration, not once: the clocks of two
    machines differ, and one that is a little behind must not rob the other.

    Args:
        until: When the lease ends.
        seconds: What such a lease lasts.
    """
    latest = now + 2 * timedelta(seconds=seconds)
    return sa.or_(until.is_(None), until < now, until > latest)


def read_in_order(connection: sa.Connection) -> None:
    """Let PostgreSQL find the oldest rows by the index that has them in order, in this transaction.

    Left to itself it believes what it counted before the last large batch came: that there are few. Then it
    reads and sorts all of them for each page, which takes longer than all else a relay does.
    """
    if connection.dialect.name == POSTGRESQL:
        connection.exec_driver_sql("SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off")
