"""Say whose each job, batch, schedule, operation and audit entry is.

What is stored already is the default project's: by the default of the column, so that no row is written. Keys
and task queues of other projects are told apart by their names, which have the project in them.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_IS_OF_A_PROJECT = "project != 'default'"
_IS_PARKED_SHORT = "coalesce(state, '') = 'parked' AND coalesce(length(reason), 0) <= 100"
_PARKED_SHORT = ["kind", "host", "reason", "id", "finished_at", "batch_id", "run", "state"]
_IS_TASK = "coalesce(kind, '') = 'task'"
_IS_PICKABLE = (
    f"{_IS_TASK} AND (coalesce(state, '') = 'queued' OR "
    f"{_IS_TASK} AND coalesce(state, '') = 'delayed' AND ready_at IS NOT NULL)"
)
_LISTED = ("batches", "schedules", "operations", "audit")


def upgrade() -> None:
    """Make the change."""
    for table in ("jobs", "batches", "schedules"):
        op.add_column(table, sa.Column("project", sa.Text(), nullable=False, server_default="default"))
    for table in ("operations", "audit"):
        op.add_column(table, sa.Column("project", sa.Text(), nullable=True, server_default="default"))
    for table in _LISTED:
        op.create_index(f"ix_{table}_project_id", table, ["project", "id"])
    _index("ix_jobs_project_id", ["project", "id"], _IS_OF_A_PROJECT)
    _index("ix_jobs_project_ref_id", ["project", "ref", "id"], f"ref IS NOT NULL AND {_IS_OF_A_PROJECT}")
    _index(
        "ix_jobs_parked_of_project",
        ["project", *_PARKED_SHORT],
        f"{_IS_PARKED_SHORT} AND {_IS_OF_A_PROJECT}",
    )
    _replace("ix_jobs_parked_short", [*_PARKED_SHORT, "project"], _IS_PARKED_SHORT)
    _replace("ix_jobs_pickable", ["project", "queue", "id"], _IS_PICKABLE)


def downgrade() -> None:
    """Take the change back."""
    _replace("ix_jobs_pickable", ["queue", "id"], _IS_PICKABLE)
    _replace("ix_jobs_parked_short", _PARKED_SHORT, _IS_PARKED_SHORT)
    for name in ("ix_jobs_parked_of_project", "ix_jobs_project_ref_id", "ix_jobs_project_id"):
        op.drop_index(name, "jobs")
    for table in _LISTED:
        op.drop_index(f"ix_{table}_project_id", table)
    for table in ("audit", "operations", "schedules", "batches", "jobs"):
        op.drop_column(table, "project")


def _replace(name: str, columns: Sequence[str], where: str) -> None:
    op.drop_index(name, "jobs")
    _index(name, columns, where)


def _index(name: str, columns: Sequence[str], where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
