"""Celery: a durable quorum queue, acks late, no results, no events; `work gevent` or `work threads`.

gevent has 200 greenlets and 200 messages in hand; threads are 50, with Celery's four messages for each.
"""

from collections.abc import Sequence

from celery import Celery

from bench.peers import pooled
from bench.peers.place import become, read_place, run

PLACE = read_place()
POOLS = {
    "gevent": ("--pool=gevent", "--concurrency=200", "--prefetch-multiplier=1"),
    "threads": ("--pool=threads", "--concurrency=50", "--prefetch-multiplier=4"),
}

app = Celery("bench", broker=PLACE.amqp_url)
app.conf.update(
    task_default_queue=PLACE.queue,
    task_default_queue_type="quorum",
    # Celery's own advice for quorum queues; it warns about a direct exchange.
    task_default_exchange_type="topic",
    task_acks_late=True,
    task_ignore_result=True,
    task_send_sent_event=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)


@app.task(name="bench.work")
def task(url: str) -> None:
    """Do the work of one job."""
    pooled.ask(url)


def fill(jobs: int) -> None:
    """Enqueue so many jobs, persistent; no confirms, for the bench counts what arrived."""
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(jobs):
            task.apply_async((PLACE.page(number),), producer=producer)


def delay(url: str, seconds: float) -> None:
    """Enqueue a job that is due in so many seconds; Celery's own delay for quorum queues lets it wait."""
    task.apply_async((url,), countdown=seconds)


def work(options: Sequence[str]) -> None:
    """Work until SIGTERM, in the pool that the option names."""
    quiet = ("--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")
    become("celery", "--app=bench.peers.celery_worker", "worker", *POOLS[options[0]], *quiet)


if __name__ == "__main__":
    run(fill=fill, work=work, delay=delay)
