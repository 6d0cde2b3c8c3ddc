"""Keep whom to tell when a job ends or a batch is complete."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = ("jobs", "batches")


def upgrade() -> None:
    """Make the change."""
    for table in _TABLES:
        op.add_column(table, sa.Column("callback_url", sa.Text(), nullable=True))


def downgrade() -> None:
    """Take the change back."""
    for table in _TABLES:
        op.drop_column(table, "callback_url")
