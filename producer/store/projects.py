"""Whose a row is, and for whom it is there: the one place that says so.

Whoever reads or changes rows for a caller passes the caller's project. To a caller of another project a row
is not there, by its id or in a list; an operator, whose project is `EVERY_PROJECT`, sees all.
"""

from typing import Final
from uuid import UUID

import sqlalchemy as sa

from producer.callers import DEFAULT_PROJECT
from producer.store.schema import IS_OF_A_PROJECT, batches, jobs

EVERY_PROJECT: Final = None
"""What an operator sees, and what the service itself works on."""


def visible(table: sa.Table, project: str | None) -> list[sa.ColumnElement[bool]]:
    """Return the conditions under which a row is there for a caller of this project."""
    if project is None:
        return []
    is_ours: sa.ColumnElement[bool] = table.c.project == project
    # The second for the planner: it says that the indexes of jobs of projects have the row.
    return [is_ours, IS_OF_A_PROJECT] if table is jobs and project != DEFAULT_PROJECT else [is_ours]


def visible_of_batch(batch_id: UUID, project: str | None) -> list[sa.ColumnElement[bool]]:
    """Return the conditions under which the jobs of a batch are there: all, or none, as the batch is.

    The batch is asked and not each job, so that what reads jobs by an index reads no row for it.
    """
    return [sa.exists().where(batches.c.id == batch_id, *visible(batches, project))] if project else []
