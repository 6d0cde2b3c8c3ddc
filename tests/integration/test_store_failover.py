"""A store that changes under its processes: it takes no writes for a while, or its file is another one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from producer.store import queries, submissions
from producer.store.database import Connection, Database
from shared.errors import StoreUnavailable
from shared.settings import Settings
from tests.support.api import running_api
from tests.support.factories import make_job

JOB = {"kind": "check", "args": {"url": "https://example.com/"}}


@contextmanager
def database_default(url: str, setting: str) -> Iterator[None]:
    """Let new connections to a PostgreSQL database have a setting while inside; those there are end."""
    name = url.rsplit("/", maxsplit=1)[1]
    _administer(url, f"ALTER DATABASE {name} SET {setting}")
    try:
        yield
    finally:
        _administer(url, f"ALTER DATABASE {name} RESET {setting.split(' ', maxsplit=1)[0]}")


def _administer(url: str, *statements: str) -> None:
    # Another database of the server, which may be changed in any case.
    with psycopg.connect(_sibling(url), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [url.rsplit("/", maxsplit=1)[1]],
        )


def _sibling(url: str) -> str:
    return f"{url.rsplit('/', maxsplit=1)[0]}/postgres".replace("+psycopg", "")


def test_a_read_only_postgresql_is_not_ready_says_so_and_comes_back(postgres_url: str) -> None:
    with running_api(Settings(database_url=postgres_url)) as api:
        before = api.client.get("/readyz").status_code
        with database_default(postgres_url, "default_transaction_read_only = on"):
            refused = [api.client.get("/readyz"), api.client.post("/jobs", json=JOB)]
            listed = api.client.get("/jobs").status_code
        after = [api.client.get("/readyz").status_code, api.client.post("/jobs", json=JOB).status_code]

    assert (before, listed) == (200, 200)
    assert [answer.status_code for answer in refused] == [503, 503]
    assert all("PostgreSQL is read-only" in answer.json()["detail"] for answer in refused)
    assert after == [200, 202]


def test_a_store_takes_writes_again_on_connections_that_were_opened_while_it_took_none(
    postgres_url: str,
) -> None:
    store = Database.open(postgres_url)
    with database_default(postgres_url, "default_transaction_read_only = on"):
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.write(submissions.insert_jobs, [make_job()])
        name = postgres_url.rsplit("/", maxsplit=1)[1]
        with psycopg.connect(_sibling(postgres_url), autocommit=True) as connection:
            # Its connections live: only new ones may write.
            connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())
        store.write(submissions.insert_jobs, [make_job()])
    store.close()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_of_the_same_things_at_once_one_is_stored_whatever_the_default_isolation(
    postgres_url: str, isolation: str
) -> None:
    jobs = [replace(make_job(), unique_key=b"k" * 32, unique_for_seconds=60) for _ in range(20)]
    with database_default(postgres_url, f"default_transaction_isolation = '{isolation}'"):
        store = Database.open(postgres_url)
        with ThreadPoolExecutor(len(jobs)) as pool:
            answers = list(pool.map(lambda job: store.write(submissions.admit_jobs, [job])[job.id], jobs))
        store.close()

    assert len({answer.id for answer in answers}) == 1


def test_a_missing_table_a_missing_database_and_a_full_server_are_told_apart(postgres_url: str) -> None:
    server, _, _ = postgres_url.rpartition("/")
    _administer(postgres_url, "DROP ROLE IF EXISTS narrow", "CREATE ROLE narrow LOGIN CONNECTION LIMIT 0")
    narrow = postgres_url.replace("//retriever@", "//narrow@")
    said = {}
    for what, url in {
        "table": f"{server}/template1",
        "database": f"{server}/none",
        "full": narrow,
        "port": "postgresql://retriever@127.0.0.1:1/none",
    }.items():
        store = Database.open(url)
        with pytest.raises(StoreUnavailable) as raised:
            store.read(queries.get_job, make_job().id, project=None)
        said[what] = raised.value.reason
        store.close()
    _administer(postgres_url, "DROP ROLE narrow")

    assert "producer migrate" in said["table"]
    assert "no database of the name" in said["database"]
    assert "no connection left" in said["full"]
    assert "Nothing listens" in said["port"]


def test_a_sqlite_file_that_is_deleted_is_noticed_and_nothing_is_promised(
    migrated_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "retriever.db"
    path.write_bytes(migrated_file.read_bytes())
    aside = tmp_path / "aside.db"
    with running_api(Settings(database_url=f"sqlite:///{path}")) as api:
        before = api.client.post("/jobs", json=JOB)
        path.rename(aside)
        without = [api.client.get("/readyz"), api.client.post("/jobs", json=JOB)]
        path.write_bytes(migrated_file.read_bytes())
        replaced = [api.client.get("/readyz"), api.client.post("/jobs", json=JOB)]
        aside.rename(path)
        after = [api.client.get("/readyz"), api.client.get(before.headers["location"])]

    assert [answer.status_code for answer in (before, *without, *replaced)] == [202, 503, 503, 503, 503]
    assert all("deleted or replaced" in answer.json()["detail"] for answer in (*without, *replaced))
    assert [answer.status_code for answer in after] == [200, 200]


def test_a_sqlite_file_that_is_deleted_before_the_commit_is_over_stores_nothing(
    migrated_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "retriever.db"
    path.write_bytes(migrated_file.read_bytes())
    store = Database.open(f"sqlite:///{path}")

    def store_and_delete(connection: Connection) -> None:
        submissions.insert_jobs(connection, [make_job()])
        path.unlink()

    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        store.write(store_and_delete)

    store.close()


def test_a_log_of_sqlite_that_is_deleted_is_noticed(migrated_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "retriever.db"
    path.write_bytes(migrated_file.read_bytes())
    store = Database.open(f"sqlite:///{path}")
    store.write(submissions.insert_jobs, [make_job()])
    store.ping()

    Path(f"{path}-wal").unlink()

    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        store.ping()
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        store.write(submissions.insert_jobs, [make_job()])
    store.close()
