"""Number the ends of jobs and batches in the order in which they are recorded.

What has ended before has no number, nor has what code of the version before ends: the feed tells of neither.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TABLES = ("batches", "jobs")
_IS_NUMBERED = sa.text("feed_number IS NOT NULL")


def upgrade() -> None:
    """Make the change."""
    for table in _TABLES:
        op.add_column(table, sa.Column("feed_number", sa.BigInteger(), nullable=True))
        op.create_index(
            f"ix_{table}_feed_number",
            table,
            ["feed_number", "id"],
            sqlite_where=_IS_NUMBERED,
            postgresql_where=_IS_NUMBERED,
        )


def downgrade() -> None:
    """Take the change back."""
    for table in _TABLES:
        op.drop_index(f"ix_{table}_feed_number", table)
        op.drop_column(table, "feed_number")
