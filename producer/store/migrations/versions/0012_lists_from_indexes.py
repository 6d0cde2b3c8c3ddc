"""Answer lists by kind and state, and the groups of a batch's parked jobs, from an index alone.

The index of states takes the kind along. The one without it goes first, and at once: the new one begins with
the same columns, so code of before uses it as it did the old. Going last it would want a lock on a table
that others have begun to wait for, and PostgreSQL would end the migration as a deadlock.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Word for word as the queries say it, or neither database trusts the index.
_SHORT_OF_BATCH = sa.text(
    "batch_id IS NOT NULL AND coalesce(state, '') = 'parked' AND coalesce(length(reason), 0) <= 100"
)
_COVERED = ["batch_id", "kind", "host", "reason", "id", "finished_at", "run", "state"]


def upgrade() -> None:
    """Make the change."""
    op.drop_index("ix_jobs_state_id", "jobs")
    op.create_index("ix_jobs_state_id_kind", "jobs", ["state", "id", "kind"])
    op.create_index(
        "ix_jobs_parked_short_of_batch",
        "jobs",
        _COVERED,
        sqlite_where=_SHORT_OF_BATCH,
        postgresql_where=_SHORT_OF_BATCH,
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_index("ix_jobs_parked_short_of_batch", "jobs")
    op.drop_index("ix_jobs_state_id_kind", "jobs")
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
