"""What only the broker's own node can do, asked of it in Erlang."""

from deploy.local.broker import Broker

_END_CHANNELS = """
[rabbit_channel:shutdown(Pid)
 || [{{pid, Pid}}, {{vhost, <<"{vhost}">>}}, {{consumer_count, Count}}]
 <- rabbit_channel:info_all([pid, vhost, consumer_count]), Count > 0].
"""


def end_consuming_channels(broker: Broker, vhost: str) -> None:
    """End every channel of a virtual host that consumes, without telling its client."""
    broker.control("eval", _END_CHANNELS.format(vhost=vhost))
