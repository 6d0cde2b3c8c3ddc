"""Recent answers to what a batch asks: found by the keys of questions, and given by the repeat answerer.

A job that need not ask is stored as a repeat of the job that has the answer. So it is ended, counted,
announced and called back as all repeats are, by whichever ledger comes first.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from producer.store.schema import jobs
from producer.store.sql import stored
from producer.stored_json import NULL, pick, text_of
from shared.kinds.check import Verdict
from shared.states import JobState


class _ResultFields(msgspec.Struct):
    verdict: msgspec.Raw = NULL


_RESULT = msgspec.json.Decoder(_ResultFields)
_GOOD = f'"{Verdict.OK.value}"'


def recent_answers(
    connection: sa.Connection, keys: Sequence[bytes], *, project: str, since: datetime
) -> dict[bytes, UUID]:
    """Return which checks of a project found the same good since a time, by the keys of what they asked.

    Only those that have asked themselves, so that an answer does not grow younger as it is passed on.
    """
    has_asked = sa.or_(jobs.c.same_as.is_(None), jobs.c.same_as == jobs.c.id)
    query = (
        sa.select(jobs.c.unique_key, jobs.c.id, stored(jobs.c.result))
        .where(jobs.c.unique_key.in_(keys), jobs.c.project == project, has_asked)
        .where(jobs.c.state == JobState.SUCCEEDED, jobs.c.finished_at > since)
        .order_by(jobs.c.id)
    )
    rows = connection.execute(query) if keys else ()
    return {key: id_ for key, id_, result in rows if text_of(pick(result, _RESULT).verdict) == _GOOD}


def let_answer(connection: sa.Connection, batch_id: UUID) -> None:
    """Let the jobs whose answers a batch takes be found by the repeat answerer, as its own originals are."""
    taken = sa.select(jobs.c.same_as).where(jobs.c.batch_id == batch_id, jobs.c.same_as.is_not(None))
    # In the order of their ids, so that two batches that take the same answers cannot wait for each other.
    locked = (
        sa.select(jobs.c.id)
        .where(jobs.c.id.in_(taken), jobs.c.same_as.is_(None))
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
    )
    connection.execute(jobs.update().where(jobs.c.id.in_(locked)).values(same_as=jobs.c.id))
