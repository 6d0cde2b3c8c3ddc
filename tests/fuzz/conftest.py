"""The service that generated messages and requests are sent to, once on each store."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from shared.broker.fast.patches import patch_libraries
from shared.settings import Settings
from tests.conftest import new_postgres_database
from tests.fuzz.service import FuzzedSystem
from tests.support.management import Management


@pytest.fixture(scope="session", autouse=True)
def _patched() -> None:
    """Patch the AMQP libraries, as every process of ours does at its start."""
    patch_libraries(plain=Settings().amqp_plain)


@pytest.fixture(scope="session")
def seed() -> int:
    """Return what makes all that is generated; `SEED` chooses another."""
    return int(os.environ.get("SEED", "17"))


@pytest.fixture(params=["sqlite", "postgresql"])
def system(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> Iterator[FuzzedSystem]:
    """Yield a running service on a virtual host and a store of its own."""
    if request.param == "sqlite":
        yield from _running(broker, f"sqlite:///{tmp_path / 'retriever.db'}", tmp_path)
    else:
        with new_postgres_database(request.getfixturevalue("postgres"), prefix="fuzz") as database_url:
            yield from _running(broker, database_url, tmp_path)


def _running(broker: Broker, database_url: str, logs: Path) -> Iterator[FuzzedSystem]:
    assert broker.management_url is not None
    management = Management(broker.management_url)
    vhost = f"fuzz-{uuid.uuid4().hex[:12]}"
    management.create_vhost(vhost)
    system = FuzzedSystem(
        broker=broker,
        vhost=vhost,
        amqp_url=f"{broker.amqp_url.rsplit('/', maxsplit=1)[0]}/{vhost}",
        database_url=database_url,
        logs=logs,
        # No program but one that does nothing, whatever a spoilt command asks for.
        settings={"RETRIEVER_COMMAND_PROGRAMS": "true", "RETRIEVER_COMMAND_SHELL": "false"},
    )
    try:
        system.start()
        yield system
    finally:
        system.stop()
        management.delete_vhost(vhost)
        management.close()
