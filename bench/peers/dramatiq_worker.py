"""Dramatiq: 64 threads in one process, 128 messages in hand, acks after the work, its usual middleware.

It declares classic queues and has no setting for quorum ones, so its queue is a durable classic queue.
"""

from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.peers import pooled
from bench.peers.place import become, read_place, run

PLACE = read_place()

broker = RabbitmqBroker(url=PLACE.amqp_url)
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="work", queue_name=PLACE.queue)
def actor(url: str) -> None:
    """Do the work of one job."""
    pooled.ask(url)


def fill(jobs: int) -> None:
    """Enqueue so many jobs, persistent; no confirms, for the bench counts what arrived."""
    for number in range(jobs):
        actor.send(PLACE.page(number))
    broker.close()


def delay(url: str, seconds: float) -> None:
    """Enqueue a job that is due in so many seconds."""
    actor.send_with_options(args=(url,), delay=round(seconds * 1_000))


def work(_options: Sequence[str]) -> None:
    """Work until SIGTERM."""
    become("dramatiq", "bench.peers.dramatiq_worker", "--processes=1", "--threads=64")


if __name__ == "__main__":
    run(fill=fill, work=work, delay=delay)
