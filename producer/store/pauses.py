"""What is paused, in rows; and the work queues as a ledger last saw them."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from producer.pausing import Pause, Pauses, QueueSeen
from producer.store.engine import POSTGRESQL
from producer.store.schema import pauses, queues, revisions

_REVISION = "pauses"


def read_pauses(connection: sa.Connection) -> Pauses:
    """Return what is paused, and the revision.

    The revision first: when another is written between the two statements, ours is the smaller one, and the
    later snapshot wins.
    """
    revision = connection.scalar(sa.select(revisions.c.value).where(revisions.c.name == _REVISION))
    return Pauses(revision or 0, list_pauses(connection))


def list_pauses(connection: sa.Connection) -> list[Pause]:
    """Return all that is paused."""
    rows = connection.execute(sa.select(pauses).order_by(pauses.c.kind, pauses.c.lane)).mappings()
    return [Pause(row["kind"], row["lane"], row["since"], row["by"], row["note"]) for row in rows]


def lock_pauses(connection: sa.Connection, *, now: datetime) -> int:
    """Begin a change: return its revision, greater than all before it. Others wait until it is committed.

    It is the time in microseconds where that is greater, so that a database that was made anew, or restored,
    goes on above what workers have seen of the one before.
    """
    insert = (postgresql.insert if connection.dialect.name == POSTGRESQL else sqlite.insert)(revisions)
    statement = insert.values(name=_REVISION, value=1).on_conflict_do_update(
        index_elements=[revisions.c.name], set_={"value": revisions.c.value + 1}
    )
    following = connection.scalar(statement.returning(revisions.c.value)) or 1
    revision = max(following, int(now.timestamp() * 1_000_000))
    connection.execute(revisions.update().where(revisions.c.name == _REVISION).values(value=revision))
    return revision


def replace_pauses(connection: sa.Connection, items: Sequence[Pause]) -> None:
    """Store what is paused now, in place of what was. Only after `lock_pauses`."""
    connection.execute(pauses.delete())
    if items:
        connection.execute(
            pauses.insert(),
            [
                {"kind": each.kind, "lane": each.lane, "since": each.since, "by": each.by, "note": each.note}
                for each in items
            ],
        )


def list_queues(connection: sa.Connection) -> list[QueueSeen]:
    """Return every work queue that was ever seen, as it was last seen."""
    return [
        QueueSeen(row["name"], row["kind"], row["lane"], row["ready"], row["consumers"], row["observed_at"])
        for row in connection.execute(sa.select(queues).order_by(queues.c.name)).mappings()
    ]


def record_queues(connection: sa.Connection, seen: Sequence[QueueSeen]) -> None:
    """Keep these queues as they were seen now, in the place of what was seen of them before."""
    if not seen:
        return
    insert = (postgresql.insert if connection.dialect.name == POSTGRESQL else sqlite.insert)(queues)
    statement = insert.on_conflict_do_update(
        index_elements=[queues.c.name],
        set_={name: insert.excluded[name] for name in ("kind", "lane", "ready", "consumers", "observed_at")},
    )
    connection.execute(
        statement,
        [
            {
                "name": each.name,
                "kind": each.kind,
                "lane": each.lane,
                "ready": each.ready,
                "consumers": each.consumers,
                "observed_at": each.observed_at,
            }
            for each in seen
        ],
    )
