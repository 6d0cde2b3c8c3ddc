"""A running system for each broker that there is: RabbitMQ of this machine, and the one in Docker."""

import os
import shutil
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
import pytest_asyncio

from deploy.local.broker import Broker, open_broker
from deploy.local.container import docker_answers
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq_node import install_server
from tests.faults.services import RUN
from tests.faults.trial import chosen_seed, read_verdicts
from tests.faults.world import World, open_world
from tests.support.management import Management

# `FAULT_BROKERS=native make faults` leaves Docker out.
BROKERS = os.environ.get("FAULT_BROKERS", "").split() or ["native", *(["docker"] if docker_answers() else [])]
# A soak takes as long as it is told to, so it runs alone: `make soak MINUTES=10`.
IS_SOAK = "SOAK_MINUTES" in os.environ
# `FAULT_SETTINGS=default make soak MINUTES=20` leaves every setting at its default.
IS_SHORTENED = not (IS_SOAK and os.environ.get("FAULT_SETTINGS") == "default")
SINGLE_NODE = "tests/faults/test_single_node.py"
collect_ignore_glob = (
    ["test_s[iq]*.py", "test_broker.py", "test_cluster.py", "test_default_settings.py"]
    if IS_SOAK
    else ["test_soak.py"]
)


def pytest_configure(config: pytest.Config) -> None:
    """Forget the results of the last run, once."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(RUN, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process is left alone with it."""
    items.sort(key=lambda item: SINGLE_NODE not in item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what was done when, if a fault could not even be done or undone."""
    report = yield
    for world in getattr(item, "funcargs", {}).values():
        if report.failed and isinstance(world, World):
            report.sections.append(("timeline", world.timeline.since(0)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counters of each fault."""
    verdicts = read_verdicts()
    for verdict in verdicts:
        terminalreporter.write_line(
            f"{verdict.broker:>8} {verdict.seconds:6.1f} s  {verdict.fault}: {verdict.counts}"
        )
        if IS_SOAK:
            terminalreporter.write_line(verdict.report())
    if verdicts:
        total = sum((verdict.counts for verdict in verdicts[1:]), verdicts[0].counts)
        seeds = ", ".join(sorted({f"SEED={verdict.seed}" for verdict in verdicts}))
        terminalreporter.write_line(f"together ({seeds}): {total}")


# What each module of faults has: one loop, on which its system runs.
MARKS = [
    pytest.mark.asyncio(loop_scope="module"),
    # aiormq drops a coroutine of its own when a broker goes away in the middle of a handshake.
    pytest.mark.filterwarnings("ignore:coroutine 'Connection.close' was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <coroutine object Conn:pytest.PytestUnraisableExceptionWarning"
    ),
]
# A test waits no minute: before 4.3 a channel looks once a minute whether its consumer's time is over.
ERLANG = "-rabbit channel_tick_interval 1000"


@pytest.fixture(scope="session")
def seed() -> int:
    """Return the seed of this run; `SEED=7 make faults` does it again."""
    return chosen_seed()


@pytest.fixture(scope="session", params=BROKERS)
def fault_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Yield a broker to hurt."""
    if request.param == "native":
        install_server()
    prefer = "docker" if request.param == "docker" else None
    with open_broker(prefer=prefer, environment={}, erlang_arguments=ERLANG) as running:
        yield running


@pytest.fixture(scope="session")
def broker_version(fault_broker: Broker) -> str:
    """Return the version of the broker that is hurt."""
    return version_of(fault_broker)


def version_of(broker: Broker) -> str:
    """Return the version of a broker."""
    assert broker.management_url is not None
    management = Management(broker.management_url)
    try:
        return management.version()
    finally:
        management.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(fault_broker: Broker, postgres: Postgres) -> AsyncIterator[World]:
    """Yield a running system on PostgreSQL."""
    async with open_world(fault_broker, postgres=postgres, is_shortened=IS_SHORTENED) as running:
        yield running
