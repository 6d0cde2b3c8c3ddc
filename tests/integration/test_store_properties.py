"""Whatever happens to the jobs of a batch, in whatever order: nothing moves back, is lost or told twice."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from producer.records import IdempotencyKey, KeyScope
from producer.store import batches, endings, events, outbox, parking, queries, recording, submissions
from producer.store.database import Database
from shared.errors import JobEndedAlready, JobNotParked
from shared.events import EventType
from shared.states import JobState, position
from tests.support.factories import NOON, make_batch, make_deferral, make_job, make_report

JOBS = 3
# `make fuzz` tries 200.
EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "15"))
LATER = NOON + timedelta(hours=1)
KEY = IdempotencyKey(KeyScope.JOB, "property", b"fingerprint", NOON + timedelta(days=1), project="default")

indexes = st.integers(0, JOBS - 1)
runs = st.integers(1, 3)
attempts = st.integers(1, 3)
reported = st.sampled_from(
    [JobState.RUNNING, JobState.DELAYED, JobState.SUCCEEDED, JobState.PARKED, JobState.CANCELLED]
)


class Life(RuleBasedStateMachine):
    """A batch of jobs, everything that can be done to it, and what must hold after each step."""

    def __init__(self, store: Database) -> None:
        super().__init__()
        self.store = store
        self.batch = make_batch()
        self.jobs = [make_job() for _ in range(JOBS)]
        store.write(submissions.insert_batch, self.batch, self.jobs)
        self.reached: dict[UUID, int] = {}
        self.outcomes: Counter[tuple[str, int]] = Counter()
        self.completions = 0

    @rule(index=indexes, run=runs, attempt=attempts, state=reported)
    def report(self, index: int, run: int, attempt: int, state: JobState) -> None:
        """A worker reports: on time, late, twice, or of a run that never was."""
        self.store.write(
            recording.record_reports,
            [make_report(self.jobs[index].id, state, run=run, attempt=attempt)],
            now=LATER,
        )

    @rule(reports=st.lists(st.tuples(indexes, runs, attempts, reported), max_size=6))
    def report_many(self, reports: list[tuple[int, int, int, JobState]]) -> None:
        """Reports of several jobs, or several of one, in one transaction."""
        self.store.write(
            recording.record_reports,
            [make_report(self.jobs[i].id, state, run=run, attempt=n) for i, run, n, state in reports],
            now=LATER,
        )

    @rule(index=indexes, run=runs, attempt=st.integers(0, 2), seconds=st.integers(1, 9))
    def defer(self, index: int, run: int, attempt: int, seconds: int) -> None:
        """A worker sends a job back, because its host has no turn: on time, late or twice."""
        deferral = make_deferral(self.jobs[index].id, run=run, attempt=attempt, seconds=seconds)
        before = self.store.read(queries.get_job, deferral.job_id, project=None)
        self.store.write(recording.record_reports, [deferral], now=LATER)
        after = self.store.read(queries.get_job, deferral.job_id, project=None)
        assert after.attempts == before.attempts
        here = before.run, before.attempt, before.state
        if after.state is JobState.DELAYED and here == (after.run, after.attempt, after.state):
            assert before.due_at is None or (after.due_at is not None and after.due_at >= before.due_at)

    @rule(index=indexes, run=runs)
    def queue(self, index: int, run: int) -> None:
        """The relay marks what it has published."""
        self.store.write(outbox.mark_queued, [(self.jobs[index].id, run)], now=LATER)

    @rule(index=indexes)
    def cancel(self, index: int) -> None:
        """A person cancels a job."""
        self._try(lambda: self.store.write(endings.cancel_job, self.jobs[index].id, now=LATER, project=None))

    @rule()
    def cancel_batch(self) -> None:
        """A person cancels all of them."""
        endings.cancel_batch(self.store, self.batch.id, now=LATER, project=None)

    @rule(index=indexes)
    def redrive(self, index: int) -> None:
        """A person sends a parked job back."""
        self._try(lambda: self.store.write(parking.redrive, self.jobs[index].id, now=LATER, project=None))

    @rule(index=indexes)
    def discard(self, index: int) -> None:
        """A person ends a parked job for good."""
        self._try(lambda: self.store.write(parking.discard, self.jobs[index].id, now=LATER, project=None))

    @rule()
    def submit_again(self) -> None:
        """The same request comes again and again, with other ids of ours."""
        jobs = [make_job() for _ in range(2)]
        keyed = [replace(job, idempotency=KEY) for job in jobs]
        answers = {answer.id for answer in self.store.write(submissions.admit_jobs, keyed).values()}
        assert len(answers) == 1

    @invariant()
    def nothing_moves_back(self) -> None:
        """A job's position only grows."""
        for job in self.jobs:
            record = self.store.read(queries.get_job, job.id, project=None)
            here = position(run=record.run, attempt=record.attempt, state=record.state)
            assert here >= self.reached.get(job.id, 0)
            self.reached[job.id] = here

    @invariant()
    def the_counts_are_what_the_jobs_say(self) -> None:
        """The batch's row agrees with its jobs."""
        assert self.store.read(batches.wrong_counts, self.batch.id) == {}

    @invariant()
    def every_end_is_told_once(self) -> None:
        """Each run of a job has one outcome at most, and the batch one completion."""
        claimed = self.store.write(events.claim_events, limit=1_000, lease_seconds=1, now=LATER)
        self.store.write(events.forget_events, [event.id for event in claimed])
        for event in claimed:
            if event.type is EventType.OUTCOME:
                self.outcomes[event.body["job_id"], event.body["run"]] += 1
            elif event.type is EventType.BATCH:
                self.completions += 1
        assert set(self.outcomes.values()) <= {1}
        assert self.completions <= 1
        ended = [
            record
            for job in self.jobs
            if (record := self.store.read(queries.get_job, job.id, project=None)).state.is_final
        ]
        assert all(self.outcomes[str(record.id), record.run] == 1 for record in ended)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (JobEndedAlready, JobNotParked):
            pass  # What is refused must change nothing; the invariants look.


def test_no_order_of_events_breaks_what_must_hold(store: Database) -> None:
    run_state_machine_as_test(
        lambda: Life(store),  # type: ignore[arg-type]
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
