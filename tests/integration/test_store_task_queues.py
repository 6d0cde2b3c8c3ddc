"""Which task queues agents ask for, and how many tasks wait there, on both stores."""

from dataclasses import replace
from datetime import timedelta

import pytest

from producer.pausing import TaskQueueObservation
from producer.store import queues, submissions
from producer.store.database import Database
from shared.states import JobState
from tests.support.factories import NOON, make_job, make_record

LATER = NOON + timedelta(minutes=1)


def look(store: Database, *names: str | None) -> dict[str, TaskQueueObservation]:
    around = [replace(make_record(state=JobState.QUEUED), queue=name) for name in names]
    return dict(store.read(queues.circumstances, now=LATER, around=around).task_queues)


def submit(store: Database, queue: str, *, number: int) -> None:
    args = {"queue": queue, "payload": 1}
    store.write(submissions.insert_jobs, [make_job(kind="task", args=args, host="") for _ in range(number)])


def test_a_queue_says_how_many_tasks_wait_and_which_agent_asked_for_them_last(store: Database) -> None:
    submit(store, "builds", number=3)
    submit(store, "nights", number=1)
    for agent, at in (("a", NOON), ("b", LATER)):
        store.write(queues.note_asked, "builds", agent=agent, now=at)

    assert look(store, "builds", "nights", "empty", None) == {
        "builds": TaskQueueObservation(3, LATER, "b"),
        "nights": TaskQueueObservation(1),
        "empty": TaskQueueObservation(0),
    }
    assert look(store) == {}


def test_no_more_tasks_are_counted_than_anybody_wants_to_know(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MOST_COUNTED", 2)
    submit(store, "builds", number=3)

    assert look(store, "builds")["builds"].waiting == 2


def test_queues_that_nobody_asks_for_any_more_are_forgotten(store: Database) -> None:
    store.write(queues.note_asked, "old", agent="a", now=NOON - timedelta(days=8))
    store.write(queues.note_asked, "new", agent="a", now=NOON)

    asked = look(store, "old", "new")

    assert (asked["old"].asked_at, asked["new"].asked_at) == (None, NOON)


def test_whoever_asks_for_ever_new_queues_fills_no_table(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "_MOST_TASK_QUEUES", 3)
    names = [f"queue-{number}" for number in range(5)]
    for minute, name in enumerate(names):
        store.write(queues.note_asked, name, agent="a", now=NOON + timedelta(minutes=minute))

    asked = look(store, *names)

    assert [name for name in names if asked[name].asked_at] == names[2:]
