"""Tasks on both stores: who gets which, who holds one, what ends a lease."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from producer.records import JobFilter, JobRecord, NewJob, SubmissionStatus
from producer.scheduling import decide_step
from producer.store import (
    endings,
    events,
    outputs,
    queries,
    queues,
    recording,
    retention,
    schedule_runs,
    schedules,
    submissions,
    tasks,
)
from producer.store.database import Database
from producer.submission import new_job
from producer.submission_models import JobSubmission
from producer.tasks import FinishRequest, PickedTask, PickRequest, QueueLength, TaskQueue
from shared.clock import utc_now
from shared.errors import JobNotFound, LeaseLost, NotATask
from shared.identity import new_id
from shared.kinds.command import OutputSnapshot, OutputText
from shared.kinds.registry import Lane
from shared.kinds.task import PickOrder
from shared.outcomes import Cancelled, Failed, OutcomeName, Succeeded
from shared.retry import RetryPolicy
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report, make_schedule, make_task

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
DONE = Succeeded({"output": {"title": "Alien"}, "agent": "agent-1"})
TRANSIENT = Failed("agent_failed", "The disk was full.", transient=True)
PERMANENT = Failed("agent_failed", "There is no such film.", transient=False)
SURE = RetryPolicy(max_attempts=2, first_delay_seconds=30, jitter=False)


def insert(store: Database, *new_tasks: NewJob) -> None:
    store.write(submissions.insert_jobs, new_tasks)


def pick(
    store: Database,
    *,
    queue: str = "default",
    agent: str = "agent-1",
    limit: int = 1,
    order: PickOrder = PickOrder.OLDEST,
    now: datetime = NOON,
) -> list[PickedTask]:
    asked = PickRequest(
        queue=queue, agent=agent, limit=limit, lease_seconds=60, order=order, project="default"
    )
    return store.write(tasks.pick, asked, now=now)


def pick_one(store: Database, *, agent: str = "agent-1", now: datetime = NOON) -> PickedTask:
    (picked,) = pick(store, agent=agent, now=now)
    return picked


def get(store: Database, job_id: UUID) -> JobRecord:
    return store.read(queries.get_job, job_id, project=None)


def expire(store: Database, now: datetime) -> list[tuple[str, JobState]]:
    ended = store.write(tasks.expire_leases, limit=100, now=now)
    return [(each.queue, each.transition.state) for each in ended]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(LeaseLost) as caught:
        call()
    return str(caught.value)


def test_a_new_task_is_queued_and_an_agent_that_picks_it_holds_it_for_its_lease(store: Database) -> None:
    task = make_task(queue="films", labels={"team": "web"}, ref="row 4")
    insert(store, task)
    assert get(store, task.id).state is JobState.QUEUED

    (picked,) = pick(store, queue="films", now=NOON + MINUTE)

    assert (picked.job.id, picked.job.args, picked.job.labels, picked.job.ref) == (
        task.id,
        {"payload": {"film": 4}, "queue": "films"},
        {"team": "web"},
        "row 4",
    )
    assert (picked.job.state, picked.job.attempt, picked.job.queue) == (JobState.RUNNING, 1, "films")
    assert picked.leased_until == NOON + 2 * MINUTE and len(picked.token) >= 20
    stored = get(store, task.id)
    assert (stored.state, stored.attempt, stored.leased_until) == (JobState.RUNNING, 1, NOON + 2 * MINUTE)
    (attempt,) = stored.attempts
    assert (attempt.number, attempt.worker, attempt.started_at, attempt.ended_at) == (
        1,
        "agent-1",
        NOON + MINUTE,
        None,
    )
    assert pick(store, queue="films", now=NOON + MINUTE) == []


def test_a_pick_gives_tasks_of_its_queue_alone_and_no_other_jobs(store: Database) -> None:
    mail, films = make_task(queue="mail"), make_task(queue="films")
    insert(store, mail, films, make_job(), make_task())

    assert [each.job.id for each in pick(store, queue="films", limit=9)] == [films.id]
    assert pick(store, queue="Films", limit=9) == []


@pytest.mark.parametrize("order", list(PickOrder))
def test_tasks_come_in_the_order_asked_for(store: Database, order: PickOrder) -> None:
    new = [make_task() for _ in range(10)]
    insert(store, *new[:6])
    insert(store, *new[6:])
    wanted = [task.id for task in (reversed(new) if order is PickOrder.NEWEST else new)]

    picked = [each.job.id for _ in range(4) for each in pick(store, limit=3, order=order)]

    assert picked == wanted


def test_the_newest_comes_first_whatever_was_picked_before(store: Database) -> None:
    new = [make_task() for _ in range(4)]
    insert(store, *new[:2])
    first = pick(store, order=PickOrder.NEWEST)
    insert(store, *new[2:])

    rest = [each for _ in range(3) for each in pick(store, order=PickOrder.NEWEST)]

    assert [each.job.id for each in first + rest] == [new[1].id, new[3].id, new[2].id, new[0].id]


def test_the_tasks_of_a_batch_come_in_the_order_of_its_lines(store: Database) -> None:
    batch = make_batch(kind="task")
    new = [make_task(queue="mail" if number % 2 else "films") for number in range(6)]
    store.write(submissions.insert_batch, batch, iter(new))
    assert store.read(queries.get_batch, batch.id, project=None).counts == {JobState.QUEUED: 6}

    picked = pick(store, queue="mail", limit=9)

    assert [each.job.id for each in picked] == [task.id for task in new[1::2]]
    assert store.read(queries.get_batch, batch.id, project=None).counts == {
        JobState.QUEUED: 3,
        JobState.RUNNING: 3,
    }


def test_a_finished_task_has_its_result_and_its_attempt_an_end(store: Database) -> None:
    task = make_task()
    insert(store, task)
    picked = pick_one(store)

    finished = store.write(tasks.finish, task.id, picked.token, DONE, now=NOON + SECOND, project=None)

    assert (finished.state, finished.result, finished.finished_at) == (
        JobState.SUCCEEDED,
        DONE.result,
        NOON + SECOND,
    )
    assert finished == get(store, task.id)
    (attempt,) = finished.attempts
    assert (attempt.outcome, attempt.worker, attempt.started_at, attempt.ended_at) == (
        OutcomeName.SUCCEEDED,
        "agent-1",
        NOON,
        NOON + SECOND,
    )


def test_a_task_that_failed_is_picked_again_after_its_wait_and_then_parked(store: Database) -> None:
    task = make_task(retry=SURE)
    insert(store, task)

    failed = store.write(tasks.finish, task.id, pick_one(store).token, TRANSIENT, now=NOON, project=None)

    assert (failed.state, failed.reason, failed.due_at) == (
        JobState.DELAYED,
        "agent_failed",
        NOON + 30 * SECOND,
    )
    assert store.read(tasks.next_due_at, now=NOON) == NOON + 30 * SECOND
    assert store.write(tasks.make_ready, limit=9, now=NOON + 29 * SECOND) == []
    assert pick(store, now=NOON + MINUTE) == []
    assert store.write(tasks.make_ready, limit=9, now=NOON + 30 * SECOND) == ["default"]
    assert store.write(tasks.make_ready, limit=9, now=NOON + 30 * SECOND) == []
    again = pick_one(store, now=NOON + 30 * SECOND)
    assert (again.job.attempt, again.job.due_at, again.job.reason) == (2, None, None)
    parked = store.write(tasks.finish, task.id, again.token, TRANSIENT, now=NOON + MINUTE, project=None)
    assert (parked.state, parked.reason, parked.explanation) == (
        JobState.PARKED,
        "agent_failed",
        "The disk was full.",
    )
    assert [each.outcome for each in parked.attempts] == [OutcomeName.FAILED_TRANSIENT] * 2


def test_a_task_that_failed_for_good_is_parked(store: Database) -> None:
    task = make_task()
    insert(store, task)

    parked = store.write(tasks.finish, task.id, pick_one(store).token, PERMANENT, now=NOON, project=None)

    assert (parked.state, parked.attempt) == (JobState.PARKED, 1)


@pytest.mark.parametrize("end", [DONE, TRANSIENT, PERMANENT, Cancelled()])
def test_an_end_that_is_told_twice_changes_nothing_the_second_time(
    store: Database, end: Succeeded | Failed | Cancelled
) -> None:
    task = make_task()
    insert(store, task)
    token = pick_one(store).token
    first = store.write(tasks.finish, task.id, token, end, now=NOON, project=None)

    again = store.write(tasks.finish, task.id, token, end, now=NOON + MINUTE, project=None)

    assert again == first


def test_another_end_by_the_same_token_is_refused(store: Database) -> None:
    task = make_task()
    insert(store, task)
    token = pick_one(store).token
    first = store.write(tasks.finish, task.id, token, DONE, now=NOON, project=None)

    words = refused(lambda: store.write(tasks.finish, task.id, token, PERMANENT, now=NOON, project=None))

    assert words == "With this token attempt 1 ended as succeeded; the task is succeeded."
    assert get(store, task.id) == first


def test_agents_that_pick_together_get_what_each_would_have_got_alone(store: Database) -> None:
    old, middle, new = make_task(), make_task(), make_task()
    mail = make_task(queue="mail")
    insert(store, old, middle, new, mail)
    asked = [
        PickRequest("default", "ann", limit=1, lease_seconds=60, project="default"),
        PickRequest("default", "bob", limit=3, lease_seconds=60, order=PickOrder.NEWEST, project="default"),
        PickRequest("mail", "cid", limit=5, lease_seconds=120, project="default"),
        PickRequest("default", "dan", limit=1, lease_seconds=60, project="default"),
    ]

    ann, bob, cid, dan = store.write(tasks.pick_all, asked, now=NOON)
    (nothing,) = store.write(tasks.pick_all, asked[:1], now=NOON)

    # Those that ask for the same come one after the other.
    picked = [[each.job.id for each in got] for got in (ann, dan, bob, cid, nothing)]
    assert picked == [[old.id], [middle.id], [new.id], [mail.id], []]
    held = [get(store, task.id) for task in (old, middle, new, mail)]
    assert [record.attempts[0].worker for record in held] == ["ann", "dan", "bob", "cid"]
    assert [record.leased_until for record in held] == [NOON + MINUTE] * 3 + [NOON + 2 * MINUTE]
    assert len({got[0].token for got in (ann, bob, cid, dan)}) == 4


def test_ends_that_are_told_together_come_to_what_each_would_have_come_to_alone(store: Database) -> None:
    batch = make_batch()
    lines = [make_task(batch_id=batch.id) for _ in range(3)]
    store.write(submissions.insert_batch, batch, lines)
    check = make_job()
    insert(store, check)
    first, second, third = pick(store, limit=3)
    nobody = new_id()
    asked = [
        FinishRequest(third.job.id, third.token, DONE, project=None),
        FinishRequest(first.job.id, first.token, PERMANENT, project=None),
        FinishRequest(third.job.id, third.token, DONE, project=None),
        FinishRequest(third.job.id, third.token, PERMANENT, project=None),
        FinishRequest(second.job.id, "another", DONE, project=None),
        FinishRequest(check.id, "another", DONE, project=None),
        FinishRequest(nobody, "another", DONE, project=None),
    ]

    ended = store.write(tasks.finish_all, asked, now=NOON + SECOND)

    assert [type(each).__name__ for each in ended] == [
        *("JobRecord", "JobRecord", "JobRecord", "LeaseLost", "LeaseLost", "NotATask", "JobNotFound")
    ]
    assert ended[0] == ended[2] == get(store, third.job.id)
    assert get(store, third.job.id).state is JobState.SUCCEEDED
    assert get(store, first.job.id).state is JobState.PARKED
    assert get(store, second.job.id).state is JobState.RUNNING
    counts = store.read(queries.get_batch, batch.id, project=None).counts
    assert counts == {JobState.SUCCEEDED: 1, JobState.PARKED: 1, JobState.RUNNING: 1}


def test_a_lease_that_is_extended_runs_on_from_then(store: Database) -> None:
    insert(store, make_task())
    picked = pick_one(store)

    lease = store.write(
        tasks.extend, picked.job.id, picked.token, lease_seconds=90, now=NOON + 59 * SECOND, project=None
    )

    assert (lease.leased_until, lease.cancel_requested) == (NOON + 149 * SECOND, False)
    assert expire(store, NOON + 148 * SECOND) == []
    finished = store.write(
        tasks.finish, picked.job.id, picked.token, DONE, now=NOON + 148 * SECOND, project=None
    )
    assert finished.state is JobState.SUCCEEDED


def test_what_a_task_has_written_is_kept_while_its_lease_is_held(store: Database) -> None:
    insert(store, make_task())
    picked = pick_one(store)
    said = OutputSnapshot(sequence=1, stdout=OutputText(text="half done", bytes=9))

    store.write(
        tasks.extend,
        picked.job.id,
        picked.token,
        lease_seconds=60,
        output=said,
        now=NOON + SECOND,
        project=None,
    )
    late = said.model_copy(update={"sequence": 2, "stdout": OutputText(text="too late", bytes=8)})
    refused(
        lambda: store.write(
            tasks.extend,
            picked.job.id,
            picked.token,
            lease_seconds=60,
            output=late,
            now=NOON + 2 * MINUTE,
            project=None,
        )
    )

    output = store.read(outputs.find_output, picked.job.id, project=None)
    assert (output.stdout.text, output.attempt, output.is_running) == ("half done", 1, True)


def test_a_lease_that_ran_out_is_worth_nothing_even_before_anybody_has_looked(store: Database) -> None:
    insert(store, make_task())
    picked = pick_one(store)
    late = NOON + MINUTE

    words = [
        refused(lambda: store.write(tasks.finish, picked.job.id, picked.token, DONE, now=late, project=None)),
        refused(
            lambda: store.write(
                tasks.extend, picked.job.id, picked.token, lease_seconds=60, now=late, project=None
            )
        ),
    ]

    assert (
        words
        == ["The lease ran out at 2026-01-02T12:01:00+00:00; the task goes to whoever picks it next."] * 2
    )
    assert get(store, picked.job.id).state is JobState.RUNNING


def test_a_lease_that_runs_out_gives_its_task_to_the_next_agent_at_once(store: Database) -> None:
    task = make_task(retry=SURE, queue="films")
    insert(store, task)
    (first,) = pick(store, queue="films", agent="frozen")
    assert store.read(tasks.next_due_at, now=NOON) == NOON + MINUTE
    assert expire(store, NOON + MINUTE - SECOND) == []

    assert expire(store, NOON + MINUTE) == [("films", JobState.DELAYED)]

    waiting = get(store, task.id)
    assert (waiting.reason, waiting.attempt, waiting.attempts[0].outcome) == (
        "lease_expired",
        1,
        OutcomeName.FAILED_TRANSIENT,
    )
    (second,) = pick(store, queue="films", agent="awake", now=NOON + MINUTE)
    assert (second.job.id, second.job.attempt, second.token != first.token) == (task.id, 2, True)
    words = refused(
        lambda: store.write(tasks.finish, task.id, first.token, DONE, now=NOON + MINUTE, project=None)
    )
    assert words.startswith("The token is not that of the lease under which attempt 2 runs now")
    assert expire(store, NOON + 2 * MINUTE) == [("films", JobState.PARKED)]
    parked = get(store, task.id)
    assert (parked.reason, parked.explanation) == (
        "lease_expired",
        "Agent awake held it until 2026-01-02T12:02:00+00:00, and had not ended it by then.",
    )
    words = refused(
        lambda: store.write(tasks.finish, task.id, second.token, DONE, now=NOON + 2 * MINUTE, project=None)
    )
    assert words == "The last lease ran out; the task is parked."


def test_a_token_of_another_task_is_refused(store: Database) -> None:
    insert(store, make_task(), make_task())
    one, other = pick(store, limit=1) + pick(store, limit=1)

    words = refused(lambda: store.write(tasks.finish, one.job.id, other.token, DONE, now=NOON, project=None))

    assert words.startswith("The token is not that of the lease")
    assert get(store, one.job.id).state is JobState.RUNNING


def test_only_a_task_that_is_there_has_a_lease(store: Database) -> None:
    check = make_job()
    insert(store, check)

    with pytest.raises(NotATask):
        store.write(tasks.extend, check.id, "token", lease_seconds=60, now=NOON, project=None)
    with pytest.raises(JobNotFound):
        store.write(tasks.finish, new_id(), "token", DONE, now=NOON, project=None)


def test_a_task_that_waits_is_cancelled_at_once(store: Database) -> None:
    waiting, delayed = make_task(), make_task()
    insert(store, delayed)
    store.write(tasks.finish, delayed.id, pick_one(store).token, TRANSIENT, now=NOON, project=None)
    insert(store, waiting)

    for task in (waiting, delayed):
        assert store.write(endings.cancel_job, task.id, now=NOON, project=None).state is JobState.CANCELLED

    assert store.write(tasks.make_ready, limit=9, now=NOON + 9 * MINUTE) == []
    assert pick(store, now=NOON + 9 * MINUTE) == []


def test_the_agent_of_a_task_that_is_to_end_is_told_and_ends_it(store: Database) -> None:
    insert(store, make_task())
    picked = pick_one(store)

    running = store.write(endings.cancel_job, picked.job.id, now=NOON, project=None)

    assert (running.state, running.cancel_requested_at) == (JobState.RUNNING, NOON)
    lease = store.write(tasks.extend, picked.job.id, picked.token, lease_seconds=60, now=NOON, project=None)
    assert lease.cancel_requested
    ended = store.write(tasks.finish, picked.job.id, picked.token, Cancelled(), now=NOON, project=None)
    assert (ended.state, ended.reason) == (JobState.CANCELLED, "cancelled")


def test_a_task_that_is_to_end_ends_with_its_lease(store: Database) -> None:
    insert(store, make_task())
    picked = pick_one(store)
    store.write(endings.cancel_job, picked.job.id, now=NOON, project=None)

    assert expire(store, NOON + MINUTE) == [("default", JobState.CANCELLED)]
    assert get(store, picked.job.id).attempts[0].outcome is OutcomeName.CANCELLED


def test_a_cancelled_batch_ends_what_waits_and_what_agents_stop(store: Database) -> None:
    batch = make_batch(kind="task")
    store.write(submissions.insert_batch, batch, (make_task() for _ in range(3)))
    picked = pick_one(store)

    endings.cancel_batch(store, batch.id, now=NOON, project=None)

    assert store.read(queries.get_batch, batch.id, project=None).counts == {
        JobState.CANCELLED: 2,
        JobState.RUNNING: 1,
    }
    store.write(tasks.finish, picked.job.id, picked.token, Cancelled(), now=NOON, project=None)
    assert store.read(queries.get_batch, batch.id, project=None).counts == {JobState.CANCELLED: 3}


def test_a_scheduled_task_is_picked_from_its_time_on(store: Database) -> None:
    task = make_task(due_at=NOON + MINUTE)
    insert(store, task)
    assert pick(store, now=NOON + 2 * MINUTE) == []

    (released,) = store.write(schedules.release_due, limit=9, now=NOON + MINUTE)

    assert (released.job_id, released.state) == (task.id, JobState.QUEUED)
    assert get(store, task.id).state is JobState.QUEUED
    assert pick_one(store, now=NOON + MINUTE).job.id == task.id


def test_no_task_is_picked_after_its_deadline(store: Database) -> None:
    late, other = make_task(deadline_at=NOON), make_task(deadline_at=NOON + SECOND)
    insert(store, late, other)

    assert [each.job.id for each in pick(store, limit=9)] == [other.id]

    (expired,) = store.write(schedules.expire_jobs, limit=9, now=NOON + MINUTE)
    assert (expired.job_id, expired.state, expired.reason) == (late.id, JobState.PARKED, "expired")
    # The other one runs; when its lease is over, its deadline is too.
    assert expire(store, NOON + MINUTE) == [("default", JobState.DELAYED)]
    assert pick(store, now=NOON + MINUTE) == []
    (expired,) = store.write(schedules.expire_jobs, limit=9, now=NOON + MINUTE)
    assert (expired.job_id, expired.reason) == (other.id, "expired")


def test_a_paused_kind_or_lane_gives_no_tasks(store: Database) -> None:
    bulk, interactive = make_task(lane=Lane.BULK), make_task()
    insert(store, bulk, interactive)

    def pause(kind: str, lane: str) -> None:
        store.write(queues.pause, kind, lane, by="me", note=None, now=NOON)

    pause("*", "bulk")
    default, mail = TaskQueue("default", "default"), TaskQueue("default", "mail")
    assert store.read(tasks.waiting_queues, [default, mail], now=NOON) == {default}
    assert [each.job.id for each in pick(store, limit=9)] == [interactive.id]
    assert store.read(tasks.waiting_queues, [default], now=NOON) == frozenset()
    store.write(queues.resume, "*", "bulk", by="me", note=None, now=NOON)
    pause("task", "*")
    assert pick(store, limit=9) == []
    assert store.read(tasks.waiting_queues, [default], now=NOON) == frozenset()
    store.write(queues.resume, "task", "*", by="me", note=None, now=NOON)
    pause("check", "*")
    assert [each.job.id for each in pick(store, limit=9)] == [bulk.id]


def test_queues_show_how_many_tasks_are_where(store: Database) -> None:
    insert(store, make_task(queue="mail", created_at=NOON - MINUTE))
    insert(store, *(make_task(queue="mail") for _ in range(3)), make_task(queue="films"), make_job())
    (picked,) = pick(store, queue="films")
    store.write(tasks.finish, picked.job.id, picked.token, TRANSIENT, now=NOON, project=None)
    pick(store, queue="mail", order=PickOrder.NEWEST)

    lengths = store.read(tasks.queue_lengths, limit=9)

    assert lengths == [
        QueueLength("films", delayed=1),
        QueueLength("mail", ready=3, running=1, oldest_ready_at=NOON - MINUTE),
    ]
    assert [each.queue for each in store.read(tasks.queue_lengths, limit=1)] == ["mail"]


def test_a_task_that_a_stranger_reported_on_goes_to_the_next_agent_after_its_lease(
    store: Database,
) -> None:
    insert(store, make_task())
    picked = pick_one(store)
    # Somebody has published a report of it with its token.
    report = make_report(picked.job.id, JobState.RUNNING, attempt=2, kind="task")
    store.write(recording.record_reports, [report], now=NOON)

    assert store.read(tasks.expired_tasks, limit=9, now=picked.leased_until) == [picked.job.id]
    assert expire(store, picked.leased_until) == [("default", JobState.DELAYED)]
    assert pick_one(store).job.attempt == 3


def test_a_lease_from_before_the_clock_was_set_back_by_a_year_runs_out(store: Database) -> None:
    insert(store, make_task())
    pick_one(store, now=NOON + timedelta(days=365))

    assert expire(store, NOON) == [("default", JobState.DELAYED)]


def test_the_end_of_a_task_is_told_as_that_of_every_job(store: Database) -> None:
    task = make_task(callback_url="https://hooks.example.com/", ref="row 4")
    insert(store, task)
    store.write(tasks.finish, task.id, pick_one(store).token, DONE, now=NOON, project=None)

    (event,) = store.write(events.claim_events, limit=9, lease_seconds=60, now=NOON)
    (webhook,) = store.read(
        queries.search_jobs, JobFilter(kind="webhook"), limit=9, after=None, project=None
    ).records

    assert {**event.body, "version": 1} == {
        "version": 1,
        "job_id": str(task.id),
        "kind": "task",
        "run": 1,
        "state": "succeeded",
        "attempt": 1,
        "result": DONE.result,
        "ref": "row 4",
        "finished_at": "2026-01-02T12:00:00.123456Z",
    }
    assert webhook.args["type"] == "job.succeeded" and webhook.state is JobState.ACCEPTED


def test_a_task_is_found_by_all_that_jobs_are_found_by(store: Database) -> None:
    task = make_task(labels={"team": "web"}, ref="row 4")
    insert(store, task, make_task(), make_job())

    for asked in (
        JobFilter(kind="task", labels=[("team", "web")]),
        JobFilter(ref="row 4"),
        JobFilter(state=JobState.QUEUED, kind="task", ref="row 4"),
    ):
        found = store.read(queries.search_jobs, asked, limit=9, after=None, project=None).records
        assert [job.id for job in found] == [task.id]


def test_a_task_is_asked_for_once_in_the_time_in_which_it_is_unique(store: Database) -> None:
    submission = JobSubmission.model_validate(
        {"kind": "task", "args": {"queue": "films", "payload": 4}, "unique_for_seconds": 60}
    )
    first, second = (new_job(submission, job_id=new_id(), now=NOON, project="default") for _ in range(2))

    assert store.write(submissions.admit_jobs, [first])[first.id].status is SubmissionStatus.STORED
    assert store.write(submissions.admit_jobs, [second])[second.id].id == first.id
    assert [each.job.id for each in pick(store, queue="films", limit=9)] == [first.id]


def test_a_schedule_makes_tasks_that_are_picked(store: Database) -> None:
    schedule = make_schedule(template={"job": {"kind": "task", "args": {"queue": "films", "payload": 4}}})
    store.write(schedules.insert_schedule, schedule)
    stored = store.read(schedules.get_schedule, schedule.id, project=None)

    step = decide_step(stored, now=NOON, has_unfinished_run=False)
    assert store.write(schedule_runs.take_steps, [step], now=NOON) == [step]

    assert [each.job.schedule_id for each in pick(store, queue="films", limit=9)] == [schedule.id]
    assert store.read(
        schedules.has_unfinished_run, store.read(schedules.get_schedule, schedule.id, project=None)
    )


def test_old_tasks_are_deleted_with_their_attempts_and_output(store: Database) -> None:
    # Retention goes by the time in the ids.
    insert(store, make_task())
    picked = pick_one(store)
    said = OutputSnapshot(sequence=1, stdout=OutputText(text="half done", bytes=9))
    store.write(
        tasks.extend, picked.job.id, picked.token, lease_seconds=60, output=said, now=NOON, project=None
    )
    store.write(tasks.finish, picked.job.id, picked.token, DONE, now=NOON, project=None)

    page = store.write(
        retention.delete_single_jobs,
        JobState.SUCCEEDED,
        before=utc_now() + timedelta(days=1),
        after=None,
        limit=9,
    )

    assert page.deleted == 1
    with pytest.raises(JobNotFound):
        get(store, picked.job.id)
