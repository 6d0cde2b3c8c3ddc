"""How the database is set up and reached: migrations, processes that write at once, failures."""

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from producer.records import JobFilter
from producer.store import outbox, queries, submissions
from producer.store.database import Database
from producer.store.engine import open_engine, writing
from producer.store.migrate import _config, check_schema, migrate
from producer.store.schema import metadata
from shared.errors import StoreUnavailable
from tests.support.factories import NOON, make_batch, make_job
from tests.support.tables import stored_objects

# What only the migration says: the body's storage, which the schema would have as "extended".
BEYOND_METADATA = {"storage bodies.content e", "storage bodies.content x"}
WRITERS = 4
JOBS_PER_WRITER = 40

INSERT_MANY = """
import sys
from producer.store import outbox, submissions
from producer.store.database import Database
from tests.support.factories import make_job

store = Database.open(sys.argv[1])
for _ in range(int(sys.argv[2])):
    store.write(submissions.insert_jobs, [make_job()])
    store.write(outbox.claim_accepted, limit=1, lease_seconds=60, now=make_job().created_at)
store.close()
"""

MIGRATE = "import sys; from producer.store.migrate import migrate; migrate(sys.argv[1])"


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """Return the address of a database without tables: how they come to be is what most tests are about."""
    return empty_database_url


def test_migrations_build_what_the_schema_says_and_can_be_taken_back(database_url: str) -> None:
    migrate(database_url)
    engine = open_engine(database_url)
    with engine.connect() as connection:
        migrated = stored_objects(connection)
    with writing(engine).begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    left = sa.inspect(engine).get_table_names()

    with writing(engine).begin() as connection:
        metadata.create_all(connection)

    with engine.connect() as connection:
        described = stored_objects(connection)
    engine.dispose()
    assert left == ["alembic_version", "schema_compatibility"]
    assert described ^ migrated == (BEYOND_METADATA if engine.dialect.name == "postgresql" else set())


def test_a_store_answers_only_when_its_tables_are_current(database_url: str) -> None:
    store = Database.open(database_url)
    with pytest.raises(StoreUnavailable, match="migrated"):
        store.ping()
    with pytest.raises(StoreUnavailable, match="project_limits"):
        store.write(submissions.insert_jobs, [make_job()])

    migrate(database_url)
    migrate(database_url)

    store.ping()
    store.close()


def test_a_failed_migration_leaves_nothing(database_url: str) -> None:
    engine = open_engine(database_url)
    with writing(engine).begin() as connection:
        # The last table that the migration makes.
        connection.execute(sa.text("CREATE TABLE revisions (in_the_way INTEGER)"))

    with pytest.raises(StoreUnavailable):
        migrate(database_url)

    assert sa.inspect(engine).get_table_names() == ["revisions"]
    with pytest.raises(StoreUnavailable, match="migrated"):
        check_schema(engine)
    engine.dispose()


def test_processes_can_migrate_at_once(database_url: str) -> None:
    _run_at_once([MIGRATE, database_url], times=4)

    engine = open_engine(database_url)
    check_schema(engine)
    engine.dispose()


def test_processes_can_write_at_once(database_url: str) -> None:
    migrate(database_url)

    _run_at_once([INSERT_MANY, database_url, str(JOBS_PER_WRITER)], times=WRITERS)

    store = Database.open(database_url)
    jobs = store.read(queries.search_jobs, JobFilter(), limit=1_000, after=None, project=None).records
    store.close()
    assert len(jobs) == WRITERS * JOBS_PER_WRITER


def test_threads_can_write_and_read_at_once(database_url: str) -> None:
    migrate(database_url)
    store = Database.open(database_url)
    failures: list[Exception] = []

    def write_and_read() -> None:
        try:
            for _ in range(20):
                job = make_job()
                store.write(submissions.insert_jobs, [job])
                store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
                store.read(queries.search_jobs, JobFilter(), limit=5, after=None, project=None)
        except StoreUnavailable as error:
            failures.append(error)

    threads = [threading.Thread(target=write_and_read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = store.read(queries.search_jobs, JobFilter(), limit=1_000, after=None, project=None).records
    store.close()

    assert failures == []
    assert len(jobs) == 160


def test_a_thread_that_writes_seldom_does_not_wait_for_those_that_write_all_the_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'retriever.db'}"
    migrate(url)
    store, is_over = Database.open(url), threading.Event()
    written = threading.Semaphore(0)
    overtaken = []

    def write_all_the_time() -> None:
        while not is_over.is_set():
            store.write(submissions.insert_jobs, [make_job()])
            written.release()

    threads = [threading.Thread(target=write_all_the_time) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(20):
        # At any moment, and not just after another has written.
        time.sleep(0.02 + number / 10_000)
        while written.acquire(blocking=False):
            pass
        store.write(submissions.insert_jobs, [make_job()])
        overtaken.append(0)
        while written.acquire(blocking=False):
            overtaken[-1] += 1
    is_over.set()
    for thread in threads:
        thread.join()
    store.close()

    # It is two or three each time; without turns SQLite lets hundreds pass.
    assert sum(overtaken) < 20 * 20


def test_readers_do_not_wait_for_a_batch_that_is_being_stored(database_url: str) -> None:
    migrate(database_url)
    store = Database.open(database_url)
    early = make_job()
    store.write(submissions.insert_jobs, [early])

    def jobs_that_look() -> object:
        for _ in range(1_200):
            yield make_job()
        yield make_job(
            labels={
                "seen": str(
                    len(
                        store.read(
                            queries.search_jobs, JobFilter(), limit=9, after=None, project=None
                        ).records
                    )
                )
            }
        )

    batch = make_batch()
    store.write(submissions.insert_batch, batch, jobs_that_look())  # type: ignore[arg-type]

    last = store.read(
        queries.search_jobs, JobFilter(batch_id=batch.id), limit=1, after=None, project=None
    ).records
    store.close()
    assert last[0].labels == {"seen": "1"}


def test_sqlite_survives_a_power_cut_and_keeps_readers_free(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/not/yet/there/retriever.db"
    migrate(url)

    engine = open_engine(url)
    with engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    engine.dispose()
    assert found == ["wal", 2, 1, 30_000]


def test_a_writer_that_waits_too_long_is_told_that_the_store_is_unavailable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/retriever.db"
    migrate(url)
    engine = open_engine(url)
    store = Database(open_engine(url, sqlite_busy_seconds=0.05))

    with writing(engine).begin(), pytest.raises(StoreUnavailable, match="locked"):
        store.write(submissions.insert_jobs, [make_job()])

    store.write(submissions.insert_jobs, [make_job()])
    store.close()
    engine.dispose()


def test_a_database_that_does_not_answer_is_told_without_its_password() -> None:
    store = Database.open("postgresql://somebody:secret@127.0.0.1:1/nothing")

    with pytest.raises(StoreUnavailable) as raised:
        store.ping()

    assert "secret" not in str(raised.value)
    store.close()


def test_the_store_works_again_after_its_connections_were_cut(postgres_url: str) -> None:
    migrate(postgres_url)
    store = Database.open(postgres_url)
    store.ping()
    engine = open_engine(postgres_url)
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()

    store.write(submissions.insert_jobs, [make_job()])

    store.close()


def test_times_are_utc_whatever_the_server_s_zone(postgres_url: str) -> None:
    migrate(postgres_url)
    store = Database.open(f"{postgres_url}?options=-c%20timezone%3DAsia%2FKathmandu")
    edge = datetime(9999, 12, 31, 12, tzinfo=UTC)
    job = make_job(created_at=edge)

    store.write(submissions.insert_jobs, [job])

    assert store.read(queries.get_job, job.id, project=None).created_at == edge
    assert str(store.read(queries.get_job, job.id, project=None).created_at.tzinfo) == "UTC"
    store.close()


def _run_at_once(arguments: list[str], *, times: int) -> None:
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", *arguments], cwd=root) for _ in range(times)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * times
