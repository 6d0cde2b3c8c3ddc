"""Processes of the version before and of this one, together on one store and one broker, and back again."""

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deploy.local.broker import Broker
from deploy.local.postgres import Postgres
from tests.conftest import new_postgres_database
from tests.support.client import QUICK_RETRY, Client, Json
from tests.support.system import ROOT
from tests.support.versions import MixedSystem, check_out, version_before

# Its worker has ended before that, so that its copy waits in the broker for one of the next stage.
SLOW_RETRY = {"first_delay_seconds": 2, "factor": 1, "max_delay_seconds": 2, "jitter": False}
BATCH_JOBS = 20
# Messages of another wire version, which ours does not read.
OUR_MESSAGES, OTHER_MESSAGES = "version: Literal[1] = 1", "version: Literal[2] = 2"
# Tables that only code with this migration may use.
OTHER_TABLES = """
revision = "9999"
down_revision = "{last}"
branch_labels = None
depends_on = None
oldest_code = "9998"

def upgrade():
    pass
"""
Attempts = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Mixture:
    """A service of two versions, and its client."""

    system: MixedSystem
    client: Client
    before: Path

    def run(self, **are_new: bool) -> None:
        """Let processes be of this version or of the one before, and no others run; dashes for underlines."""
        roots = {name: ROOT if is_new else self.before for name, is_new in are_new.items()}
        self.system.become({name.replace("_", "-"): root for name, root in roots.items()})


@pytest.fixture
def empty_url(postgres: Postgres) -> Iterator[str]:
    """Yield the address of a database without tables. What SQLite does with migrations, store tests show."""
    with new_postgres_database(postgres) as url:
        yield url


@pytest.fixture
async def mixture(
    own_broker: Broker, vhost: str, vhost_url: str, empty_url: str, tmp_path: Path
) -> AsyncIterator[Mixture]:
    """Yield a service whose processes do not run yet, but for the site."""
    system = MixedSystem(
        broker=own_broker,
        vhost=vhost,
        amqp_url=vhost_url,
        database_url=empty_url,
        logs=tmp_path,
        # The workers of the version before drop the tokens of jobs.
        settings={"RETRIEVER_RUN_TOKENS": "optional"},
    )
    before = check_out(version_before(), tmp_path / "before")
    system.make_sure_of(before)
    try:
        system.open_site()
        async with httpx.AsyncClient(base_url=system.api_url, timeout=30.0) as http:
            client = Client(system, http)
            yield Mixture(system, client, before)
            client.management.close()
    finally:
        system.stop()


class Stages:
    """Hands in jobs at each stage, and takes some of them on to the next, whose processes are others."""

    def __init__(self, client: Client) -> None:
        """Make one that has handed in nothing."""
        self._client = client
        self._delayed: Json | None = None
        self._parked: tuple[Json, str] | None = None
        self.accepted: list[str] = []
        self.expected: dict[str, Attempts] = {}

    async def work(self) -> None:
        """See jobs of this stage and of the one before to their ends, and leave some for the next."""
        await asyncio.gather(
            self._end_the_delayed(), self._end_the_parked(), self._flaky(), self._batch(), self._cancel()
        )
        await asyncio.gather(self._leave_a_delayed_one(), self._leave_a_parked_one())

    async def all_ended(self) -> Mapping[str, str]:
        """Return what each job that was accepted came to, and hold its attempts against what they must be."""
        await self._end_the_delayed()
        await self._end_the_parked()
        jobs = [await self._client.job(job_id) for job_id in self.accepted]
        attempts = {job["id"]: [(each["run"], each["number"]) for each in job["attempts"]] for job in jobs}
        assert attempts == self.expected
        return {job["id"]: job["state"] for job in jobs}

    async def _submit(self, path: str, attempts: Attempts, **fields: object) -> Json:
        job = await self._client.submit("fetch", path, **fields)
        self.accepted.append(job["id"])
        self.expected[job["id"]] = attempts
        return job

    async def _flaky(self) -> None:
        job = await self._submit(f"/flaky/{uuid.uuid4()}?fail=1", [(1, 1), (1, 2)], retry=QUICK_RETRY)
        await self._client.job_in(job["id"], "succeeded")

    async def _batch(self) -> None:
        batch = await self._client.submit_batch([f"/ok/{number}" for number in range(BATCH_JOBS)])
        done = await self._client.finished_batch(batch["id"], deadline_seconds=30)
        assert done["counts"]["succeeded"] == BATCH_JOBS

    async def _cancel(self) -> None:
        gate = str(uuid.uuid4())
        job = await self._submit(f"/gate/{gate}", [(1, 1)])
        await self._client.wait_at_gate(gate, at_least=1)
        answer = await self._client.http.post(f"/jobs/{job['id']}/cancel")
        assert answer.status_code == 202
        await self._client.job_in(job["id"], "cancelled")

    async def _leave_a_delayed_one(self) -> None:
        job = await self._submit(f"/flaky/{uuid.uuid4()}?fail=1", [(1, 1), (1, 2)], retry=SLOW_RETRY)
        self._delayed = await self._client.job_in(job["id"], "delayed")

    async def _end_the_delayed(self) -> None:
        if self._delayed:
            await self._client.job_in(self._delayed["id"], "succeeded")

    async def _leave_a_parked_one(self) -> None:
        page = str(uuid.uuid4())
        attempts = [(1, 1), (1, 2), (2, 1)]
        job = await self._submit(f"/mendable/{page}", attempts, retry={**QUICK_RETRY, "max_attempts": 2})
        self._parked = await self._client.job_in(job["id"], "parked"), page

    async def _end_the_parked(self) -> None:
        if self._parked:
            job, page = self._parked
            await self._client.mend(page)
            answer = await self._client.http.post(f"/jobs/{job['id']}/redrive")
            assert answer.status_code == 202
            await self._client.job_in(job["id"], "succeeded")
            self._parked = None


async def test_an_upgrade_one_by_one_and_back_loses_no_job(mixture: Mixture) -> None:
    stages = Stages(mixture.client)
    mixture.system.migrate(mixture.before)
    mixture.run(api=False, ledger=False, worker_1=False)
    await stages.work()

    mixture.system.migrate(ROOT)
    await stages.work()
    mixture.run(api=False, ledger=False, ledger_2=True, worker_1=False, worker_2=True)
    await stages.work()
    mixture.run(api=True, ledger_2=True, worker_1=False)
    await stages.work()
    mixture.run(api=True, ledger=False, worker_2=True)
    await stages.work()
    mixture.run(api=True, ledger_2=True, worker_2=True)
    await stages.work()

    mixture.system.migrate(mixture.before)
    mixture.run(api=False, ledger=False, worker_1=False)
    await stages.work()

    states = await stages.all_ended()
    assert sorted(states.values()) == ["cancelled"] * 7 + ["succeeded"] * 21


async def test_messages_that_the_other_version_cannot_read_are_noticed(mixture: Mixture) -> None:
    messages = mixture.before / "shared" / "messages.py"
    changed = messages.read_text().replace(OUR_MESSAGES, OTHER_MESSAGES)
    assert OTHER_MESSAGES in changed
    messages.write_text(changed)
    mixture.system.migrate(ROOT)
    mixture.run(api=True, ledger=True, worker_1=False)

    job = await mixture.client.submit("fetch", "/ok/1")

    parked = await mixture.client.job_in(job["id"], "succeeded", "parked")
    assert (parked["state"], parked["reason"]) == ("parked", "message_undecodable")


async def test_tables_that_the_other_version_cannot_use_are_noticed(mixture: Mixture) -> None:
    versions = mixture.before / "producer" / "store" / "migrations" / "versions"
    last = max(path.name[:4] for path in versions.glob("[0-9]*.py"))
    (versions / "9999_other.py").write_text(OTHER_TABLES.format(last=last))
    mixture.system.migrate(mixture.before)

    with pytest.raises(subprocess.CalledProcessError):
        mixture.system.migrate(ROOT)
