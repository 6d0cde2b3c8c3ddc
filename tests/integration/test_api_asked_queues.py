"""Which queues agents ask for, as an API process writes it down: seldom, and bounded; on both stores."""

from collections.abc import Iterator

import pytest

from producer.api import asked_queues
from producer.api.asked_queues import AskedQueues
from producer.store import queues
from producer.store.database import Database, Store
from shared.clock import utc_now


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
    seen = store.read(queues.circumstances, now=utc_now(), task_queues=[queue]).task_queues
    return seen[queue].agent


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
