"""Where Alembic finds the migrations; loaded by path, never imported."""
