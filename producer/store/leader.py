"""Leases elect the one ledger that runs what must run once. A holder that dies loses its lease in time.

A lease ends by the wall clock, because another machine judges it; that clock may be set back.
"""

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from producer.store.schema import leases
from producer.store.sql import is_free, upsert
from shared.clock import utc_now

LEADER: Final = "leader"
"""The lease of the ledger that leads."""


def hold_lease(connection: sa.Connection, name: str, *, holder: str, seconds: float, now: datetime) -> bool:
    """Take the lease, or keep it; return whether the holder has it now."""
    is_ours = sa.or_(leases.c.holder == holder, is_free(leases.c.held_until, seconds=seconds, now=now))
    taking = upsert(connection.dialect.name, leases, where=lambda _: is_ours).values(
        name=name, holder=holder, held_until=now + timedelta(seconds=seconds)
    )
    return connection.scalar(taking.returning(leases.c.name)) is not None


def release_lease(connection: sa.Connection, name: str, *, holder: str) -> None:
    """Let go of the lease, if the holder still has it."""
    connection.execute(leases.delete().where(leases.c.name == name, leases.c.holder == holder))


def hold_lease_from_now(connection: sa.Connection, name: str, *, holder: str, seconds: float) -> bool:
    """As `hold_lease`, by the clock at the call, which may have waited for the store."""
    return hold_lease(connection, name, holder=holder, seconds=seconds, now=utc_now())
