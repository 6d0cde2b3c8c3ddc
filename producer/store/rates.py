"""What API processes tell each other of callers that send much, so that together they keep to a rate."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from producer.rates import LAPSES_SECONDS
from producer.store.schema import rate_demands
from producer.store.sql import upsert

_LAPSES_AFTER = timedelta(seconds=LAPSES_SECONDS)
# Rows of processes that have ended say nothing long before they are deleted.
_DELETED_AFTER = timedelta(minutes=1)


def exchange_demands(
    connection: sa.Connection,
    process: UUID,
    asked: Mapping[str, float],
    *,
    ended: Collection[str],
    now: datetime,
) -> Mapping[str, float]:
    """Say what a process is asked for, and return what all others are, in requests a second by caller.

    Args:
        process: The one that says it.
        asked: What it is asked for.
        ended: Callers of whom it has said something, and has nothing more to say.
    """
    ours = rate_demands.c.process == process
    if asked:
        rows = [
            {"caller": caller, "process": process, "asked_per_second": per_second, "noted_at": now}
            for caller, per_second in asked.items()
        ]
        connection.execute(upsert(connection.dialect.name, rate_demands).values(rows))
    is_old = ~ours & (rate_demands.c.noted_at < now - _DELETED_AFTER)
    connection.execute(rate_demands.delete().where(is_old | (ours & rate_demands.c.caller.in_(ended))))
    others = sa.select(rate_demands.c.caller, rate_demands.c.asked_per_second).where(
        ~ours, rate_demands.c.noted_at > now - _LAPSES_AFTER
    )
    told: defaultdict[str, float] = defaultdict(float)
    for caller, per_second in connection.execute(others):
        told[caller] += per_second
    return told
