"""Add what reports are believed by, and the answers that replays repeat."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    _add_run_tokens()
    _add_callback_events()
    _note_bundles()
    _add_times_of_ends()
    _add_kept_answers()


def downgrade() -> None:
    """Take the change back."""
    for name in ("answer", "answer_location", "answer_status"):
        op.drop_column("idempotency_keys", name)
    op.drop_column("batches", "ended_before_at")
    op.drop_column("batches", "last_ended_at")
    op.drop_column("jobs", "is_bundled")
    op.drop_column("jobs", "callback_events")
    op.drop_column("batches", "callback_events")
    op.drop_table("secret_keys")
    op.drop_column("jobs", "token_from_run")


def _add_run_tokens() -> None:
    # Null for jobs that are there: their messages under way have no token.
    op.add_column("jobs", sa.Column("token_from_run", sa.Integer(), nullable=True))
    op.create_table(
        "secret_keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secret_keys"),
    )


def _add_callback_events() -> None:
    for table in ("batches", "jobs"):
        op.add_column(table, sa.Column("callback_events", sa.JSON(), nullable=True))


def _note_bundles() -> None:
    op.add_column("jobs", sa.Column("is_bundled", sa.Boolean(), nullable=True))


def _add_times_of_ends() -> None:
    moment = sa.TIMESTAMP(timezone=True).with_variant(sa.BigInteger(), "sqlite")
    for name in ("last_ended_at", "ended_before_at"):
        op.add_column("batches", sa.Column(name, moment, nullable=True))


def _add_kept_answers() -> None:
    op.add_column("idempotency_keys", sa.Column("answer_status", sa.Integer(), nullable=True))
    op.add_column("idempotency_keys", sa.Column("answer_location", sa.Text(), nullable=True))
    op.add_column("idempotency_keys", sa.Column("answer", sa.LargeBinary(), nullable=True))
