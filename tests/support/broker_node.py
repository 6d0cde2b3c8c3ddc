"""What only the broker's own node can do, asked of it in Erlang."""

import subprocess
from pathlib import Path

import pytest

from deploy.local.broker import Broker
from deploy.local.rabbitmq_node import SERVER_PLACES, RabbitMQNode

_END_CHANNELS = """
[rabbit_channel:shutdown(Pid)
 || [{{pid, Pid}}, {{vhost, <<"{vhost}">>}}, {{consumer_count, Count}}]
 <- rabbit_channel:info_all([pid, vhost, consumer_count]), Count > 0].
"""


def end_consuming_channels(broker: Broker, vhost: str) -> None:
    """End every channel of a virtual host that consumes, without telling its client. Skips without a node."""
    node = broker._server
    if not isinstance(node, RabbitMQNode):
        pytest.skip("only a private node takes Erlang")
    programs = (path for place in SERVER_PLACES for path in Path("/").glob(f"{place[1:]}/rabbitmqctl"))
    expression = _END_CHANNELS.format(vhost=vhost)
    subprocess.run(
        [str(next(programs)), "-n", "retriever@localhost", "eval", expression],
        env=node._environment(),
        check=True,
        capture_output=True,
        timeout=60,
    )
