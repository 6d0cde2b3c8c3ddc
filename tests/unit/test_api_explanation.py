"""Why a job is not finished, in one sentence: every sentence there is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from producer.api.explanation import explain
from producer.pausing import (
    FRESH_SECONDS,
    MOST_COUNTED,
    Circumstances,
    Pause,
    QueueObservation,
    TaskQueueObservation,
)
from producer.records import AttemptRecord, JobRecord
from shared.kinds.registry import Lane
from shared.states import JobState
from tests.support.factories import make_record

HOUR_AGO = "2026-01-02T11:00:00+00:00"
NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
EARLIER, LATER = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
LONG_AGO = NOW - timedelta(seconds=FRESH_SECONDS + 1)

ACCEPTED = make_record()
QUEUED = make_record(state=JobState.QUEUED)
RUNNING = make_record(state=JobState.RUNNING, attempt=2)
SCHEDULED = make_record(state=JobState.SCHEDULED, due_at=LATER)
DELAYED = make_record(state=JobState.DELAYED, attempt=1, reason="http_503", due_at=LATER)
OVERDUE = replace(DELAYED, due_at=EARLIER)


def around(
    *, ready: int = 1_204, consumers: int = 2, age_seconds: int = 3, pause: Pause | None = None
) -> Circumstances:
    """Return what is known when the job's queue was seen like this."""
    seen = QueueObservation(
        "jobs.check.bulk", "check", "bulk", ready, consumers, NOW - timedelta(seconds=age_seconds)
    )
    return Circumstances(NOW, {("check", "bulk"): seen}, [pause] if pause else [])


SEEN = around()
OLD = around(age_seconds=FRESH_SECONDS + 1)
NEVER = Circumstances(NOW)
UNASKED = Circumstances(NOW, is_known=False)

KIND = Pause("check", "*", EARLIER, "ann", "The target is down.")
QUEUE = Pause("check", "bulk", EARLIER, "ann")
LANE = Pause("*", "bulk", EARLIER, "bob", "sale")
ORDER = f"since {HOUR_AGO} by ann"

QUEUES = "queues jobs.check.bulk and jobs.check.bundles"
IN = f"In {QUEUES}"
# Its receiver would see what a crash repeats, so each job is a message of its own.
WEBHOOK = replace(QUEUED, kind="webhook")
SEEN_WEBHOOKS = Circumstances(NOW, {("webhook", "bulk"): replace(SEEN.queues["check", "bulk"], ready=1)})
COMMAND = replace(QUEUED, kind="command")
NOBODY_RUNS_COMMANDS = Circumstances(
    NOW, {("command", "bulk"): replace(SEEN.queues["check", "bulk"], ready=1, consumers=0)}
)
TASK = replace(QUEUED, kind="task", queue="builds")


def asked(waiting: int, *, seconds_ago: float | None = None) -> Circumstances:
    """Return what is known when an agent has asked for the task's queue so long ago, or none has."""
    at = None if seconds_ago is None else NOW - timedelta(seconds=seconds_ago)
    seen = TaskQueueObservation(waiting, at, None if at is None else "ci-7")
    return Circumstances(NOW, task_queues={"builds": seen})


SERVE_BUILDS = "python -m consumer agent --api URL --queue builds, or ask with POST /tasks/pick"

SENTENCES: list[tuple[JobRecord, Circumstances, str | None]] = [
    (ACCEPTED, SEEN, "Stored; waiting to be published to the broker."),
    (ACCEPTED, UNASKED, "Stored; waiting to be published to the broker."),
    (ACCEPTED, NEVER, "Stored; waiting to be published to the broker, which no ledger has reached yet."),
    (
        ACCEPTED,
        OLD,
        (
            "Stored; waiting to be published to the broker, which no ledger has reached since "
            "2026-01-02T11:59:29+00:00."
        ),
    ),
    (
        QUEUED,
        SEEN,
        f"{IN}: 1,204 messages are ready, 2 workers take from them (seen 3 s ago).",
    ),
    (
        QUEUED,
        around(ready=1, consumers=1, age_seconds=0),
        f"{IN}: 1 message is ready, 1 worker takes from them (seen 0 s ago).",
    ),
    # The clock of the ledger is ahead of ours.
    (
        QUEUED,
        around(ready=0, age_seconds=-5),
        f"{IN}: 0 messages are ready, 2 workers take from them (seen 0 s ago).",
    ),
    (
        QUEUED,
        around(consumers=0),
        (f"No worker for check in lane bulk is connected; 1,204 messages wait in {QUEUES} (seen 3 s ago)."),
    ),
    (
        QUEUED,
        around(ready=1, consumers=0),
        f"No worker for check in lane bulk is connected; 1 message waits in {QUEUES} (seen 3 s ago).",
    ),
    (
        QUEUED,
        OLD,
        f"{IN}, which no ledger has seen since 2026-01-02T11:59:29+00:00.",
    ),
    (QUEUED, NEVER, f"{IN}, which no ledger has looked at yet."),
    (QUEUED, UNASKED, "In its queue; waiting for a worker."),
    (
        WEBHOOK,
        SEEN_WEBHOOKS,
        "In queue jobs.webhook.bulk: 1 job is ready, 2 workers take from it (seen 3 s ago).",
    ),
    (
        COMMAND,
        NOBODY_RUNS_COMMANDS,
        (
            "No worker for command in lane bulk is connected; 1 job waits in queue jobs.command.bulk "
            "(seen 3 s ago); start one with python -m consumer worker --kinds command, or in compose the "
            "profile commands."
        ),
    ),
    (TASK, UNASKED, "Waiting in task queue builds for an agent to pick it."),
    (
        TASK,
        asked(3, seconds_ago=4.4),
        "In task queue builds, where 3 tasks wait for agents; ci-7 asked for tasks 4 s ago.",
    ),
    # The clock of the API process that wrote it down is ahead of ours.
    (
        TASK,
        asked(1, seconds_ago=-2),
        "In task queue builds, where 1 task waits for agents; ci-7 asked for tasks 0 s ago.",
    ),
    (
        TASK,
        asked(MOST_COUNTED, seconds_ago=3_600),
        (
            "In task queue builds, where 1,000 or more tasks wait for agents; none has asked for tasks since "
            f"{HOUR_AGO}; start one with {SERVE_BUILDS}."
        ),
    ),
    (
        TASK,
        asked(2),
        (
            "In task queue builds, where 2 tasks wait for agents; none has asked for tasks lately; "
            f"start one with {SERVE_BUILDS}."
        ),
    ),
    (
        replace(OVERDUE, kind="task", queue="builds"),
        asked(1, seconds_ago=1),
        (
            f"Attempt 2 after http_503 has been due since {HOUR_AGO}; in task queue builds, where 1 task "
            "waits for agents; ci-7 asked for tasks 1 s ago."
        ),
    ),
    (RUNNING, SEEN, "Attempt 2 is running."),
    (
        replace(
            RUNNING,
            attempts=[
                AttemptRecord(1, 1, LONG_AGO, LONG_AGO, None, None, None, "host-6"),
                AttemptRecord(1, 2, EARLIER, None, None, None, None, "host-7"),
            ],
        ),
        around(pause=KIND),
        "Attempt 2 has been running since 2026-01-02T11:00:00+00:00 on host-7.",
    ),
    (
        replace(RUNNING, cancel_requested_at=NOW),
        SEEN,
        "Attempt 2 is running; its worker has been told to cancel it.",
    ),
    (DELAYED, SEEN, "Waiting until 2026-01-02T13:00:00+00:00 for attempt 2 after http_503."),
    (
        replace(DELAYED, attempt=0, reason="host_busy", explanation="Deferred, because a.example is busy."),
        SEEN,
        "Deferred, because a.example is busy. Back in its queue from 2026-01-02T13:00:00+00:00 on.",
    ),
    (
        replace(DELAYED, attempt=0, reason="worker_busy", explanation="In a worker's hand, which waits."),
        SEEN,
        "In a worker's hand, which waits.",
    ),
    (DELAYED, around(pause=KIND), "Waiting until 2026-01-02T13:00:00+00:00 for attempt 2 after http_503."),
    (
        OVERDUE,
        SEEN,
        (
            f"Attempt 2 after http_503 has been due since {HOUR_AGO}; in {QUEUES}: "
            "1,204 messages are ready, 2 workers take from them (seen 3 s ago)."
        ),
    ),
    (
        replace(OVERDUE, reason=None),
        around(consumers=0),
        (
            f"Attempt 2 after a failure has been due since {HOUR_AGO}; no worker for check in lane "
            f"bulk is connected; 1,204 messages wait in {QUEUES} (seen 3 s ago)."
        ),
    ),
    (
        OVERDUE,
        UNASKED,
        (f"Attempt 2 after http_503 has been due since {HOUR_AGO}; in its queue; waiting for a worker."),
    ),
    (SCHEDULED, SEEN, "Waiting until 2026-01-02T13:00:00+00:00, its time to run."),
    (
        SCHEDULED,
        around(pause=QUEUE),
        (
            "Waiting until 2026-01-02T13:00:00+00:00, its time to run; "
            f"kind check is paused in lane bulk {ORDER}."
        ),
    ),
    (ACCEPTED, around(pause=KIND), f"Kind check is paused {ORDER}: The target is down."),
    (QUEUED, around(pause=QUEUE), f"Kind check is paused in lane bulk {ORDER}."),
    (OVERDUE, around(pause=LANE), f"Lane bulk is paused {ORDER[:-3]}bob: sale."),
    (
        replace(QUEUED, lane=Lane.INTERACTIVE),
        around(pause=LANE),
        "In queue jobs.check.interactive, which no ledger has looked at yet.",
    ),
    (replace(ACCEPTED, state=JobState.PARKED, reason="http_404", explanation="Gone."), SEEN, "Gone."),
    (replace(ACCEPTED, state=JobState.PARKED, reason="http_404"), SEEN, "http_404"),
    (replace(ACCEPTED, state=JobState.CANCELLED, explanation="Cancelled."), around(pause=KIND), "Cancelled."),
    (replace(ACCEPTED, state=JobState.SUCCEEDED), around(pause=KIND), None),
]


@pytest.mark.parametrize(("record", "known", "sentence"), SENTENCES)
def test_a_job_says_what_it_waits_for(record: JobRecord, known: Circumstances, sentence: str | None) -> None:
    assert explain(record, known) == sentence


def test_of_several_pauses_the_oldest_is_named() -> None:
    newer = replace(LANE, since=NOW)

    assert Circumstances(NOW, {}, [newer, KIND]).pause("check", "bulk") is KIND
