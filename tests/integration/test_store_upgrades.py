"""Code on the tables of a newer version, as in an upgrade or after one was rolled back."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from producer.store import migrate as migrating
from producer.store import outbox, queries, submissions
from producer.store.compatibility import Fit, judge
from producer.store.database import Database
from producer.store.engine import open_engine, writing
from producer.store.migrate import migrate
from shared.errors import StoreUnavailable
from shared.states import JobState
from tests.support.commands import run_producer
from tests.support.factories import NOON, make_job
from tests.support.tables import TableSeen, look_at_tables, losses

MIGRATION = """
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
{more}

def upgrade():
    op.execute("{statement}")
"""
ADDS = "ALTER TABLE jobs ADD COLUMN mood TEXT"
TAKES_AWAY = "DROP TABLE validators"

NextVersion = Callable[..., str]


@pytest.fixture
def next_migrations(tmp_path: Path) -> Path:
    """Return a folder with a copy of the migrations, to which a test adds those of versions to come."""
    folder = tmp_path / "next-migrations"
    shutil.copytree(migrating._MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def next_version(next_migrations: Path, database_url: str) -> NextVersion:
    """Return a function that migrates as the next version does, with one more migration, to its revision."""

    def migrate_further(statement: str, *, oldest_code: str | None = None) -> str:
        with migrations_of(next_migrations):
            revision = add_migration(next_migrations, statement, oldest_code=oldest_code)
            assert migrate(database_url)
        return revision

    return migrate_further


@contextmanager
def migrations_of(folder: Path) -> Iterator[None]:
    """Be another version while inside, as far as migrations go."""
    ours = migrating._MIGRATIONS
    migrating._MIGRATIONS = folder
    migrating._revisions.cache_clear()
    try:
        yield
    finally:
        migrating._MIGRATIONS = ours
        migrating._revisions.cache_clear()


def add_migration(folder: Path, statement: str, *, oldest_code: str | None = None) -> str:
    """Write one more migration, and return its revision. Call it inside `migrations_of(folder)`."""
    before = migrating._revisions()[-1]
    revision = f"{int(before) + 1:04}"
    more = f"oldest_code = {oldest_code!r}" if oldest_code else ""
    text = MIGRATION.format(revision=revision, before=before, more=more, statement=statement)
    (folder / "versions" / f"{revision}_next.py").write_text(text)
    migrating._revisions.cache_clear()
    return revision


@pytest.mark.parametrize(
    ("version", "oldest_code", "fit"),
    [
        (None, None, Fit.OLDER),
        ("0009", "0009", Fit.OLDER),
        ("0010", "0009", Fit.CURRENT),
        ("0010", None, Fit.CURRENT),
        ("0011", "0009", Fit.NEWER),
        ("0012", "0010", Fit.NEWER),
        ("0012", "0011", Fit.TOO_NEW),
        ("0012", None, Fit.TOO_NEW),
    ],
)
def test_code_takes_its_own_tables_and_newer_ones_that_say_so(
    version: str | None, oldest_code: str | None, fit: Fit
) -> None:
    assert judge(version, oldest_code, revisions=("0008", "0009", "0010")) is fit


def test_code_works_on_the_tables_of_two_versions_later(database_url: str, next_version: NextVersion) -> None:
    next_version(ADDS)
    next_version("CREATE TABLE moods (name TEXT PRIMARY KEY)")

    store = Database.open(database_url)
    store.ping()
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)

    assert store.read(queries.get_job, job.id, project=None).state is JobState.QUEUED
    store.close()


def test_code_does_not_use_tables_that_lack_what_it_needs(
    database_url: str, next_version: NextVersion
) -> None:
    marker = next_version("SELECT 1")
    next_version(TAKES_AWAY, oldest_code=marker)
    store = Database.open(database_url)

    with pytest.raises(StoreUnavailable, match="start a newer version"):
        store.ping()
    with pytest.raises(StoreUnavailable, match="start a newer version"):
        migrate(database_url)

    store.close()


def test_a_migration_that_only_adds_leaves_the_oldest_code_as_it_was(
    database_url: str, next_version: NextVersion
) -> None:
    marker = next_version("SELECT 1")
    next_version(TAKES_AWAY, oldest_code=marker)
    next_version(ADDS)

    with pytest.raises(StoreUnavailable, match="start a newer version"):
        migrate(database_url)


def test_migrating_after_a_rollback_changes_nothing_and_succeeds(
    database_url: str, next_version: NextVersion
) -> None:
    newer = next_version(ADDS)

    done = run_producer(database_url, "amqp://nowhere/", "migrate")

    assert (done.returncode, done.stderr) == (0, "")
    assert "newer version" in done.stdout
    assert stored_version(database_url) == newer
    # And forwards again.
    assert not migrate(database_url)


def test_migrating_with_code_that_is_too_old_says_so(database_url: str, next_version: NextVersion) -> None:
    marker = next_version("SELECT 1")
    newer = next_version(TAKES_AWAY, oldest_code=marker)

    done = run_producer(database_url, "amqp://nowhere/", "migrate")

    assert done.returncode == 2
    assert "start a newer version" in done.stderr
    assert stored_version(database_url) == newer


def test_tables_of_before_this_rule_are_taken_and_learn_it(database_url: str) -> None:
    execute(database_url, "DROP TABLE schema_compatibility")
    store = Database.open(database_url)
    store.ping()

    assert migrate(database_url)

    store.ping()
    store.close()
    engine = open_engine(database_url)
    with engine.connect() as connection:
        said = connection.scalars(sa.text("SELECT oldest_code FROM schema_compatibility")).all()
    engine.dispose()
    assert said == [migrating._oldest_code()]


def test_every_migration_adds_only_or_says_which_code_may_use_its_tables(empty_database_url: str) -> None:
    assert unannounced_losses(empty_database_url) == []


@pytest.mark.parametrize(
    ("statement", "oldest_code", "found"),
    [
        (ADDS, None, []),
        (TAKES_AWAY, None, ["{own} validators: gone"]),
        # Code of the version before must go on, and that is the migration's own.
        (TAKES_AWAY, "{own}", ["{own} names {own} as the oldest code"]),
        (TAKES_AWAY, "{before}", []),
    ],
)
def test_a_migration_that_takes_away_in_silence_is_found(
    empty_database_url: str, next_migrations: Path, statement: str, oldest_code: str | None, found: list[str]
) -> None:
    with migrations_of(next_migrations):
        before = add_migration(next_migrations, "SELECT 1")
        own = f"{int(before) + 1:04}"
        add_migration(
            next_migrations, statement, oldest_code=oldest_code and oldest_code.format(own=own, before=before)
        )

        assert unannounced_losses(empty_database_url) == [each.format(own=own) for each in found]


@pytest.mark.parametrize(
    ("statement", "loss"),
    [
        (TAKES_AWAY, "validators: gone"),
        ("ALTER TABLE pages DROP COLUMN total", "pages.total: gone"),
        ("ALTER TABLE jobs RENAME COLUMN host TO target", "jobs.host: gone"),
        ("CREATE UNIQUE INDEX one_kind ON leases (holder)", "leases: unique holder"),
        ("CREATE TABLE notes (job_id UUID REFERENCES jobs (id))", "notes: holds back rows of jobs"),
        (ADDS, None),
        ("ALTER TABLE jobs ADD COLUMN mood TEXT NOT NULL DEFAULT 'good'", None),
        (
            "CREATE TABLE notes (job_id UUID, FOREIGN KEY (job_id) REFERENCES jobs (id) ON DELETE CASCADE)",
            None,
        ),
        ("CREATE INDEX ix_jobs_mood ON jobs (reason)", None),
    ],
)
def test_what_takes_something_away_is_seen(database_url: str, statement: str, loss: str | None) -> None:
    found = changed_by(database_url, statement)

    assert loss in found if loss else found == []


@pytest.mark.parametrize(
    ("statement", "loss"),
    [
        ("ALTER TABLE leases ADD COLUMN mood TEXT NOT NULL", "leases.mood: must be given"),
        ("ALTER TABLE jobs ALTER COLUMN explanation SET NOT NULL", "jobs.explanation: must be given"),
        ("ALTER TABLE jobs ALTER COLUMN run TYPE BIGINT", "jobs.run: another type"),
        ("ALTER TABLE jobs ADD CHECK (run < 7)", "jobs: check run < 7"),
        ("ALTER TABLE leases DROP CONSTRAINT pk_leases", "leases: unique name"),
    ],
)
def test_what_only_postgresql_can_change_is_seen_too(postgres_url: str, statement: str, loss: str) -> None:
    assert loss in changed_by(postgres_url, statement)


def unannounced_losses(database_url: str) -> list[str]:
    """Migrate empty tables step by step, and return what steps take from older code without saying so."""
    scripts = ScriptDirectory.from_config(migrating._config())
    revisions = migrating._revisions()
    oldest_code = migrating._FIRST_CODE
    found = []
    seen: dict[str, TableSeen] = {}
    for revision in revisions:
        before, seen = seen, migrated_to(database_url, revision)
        said = getattr(scripts.get_revision(revision).module, "oldest_code", None)
        if said is None:
            found += [f"{revision} {loss}" for loss in losses(before, seen)] if before else []
        elif oldest_code < said < revision:
            oldest_code = said
        else:
            found.append(f"{revision} names {said} as the oldest code")
    return found


def changed_by(database_url: str, statement: str) -> list[str]:
    """Execute a statement, and return what the tables have lost by it."""
    engine = open_engine(database_url)
    with engine.connect() as connection:
        before = look_at_tables(connection)
    execute(database_url, statement)
    with engine.connect() as connection:
        after = look_at_tables(connection)
    engine.dispose()
    return losses(before, after)


def migrated_to(database_url: str, revision: str) -> dict[str, TableSeen]:
    """Migrate up to a revision, and return the tables."""
    engine = open_engine(database_url)
    with writing(engine).begin() as connection:
        config = migrating._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    with engine.connect() as connection:
        seen = look_at_tables(connection)
    engine.dispose()
    return seen


def stored_version(database_url: str) -> str:
    """Return the revision that the tables are of."""
    engine = open_engine(database_url)
    with engine.connect() as connection:
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
    engine.dispose()
    return str(version)


def execute(database_url: str, statement: str) -> None:
    """Execute one statement."""
    engine = open_engine(database_url)
    with writing(engine).begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
