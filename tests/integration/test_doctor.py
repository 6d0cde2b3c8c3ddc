"""`python -m producer doctor` on a real broker and both stores: it says what is wrong, and mends nothing."""

import subprocess
import sys
from pathlib import Path

from shared.broker.topology import declare_topology, queues
from shared.kinds.registry import BROKERED_KINDS
from tests.support.amqp import open_channel
from tests.support.environment import clean_environment
from tests.support.management import Management

ROOT = Path(__file__).resolve().parents[2]


def examine(amqp_url: str, database_url: str, **settings: str) -> tuple[int, str]:
    environment = {
        **clean_environment(),
        "RETRIEVER_AMQP_URL": amqp_url,
        "RETRIEVER_DATABASE_URL": database_url,
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-m", "producer", "doctor"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


async def test_queues_that_are_missing_or_other_than_ours_are_named(
    new_vhost_url: str, new_vhost: str, management: Management, database_url: str
) -> None:
    empty = examine(new_vhost_url, database_url)
    assert empty[0] == 1
    assert "bad   queues  Missing: " in empty[1]
    assert management.queues(new_vhost) == []

    async with open_channel(new_vhost_url) as channel:
        await declare_topology(channel, BROKERED_KINDS)
    code, said = examine(new_vhost_url, database_url, RETRIEVER_EGRESS_ALLOW="10.0.0.0/8")
    assert (code, said.count("bad")) == (0, 0)
    assert "ok    store" in said
    assert "ok    queues" in said
    assert "{ok,5000}" in said
    assert "10.0.0.0/8" in said

    other = next(iter(queues(BROKERED_KINDS))).name
    async with open_channel(new_vhost_url) as channel:
        await channel.queue_delete(other)
        await channel.declare_queue(other, durable=True, arguments={"x-queue-type": "quorum"})
    code, said = examine(new_vhost_url, database_url)
    assert code == 1
    assert f"bad   queues  {other}: " in said
    assert "inequivalent arg" in said


def test_a_broker_and_a_store_that_are_not_there_are_told_together(tmp_path: Path) -> None:
    code, said = examine("amqp://127.0.0.1:1/", f"sqlite:///{tmp_path / 'none' / 'retriever.db'}")

    assert code == 1
    assert [line.split()[1] for line in said.splitlines() if line.startswith("bad")] == ["store", "broker"]
    assert "migrate" in said
