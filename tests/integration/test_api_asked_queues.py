"""Which queues agents ask for, as an API process writes it down: seldom, and bounded; on both stores."""

import re
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from producer.api import asked_queues
from producer.api.asked_queues import AskedQueues
from producer.store import queues
from producer.store.database import Database, Store
from shared.clock import utc_now
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_record


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def coroutine_store(store: Database) -> Iterator[Store]:
    """Yield the store for coroutines."""
    opened = Store(store)
    yield opened
    opened.close()


def last_agent(store: Database, queue: str) -> str | None:
    task = replace(make_record(state=JobState.QUEUED), queue=queue)
    return store.read(queues.circumstances, now=utc_now(), around=[task]).task_queues[queue].agent


async def test_a_queue_is_noted_once_in_ten_seconds_whoever_asks(
    store: Database, coroutine_store: Store
) -> None:
    clock = Clock()
    asked = AskedQueues(coroutine_store, clock=clock)
    for agent, seconds, noted in (("a", 0.0, "a"), ("b", 9.9, "a"), ("c", 0.2, "c"), ("d", 5.0, "c")):
        clock.now += seconds
        await asked.note("builds", agent)
        assert last_agent(store, "builds") == noted

    await asked.note("nights", "d")
    assert last_agent(store, "nights") == "d"


async def test_of_more_queues_than_are_kept_in_mind_the_first_is_noted_again(
    store: Database, coroutine_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_queues, "_MOST_NAMES", 2)
    asked = AskedQueues(coroutine_store, clock=Clock())
    for queue in ("one", "two", "three"):
        await asked.note(queue, "a")

    for queue in ("three", "one"):
        await asked.note(queue, "b")

    assert [last_agent(store, queue) for queue in ("one", "three")] == ["b", "a"]


def test_a_task_says_whether_any_agent_asks_for_its_queue(api: RunningApi) -> None:
    served, forgotten = uuid.uuid4().hex, uuid.uuid4().hex
    api.client.post("/tasks/pick", json={"queue": served, "agent": "ci-7"})
    ids = {
        queue: api.client.post("/tasks", json={"queue": queue, "payload": 1}).json()["id"]
        for queue in (served, forgotten)
    }

    said = {each["queue"]: each["explanation"] for each in api.client.get("/tasks").json()["items"]}

    waits = "where 1 task waits for agents"
    assert re.fullmatch(f"In task queue {served}, {waits}; ci-7 asked for tasks [0-9]+ s ago.", said[served])
    assert said[forgotten].startswith(
        f"In task queue {forgotten}, {waits}; none has asked for tasks lately; start one with "
    )
    for path in (f"/tasks/{ids[forgotten]}", f"/jobs/{ids[forgotten]}"):
        assert api.client.get(path).json()["explanation"] == said[forgotten]
