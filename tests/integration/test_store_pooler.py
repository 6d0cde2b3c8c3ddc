"""A connection pooler in front of PostgreSQL is refused with the reason: it would drop our settings."""

import pytest

from producer.api.app import serve
from producer.store.database import Database
from shared.errors import SettingsInvalid, StoreUnavailable
from shared.settings import Settings
from tests.support.commands import run_producer
from tests.support.pgbouncer import pgbouncer

# As it comes, it refuses a connection with settings; told to ignore them, it lets it in without them.
POOLERS = ["", "ignore_startup_parameters = options"]


@pytest.mark.parametrize("settings", POOLERS)
def test_a_pooler_in_transaction_mode_is_refused_with_the_reason(postgres_url: str, settings: str) -> None:
    with pgbouncer(postgres_url, settings=settings) as url:
        store = Database.open(url)
        with pytest.raises(StoreUnavailable, match="connection pooler"):
            store.ping()
        with pytest.raises(SettingsInvalid, match=r"RETRIEVER_DATABASE_URL: .*connection pooler"):
            store.check_settings()
        store.close()


@pytest.mark.parametrize("command", ["ledger", "migrate"])
def test_a_process_behind_a_pooler_does_not_start(postgres_url: str, command: str) -> None:
    with pgbouncer(postgres_url, settings=POOLERS[1]) as url:
        done = run_producer(url, "amqp://127.0.0.1:1/", command)

    assert done.returncode == 2
    assert done.stderr.startswith("retriever: ") and "connection pooler" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_api_behind_a_pooler_does_not_start(postgres_url: str) -> None:
    with (
        pgbouncer(postgres_url, settings=POOLERS[1]) as url,
        pytest.raises(SettingsInvalid, match="connection pooler"),
    ):
        serve(Settings(database_url=url))
