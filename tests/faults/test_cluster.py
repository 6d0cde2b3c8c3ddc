"""The faults of a cluster of three nodes, on each broker: nothing is lost, recorded twice, or stuck."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from deploy.local.cluster import Cluster, open_cluster
from deploy.local.postgres import Postgres
from tests.faults.catalogue import CLUSTER
from tests.faults.conftest import BROKERS, ERLANG, MARKS, version_of
from tests.faults.fault import Fault
from tests.faults.trial import suffer
from tests.faults.world import World, open_world

pytestmark = MARKS


@pytest.fixture(scope="module", params=BROKERS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yield a cluster to hurt."""
    prefer = "docker" if request.param == "docker" else None
    with open_cluster(prefer=prefer, erlang_arguments=ERLANG) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world_on_cluster(cluster: Cluster, postgres: Postgres) -> AsyncIterator[World]:
    """Yield a running system whose processes know all nodes."""
    async with open_world(cluster.nodes[0], postgres=postgres, cluster=cluster) as running:
        yield running


@pytest.mark.parametrize("fault", CLUSTER, ids=[fault.name for fault in CLUSTER])
async def test_the_promise_is_kept_on_a_cluster(
    world_on_cluster: World, cluster: Cluster, fault: Fault, seed: int
) -> None:
    verdict = await suffer(world_on_cluster, fault, broker=version_of(cluster.nodes[0]), seed=seed)

    verdict.save()
    assert verdict.is_kept, verdict.report()
