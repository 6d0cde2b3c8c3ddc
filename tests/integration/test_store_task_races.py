"""Many agents at once, by two ways to one store: one holder at a time, nothing lost, order kept."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from uuid import UUID

import pytest

from producer.records import JobRecord
from producer.store import queries, submissions, tasks
from producer.store.database import Database
from producer.tasks import PickedTask, PickRequest
from shared.errors import LeaseLost
from shared.kinds.task import PickOrder
from shared.outcomes import Failed, OutcomeName, Succeeded
from shared.retry import RetryPolicy
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_task

AGENTS = 20
TASKS = 120
LEASE_SECONDS = 5
# Nothing of it is real time: a look at the clock moves it on.
TICK = timedelta(milliseconds=50)
PATIENT = RetryPolicy(max_attempts=1_000, first_delay_seconds=0.2, factor=1.0)
DONE = Succeeded({"output": 1})
MAY_PASS = Failed("agent_failed", "Not this time.", transient=True)
REAL_SECONDS = 120


@dataclass
class Fleet:
    """Agents, and what the store has granted and accepted: the fencing log."""

    stores: list[Database]
    picked: list[PickedTask] = field(default_factory=list)
    ended: list[tuple[UUID, int, OutcomeName]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    expired: int = 0
    # Leases that nobody looked after; some agent will remember them much too late.
    forgotten: list[PickedTask] = field(default_factory=list)
    ticks: Iterator[int] = field(default_factory=count)

    def now(self) -> datetime:
        """Return a later time than all before."""
        return NOON + next(self.ticks) * TICK

    def is_done(self) -> bool:
        """Return whether every task has succeeded."""
        return not self.stores[0].read(queries.count_unfinished)

    def work(self, number: int) -> None:
        """Be one agent until all is done."""
        dice, store = random.Random(number), self.stores[number % 2]
        ends_at = time.monotonic() + REAL_SECONDS
        while not self.is_done():
            assert time.monotonic() < ends_at, "the tasks do not end"
            order = dice.choice(list(PickOrder))
            asked = PickRequest(
                "default", f"agent-{number}", dice.choice([1, 1, 3]), LEASE_SECONDS, order, project="default"
            )
            held = store.write(tasks.pick, asked, now=self.now())
            self.picked += held
            for each in held:
                self.deal_with(each, store, dice)
            if number == 0:
                self.keep(store)
            if not held and self.forgotten:
                self.finish(self.forgotten.pop(), store, DONE)

    def deal_with(self, held: PickedTask, store: Database, dice: random.Random) -> None:
        """Do with a task what agents do."""
        match dice.choice(["finish", "finish", "finish", "fail", "extend", "forget"]):
            case "fail":
                self.finish(held, store, MAY_PASS)
            case "forget":
                self.forgotten.append(held)
            case "extend":
                self.extend(held, store)
                self.finish(held, store, DONE)
            case _:
                self.finish(held, store, DONE)

    def finish(self, held: PickedTask, store: Database, end: Succeeded | Failed) -> None:
        """End an attempt, twice if need be, as an agent whose answer was lost; note it if it was accepted."""
        try:
            first = store.write(tasks.finish, held.job.id, held.token, end, now=self.now(), project=None)
        except LeaseLost:
            self.refused["finish"] += 1
        else:
            outcome = OutcomeName.SUCCEEDED if end is DONE else OutcomeName.FAILED_TRANSIENT
            self.ended.append((held.job.id, held.job.attempt, outcome))
            if end is DONE:
                assert (
                    store.write(tasks.finish, held.job.id, held.token, end, now=self.now(), project=None)
                    == first
                )

    def extend(self, held: PickedTask, store: Database) -> None:
        """Ask for more time."""
        try:
            store.write(
                tasks.extend,
                held.job.id,
                held.token,
                lease_seconds=LEASE_SECONDS,
                now=self.now(),
                project=None,
            )
        except LeaseLost:
            self.refused["extend"] += 1

    def keep(self, store: Database) -> None:
        """Do what the keepers of ledgers do."""
        self.expired += len(store.write(tasks.expire_leases, limit=50, now=self.now()))
        store.write(tasks.make_ready, limit=50, now=self.now())


@pytest.fixture
def fleet(store: Database, database_url: str) -> Iterator[Fleet]:
    """Yield agents that go by two ways to one store."""
    other = Database.open(database_url)
    yield Fleet([store, other])
    other.close()


def test_each_task_has_one_holder_at_a_time_and_none_is_lost(fleet: Fleet) -> None:
    store = fleet.stores[0]
    batch = make_batch(kind="task")
    new = [make_task(retry=PATIENT) for _ in range(TASKS)]
    store.write(submissions.insert_batch, batch, iter(new))

    with ThreadPoolExecutor(AGENTS) as pool:
        list(pool.map(fleet.work, range(AGENTS)))

    records = [store.read(queries.get_job, task.id, project=None) for task in new]
    assert {record.state for record in records} == {JobState.SUCCEEDED}
    assert store.read(queries.get_batch, batch.id, project=None).counts == {JobState.SUCCEEDED: TASKS}
    # Each lease is one attempt, and no attempt was given to two agents.
    granted = Counter((each.job.id, each.job.attempt) for each in fleet.picked)
    assert set(granted.values()) == {1}
    assert set(granted) == {(record.id, attempt.number) for record in records for attempt in record.attempts}
    # What was accepted is what is recorded; all other leases ran out.
    recorded = {
        (record.id, attempt.number): attempt.outcome for record in records for attempt in record.attempts
    }
    accepted = {(job_id, attempt): outcome for job_id, attempt, outcome in fleet.ended}
    assert len(accepted) == len(fleet.ended)
    assert {key: recorded[key] for key in accepted} == accepted
    assert _expired(records) == recorded.keys() - accepted.keys()
    assert len(_expired(records)) == fleet.expired


def test_one_picker_gets_the_newest_of_all_that_are_there_while_others_come(fleet: Fleet) -> None:
    store, other = fleet.stores
    committed: set[UUID] = set()
    is_over = threading.Event()

    def submit() -> None:
        for _ in range(80):
            new = [make_task() for _ in range(random.choice([1, 2]))]
            other.write(submissions.insert_jobs, new)
            committed.update(task.id for task in new)
        is_over.set()

    picked: list[UUID] = []
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(submit)
        asked = PickRequest("default", "agent-1", 1, LEASE_SECONDS, PickOrder.NEWEST, project="default")
        while not (was_over := is_over.is_set()) or len(picked) < len(committed):
            there = committed.copy() - set(picked)
            found = store.write(tasks.pick, asked, now=NOON)
            assert found or not there
            assert all(each.job.id >= max(there, default=each.job.id) for each in found)
            picked += [each.job.id for each in found]
            assert found or not was_over
        submitted.result()

    assert set(picked) == committed and len(picked) == len(committed)


def _expired(records: list[JobRecord]) -> set[tuple[UUID, int]]:
    return {
        (record.id, attempt.number)
        for record in records
        for attempt in record.attempts
        if attempt.reason == "lease_expired"
    }
