"""Leave room in the pages of jobs on PostgreSQL, for the versions of each row that follow.

Says so for pages that are written from now on; no row is touched.
"""

from alembic import op

from producer.store.engine import POSTGRESQL

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    if op.get_bind().dialect.name == POSTGRESQL:
        op.execute("ALTER TABLE jobs SET (fillfactor = 50)")


def downgrade() -> None:
    """Take the change back."""
    if op.get_bind().dialect.name == POSTGRESQL:
        op.execute("ALTER TABLE jobs RESET (fillfactor)")
