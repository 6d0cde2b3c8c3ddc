"""Tests of how a database URL is read: a wrong one fails at start and shows no password."""

import pytest

from producer.store.engine import postgresql_arguments, read_url
from shared.errors import SettingsInvalid


@pytest.mark.parametrize(
    ("database_url", "driver"),
    [
        ("sqlite:///.run/retriever.db", "sqlite"),
        ("sqlite:////data/retriever.db", "sqlite"),
        ("postgresql://retriever@db/retriever", "postgresql+psycopg"),
        ("postgres://retriever@db/retriever", "postgresql+psycopg"),
        ("postgresql+psycopg://retriever@db/retriever", "postgresql+psycopg"),
    ],
)
def test_our_databases_get_our_drivers(database_url: str, driver: str) -> None:
    assert read_url(database_url).drivername == driver


@pytest.mark.parametrize(
    "database_url",
    [
        "",
        "retriever.db",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://root:secret@db/retriever",
        "postgresql://retriever:secret@db:port/retriever",
        "postgresql+asyncpg://retriever:secret@db/retriever",
    ],
)
def test_a_wrong_url_is_named_without_its_password(database_url: str) -> None:
    with pytest.raises(SettingsInvalid, match="RETRIEVER_DATABASE_URL") as raised:
        read_url(database_url)

    assert "secret" not in str(raised.value)


def test_the_url_s_own_options_come_last_and_so_win() -> None:
    url = read_url("postgresql://db/retriever?options=-c%20statement_timeout%3D5")

    options = postgresql_arguments(url)["options"]

    assert options.endswith("-c statement_timeout=5")
    assert "lock_timeout" in options
