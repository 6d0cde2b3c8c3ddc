"""Tests of `deploy.local.postgres` against the PostgreSQL that it opens."""

from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from deploy.local.postgres import Postgres, open_postgres
from deploy.local.processes import command_line
from producer.records import JobFilter
from producer.store import queries, submissions
from producer.store.database import Database
from tests.support.factories import make_job


def ask(url: str, statement: str) -> object:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
    return row and row[0]


def postmaster_pid(database: Postgres) -> int:
    return int(str(ask(database.url, "SELECT pg_read_file('postmaster.pid')")).split()[0])


def test_a_killed_database_comes_back_on_its_port_with_what_was_committed(tmp_path: Path) -> None:
    with open_postgres(tmp_path) as database:
        ask(database.url, "CREATE TABLE kept AS SELECT 42 AS answer")

        database.kill()
        was_ready_while_dead = database.is_ready()
        database.start()

        assert not was_ready_while_dead
        assert ask(database.url, "SELECT answer FROM kept") == 42


def test_a_closed_database_leaves_no_process(tmp_path: Path) -> None:
    with open_postgres(tmp_path) as database:
        pid = postmaster_pid(database)

    assert not database.is_ready()
    assert "postgres" not in command_line(pid)


def test_the_database_never_runs_as_root(postgres: Postgres) -> None:
    owner = (Path("/proc") / str(postmaster_pid(postgres))).stat().st_uid

    assert owner != 0


def test_each_test_has_an_empty_database_of_its_own(empty_database_url: str) -> None:
    engine = sqlalchemy.create_engine(empty_database_url)

    tables = sqlalchemy.inspect(engine).get_table_names()

    engine.dispose()
    assert tables == []


@pytest.mark.parametrize("_again", range(2))
def test_a_migrated_database_has_its_tables_and_no_job(database_url: str, _again: int) -> None:
    store = Database.open(database_url)

    store.ping()
    assert store.read(queries.search_jobs, JobFilter(), limit=1, after=None, project=None).records == []
    store.write(submissions.insert_jobs, [make_job()])

    store.close()


@pytest.mark.parametrize("_again", range(2))
def test_a_database_survives_no_longer_than_its_test(
    postgres: Postgres, postgres_url: str, _again: int
) -> None:
    ask(postgres_url, "CREATE TABLE mine (id int)")

    assert ask(postgres.url, "SELECT count(*) FROM pg_database WHERE datname LIKE 'test_%'") == 1
