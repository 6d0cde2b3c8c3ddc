"""The service that generated messages and requests are sent to, once on each store."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.compose.make_secrets import PUBLISHER_USER
from deploy.local.broker import Broker
from shared.broker.fast.patches import patch_libraries
from shared.settings import Settings
from tests.conftest import new_postgres_database
from tests.fuzz.publisher import PUBLISHERS_PROJECT
from tests.fuzz.service import FuzzedSystem
from tests.support.system import running_system


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
    with ExitStack() as stack:
        database_url = f"sqlite:///{tmp_path / 'retriever.db'}"
        if request.param == "postgresql":
            postgres = request.getfixturevalue("postgres")
            database_url = stack.enter_context(new_postgres_database(postgres, prefix="fuzz"))
        # No program but one that does nothing, whatever a spoilt command asks for.
        settings = {
            "RETRIEVER_COMMAND_PROGRAMS": "true",
            "RETRIEVER_COMMAND_SHELL": "false",
            "RETRIEVER_PUBLISHER_PROJECTS": f"{PUBLISHER_USER}={PUBLISHERS_PROJECT}",
        }
        yield stack.enter_context(
            running_system(FuzzedSystem, broker, database_url, tmp_path, name="fuzz", settings=settings)
        )
