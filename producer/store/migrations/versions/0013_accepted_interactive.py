"""Index the accepted jobs of the interactive lane, so that the relay finds them before all others."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Word for word as the query says it, or neither database trusts the index.
_WAITS = sa.text("coalesce(state, '') = 'accepted' AND lane = 'interactive'")


def upgrade() -> None:
    """Make the change."""
    op.create_index(
        "ix_jobs_accepted_interactive", "jobs", ["id"], sqlite_where=_WAITS, postgresql_where=_WAITS
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_index("ix_jobs_accepted_interactive", "jobs")
