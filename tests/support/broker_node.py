"""What only the broker's own node can do, asked of it in Erlang."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.local.broker import Broker

_END_CHANNELS = """
[rabbit_channel:shutdown(Pid)
 || [{{pid, Pid}}, {{vhost, <<"{vhost}">>}}, {{consumer_count, Count}}]
 <- rabbit_channel:info_all([pid, vhost, consumer_count]), Count > 0].
"""


def end_consuming_channels(broker: Broker, vhost: str) -> None:
    """End every channel of a virtual host that consumes, without telling its client."""
    broker.control("eval", _END_CHANNELS.format(vhost=vhost))


@contextmanager
def taking_at_most(broker: Broker, largest_bytes: int) -> Iterator[None]:
    """Let channels that are opened while inside take messages of a size at most."""
    before = broker.control("eval", "application:get_env(rabbit, max_message_size).")
    broker.control("eval", f"application:set_env(rabbit, max_message_size, {largest_bytes}).")
    try:
        yield
    finally:
        default = re.search(r"\d+", before or "")
        size = default[0] if default else "134217728"
        broker.control("eval", f"application:set_env(rabbit, max_message_size, {size}).")
