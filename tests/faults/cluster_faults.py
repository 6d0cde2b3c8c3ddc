"""A cluster of three nodes of which one dies, one is cut off, and each is restarted in turn."""

import asyncio
import random
from functools import partial

from deploy.local.cluster import Cluster
from shared.broker.topology import bundle_queue
from tests.faults.fault import LOST_BROKER, Fault
from tests.faults.world import SILENCE_SECONDS, World, blocking

# Half of the jobs come through it, several to a message.
_QUEUE = bundle_queue("check")


def _cluster(world: World) -> Cluster:
    assert world.cluster is not None
    return world.cluster


async def kill_leader(world: World, _rng: random.Random) -> None:
    """SIGKILL the node that leads a work queue, and start it again a while later."""
    cluster = _cluster(world)
    leader = await blocking(partial(cluster.leader_of, _QUEUE, vhost=world.vhost))
    world.timeline.note(f"SIGKILL {leader.node_name}, the leader of {_QUEUE}")
    await blocking(leader.kill)
    await asyncio.sleep(4.0)
    await blocking(cluster.restore)
    world.timeline.note("the cluster is whole")
    await world.wait_ready()


async def freeze_minority(world: World, _rng: random.Random) -> None:
    """SIGSTOP one node for longer than the others, and its clients, wait for it: that with most clients."""
    cluster = _cluster(world)
    clients = await world.manage(lambda api: api.connections_by_node(world.vhost))
    node = max(cluster.nodes, key=lambda node: clients[node.node_name])
    world.timeline.note(f"SIGSTOP {node.node_name}, {SILENCE_SECONDS:g} s")
    await blocking(node.freeze)
    await asyncio.sleep(SILENCE_SECONDS)
    await blocking(cluster.restore)
    world.timeline.note("the cluster is whole")
    await world.wait_ready()


async def restart_rolling(world: World, _rng: random.Random) -> None:
    """Stop and start one node after the other: an upgrade."""
    cluster = _cluster(world)
    for node in cluster.nodes:
        world.timeline.note(f"restart {node.node_name}")
        await blocking(node.stop)
        await blocking(cluster.restore)
    await world.wait_ready()


def cluster_faults() -> list[Fault]:
    """Return the faults of a cluster."""
    others = "Clients go to the other nodes; what was in hand comes again."
    return [
        Fault(
            "cluster: leader killed (SIGKILL)",
            "broker",
            others,
            kill_leader,
            True,
            spread_seconds=6.0,
            traces=LOST_BROKER,
        ),
        Fault(
            "cluster: a minority frozen",
            "broker",
            others,
            freeze_minority,
            True,
            spread_seconds=6.0,
            traces=LOST_BROKER,
        ),
        Fault(
            "cluster: rolling restart",
            "broker",
            others,
            restart_rolling,
            True,
            spread_seconds=10.0,
            traces=LOST_BROKER,
        ),
    ]
