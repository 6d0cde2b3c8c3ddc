"""Whatever a broker loses, repeats and delays, and whoever dies: every job ends, once, for a true reason."""

import asyncio
import json
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from consumer import settlement
from producer.callbacks import CALLBACK_LABEL
from producer.parking import NewOperation, OperationAction, ParkedFilter
from producer.records import LOOK_AFTER, AttemptRecord, JobRecord
from producer.store import batches, bulk_actions, endings, parking, queries, schedules, submissions, tasks
from producer.store.database import Database
from producer.store.schema import events, jobs
from producer.tasks import LEASE_EXPIRED, PickedTask, PickRequest
from shared.broker.topology import RECORDER_QUEUE, WORK_DELIVERY_LIMIT
from shared.errors import LeaseLost
from shared.events import BatchCompleted, JobEnded
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.kinds.task import TASK, PickOrder
from shared.outcomes import (
    EXPIRED,
    WORKER_CRASHED,
    DeferralReason,
    Deferred,
    Failed,
    Outcome,
    OutcomeName,
    Succeeded,
    outcome_name,
)
from shared.retry import RetryPolicy
from shared.states import UNDER_WAY, JobState
from tests.support.factories import NOON, make_batch, make_job, make_task
from tests.support.model_broker import Message
from tests.support.model_service import ModelService, ModelWorker, Publishing, Start, stop_clocks
from tests.support.virtual_time import VirtualTimeLoop

# MODEL_EXAMPLES=250 tries 10,000 steps.
EXAMPLES, STEPS = int(os.environ.get("MODEL_EXAMPLES", "15")), 40
RETRY = RetryPolicy(max_attempts=3, first_delay_seconds=2.0, jitter=False)
DEADLINE_SECONDS = 60.0
# Of five seconds each: time for every attempt to count as lost once more.
DRAIN_ROUNDS = 150
SINGLES = 4
LEASE_SECONDS = 20.0
# How a repeat says whose end it shares.
_ASKED = r"Job (\S+) asked for this one too\."
OPEN = [state for state in JobState if not state.is_final]

indexes = st.integers(0, 4)
workers = st.integers(0, 1)
fates = st.sampled_from(Publishing)
outcomes = st.sampled_from(["succeeds", "fails for now", "fails for good"])


class Service(RuleBasedStateMachine):
    """Some jobs, alone and in a batch, and everything that can happen to them."""

    def __init__(
        self, database: Database, loop: VirtualTimeLoop, start: Callable[[ModelService], None]
    ) -> None:
        super().__init__()
        self.service = ModelService(database, loop)
        start(self.service)
        callback = "https://receiver.example/"
        deadline_at = NOON + timedelta(seconds=DEADLINE_SECONDS)
        singles = [
            make_job(retry=RETRY, callback_url=callback),
            make_job(retry=RETRY, deadline_at=deadline_at),
            make_task(retry=RETRY),
            make_task(retry=RETRY),
        ]
        # What agents believe to hold, the lost ones too.
        self.leases: list[tuple[PickedTask, Start]] = []
        self.batch = make_batch(callback_url=callback)
        # Two more ask what the first of them asks.
        ids = [new_id() for _ in range(5)]
        together = [
            make_job(
                job_id=id_,
                retry=RETRY,
                lane=Lane.BULK,
                due_at=NOON + LOOK_AFTER if number > 2 else None,
                same_as=ids[0] if number in {0, 3, 4} else None,
            )
            for number, id_ in enumerate(ids)
        ]
        self.repeats = frozenset(ids[3:])
        self.service.write(submissions.insert_jobs, singles)
        self.service.write(submissions.insert_batch, self.batch, together)
        self.jobs = [*singles, *together]
        self.last_worker = 0
        self._seen: Mapping[UUID, tuple[int, JobState]] = {}
        self._seen_at = -1

    @rule(fate=fates)
    def relay(self, fate: Publishing) -> None:
        """The ledger publishes what waits in the store."""
        self.service.relay(fate)

    @precondition(lambda self: self.service.waiting())
    @rule(worker=workers, queue=indexes, index=indexes)
    def deliver(self, worker: int, queue: int, index: int) -> None:
        """A worker takes a message, often the first of its queue."""
        waiting = self.service.waiting()
        name = waiting[queue % len(waiting)]
        place = index % len(self.service.broker.queues[name])
        self.service.do(self.service.workers[worker].take(name, place))

    @precondition(lambda self: self.service.waiting())
    @rule(worker=workers)
    def deliver_all(self, worker: int) -> None:
        """A worker takes all there is."""
        self._deliver_all(worker)

    @precondition(lambda self: self.service.waiting())
    @rule(worker=workers)
    def defer(self, worker: int) -> None:
        """The host of the next job that this worker takes has no permit for it."""
        self.service.workers[worker].deferral = Deferred(2.0, DeferralReason.BUSY, "Its host is busy.")

    @precondition(lambda self: self._running)
    @rule(index=indexes, outcome=outcomes, fate=fates)
    def end_attempt(self, index: int, outcome: str, fate: Publishing) -> None:
        """An attempt ends, and its settlement is published, or not."""
        worker, start = self._running[index % len(self._running)]
        worker.publisher.next = fate
        self._end(start, outcome)

    @precondition(lambda self: self._running)
    @rule(outcome=outcomes)
    def end_all(self, outcome: str) -> None:
        """All attempts that run end alike."""
        self._end_all(outcome)

    @precondition(lambda self: self._running)
    @rule(worker=workers)
    def kill(self, worker: int) -> None:
        """A worker dies with all that it has in hand."""
        self.service.workers[worker].die()
        self.service.do()

    @precondition(lambda self: self._running)
    @rule(worker=workers)
    def lose_connection(self, worker: int) -> None:
        """A worker's acks are lost, and all that it has in hand is delivered again."""
        self.service.workers[worker].lose_connection()

    @rule(worker=workers)
    def read_orders(self, worker: int) -> None:
        """A worker hears of cancellations."""
        self.service.workers[worker].read_orders()
        self.service.do()

    @precondition(lambda self: self.service.broker.queues[RECORDER_QUEUE])
    @rule(most=st.sampled_from([1, 3, 99]), is_connection_lost=st.booleans())
    def record(self, most: int, is_connection_lost: bool) -> None:
        """The recorder writes some of what was reported."""
        self.service.record(most=most, is_connection_lost=is_connection_lost)

    @rule()
    def answer_repeats(self) -> None:
        """The ledger gives repeats the answer of their original."""
        self.service.answer_repeats()

    @rule(order=st.sampled_from(PickOrder), most=st.sampled_from([1, 9]))
    def pick(self, order: PickOrder, most: int) -> None:
        """An agent picks tasks."""
        self._pick(order, most)

    @precondition(lambda self: self.leases)
    @rule(index=indexes, outcome=outcomes, is_repeated=st.booleans())
    def end_task(self, index: int, outcome: str, is_repeated: bool) -> None:
        """An agent says how a task ended, in time or not, and again when it heard no answer."""
        lease = self.leases[index % len(self.leases)]
        self._end_task(lease, outcome)
        if is_repeated:
            self._end_task(lease, outcome)

    @precondition(lambda self: self.leases)
    @rule(index=indexes)
    def extend(self, index: int) -> None:
        """An agent asks for more time."""
        picked, _ = self.leases[index % len(self.leases)]
        with suppress(LeaseLost):
            now = self.service.now
            self.service.write(
                tasks.extend, picked.job.id, picked.token, lease_seconds=LEASE_SECONDS, now=now, project=None
            )

    @rule(outcome=outcomes)
    def serve(self, outcome: str) -> None:
        """For a moment all goes well."""
        self._serve(outcome)

    @precondition(lambda self: self._full)
    @rule(queue=indexes, index=indexes)
    def lose_message(self, queue: int, index: int) -> None:
        """The broker loses a message."""
        messages = self._full[queue % len(self._full)]
        messages.pop(index % len(messages))

    @precondition(lambda self: self._full)
    @rule(queue=indexes)
    def purge(self, queue: int) -> None:
        """Somebody empties a queue."""
        self._full[queue % len(self._full)].clear()

    @precondition(lambda self: self._full)
    @rule(queue=indexes, index=indexes)
    def repeat_message(self, queue: int, index: int) -> None:
        """A message is there twice, as when its publisher did not hear the confirm."""
        messages = self._full[queue % len(self._full)]
        messages.append(replace(messages[index % len(messages)]))

    @precondition(lambda self: self._full)
    @rule(queue=indexes, index=indexes)
    def overtake(self, queue: int, index: int) -> None:
        """A message overtakes those before it."""
        messages = self._full[queue % len(self._full)]
        messages.insert(0, messages.pop(index % len(messages)))

    @rule(seconds=st.sampled_from([1.0, 3.0, 10.0, 45.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; the scheduler parks what has expired, and leases run out."""
        self.service.pass_time(seconds)
        self.service.write(schedules.expire_jobs, limit=100, now=self.service.now)
        self._keep_tasks()

    @precondition(lambda self: self._in(*OPEN))
    @rule(index=indexes)
    def cancel(self, index: int) -> None:
        """A person cancels a job."""
        job_id, run = self._in(*OPEN)[index % len(self._in(*OPEN))]
        self.service.truth.cancelled_runs.add((job_id, run))
        self.service.write(endings.cancel_job, job_id, now=self.service.now, project=None)

    @rule()
    def cancel_batch(self) -> None:
        """A person cancels the batch."""
        together = {job.id for job in self.jobs[SINGLES:]}
        self.service.truth.cancelled_runs |= {(id_, run) for id_, run in self._in(*OPEN) if id_ in together}
        self.service.run(endings.cancel_batch, self.batch.id, now=self.service.now, project=None)

    @precondition(lambda self: self._in(JobState.PARKED))
    @rule(index=indexes, action=st.sampled_from(OperationAction))
    def act_on_one(self, index: int, action: OperationAction) -> None:
        """A person sends a parked job back, or ends it."""
        parked = self._in(JobState.PARKED)
        job_id, _ = parked[index % len(parked)]
        if action is OperationAction.DISCARD:
            self.service.truth.discarded_jobs.add(job_id)
            self.service.write(parking.discard, job_id, now=self.service.now, project=None)
        else:
            self.service.write(parking.redrive, job_id, now=self.service.now, project=None)

    @precondition(lambda self: self._in(JobState.PARKED))
    @rule(action=st.sampled_from(OperationAction))
    def act_on_all(self, action: OperationAction) -> None:
        """A person sends all parked jobs back, or ends them."""
        if action is OperationAction.DISCARD:
            # Webhooks, too.
            parked = [job.id for job in self._all_jobs() if job.state is JobState.PARKED]
            self.service.truth.discarded_jobs.update(parked)
        operation = NewOperation(new_id(), action, {}, 100, "operator", self.service.now, project=None)
        self.service.write(bulk_actions.start_operation, operation, ParkedFilter())
        self.service.write(bulk_actions.make_page, now=self.service.now)

    @precondition(lambda self: self._in(*UNDER_WAY))
    @rule()
    def republish(self) -> None:
        """An operator sends every unfinished job again."""
        self.service.republish()

    def teardown(self) -> None:
        """From now on all goes well: everything ends, and what is recorded is what happened."""
        try:
            self._drain()
            self._check_ends()
            self._check_attempts()
            self._check_batch()
            self._check_callbacks()
            # Whatever was lost or repeated was ours.
            assert self.service.put_aside() == 0
        finally:
            self.service.close()

    def _drain(self) -> None:
        for _ in range(DRAIN_ROUNDS):
            self._serve("succeeds")
            self.service.write(schedules.expire_jobs, limit=100, now=self.service.now)
            if not (self._unfinished() or self._untold()):
                break
            self.service.pass_time(5.0)
        # What is still on its way is late, and changes nothing.
        self._serve("succeeds")
        assert self._unfinished() == []

    def _unfinished(self) -> list[tuple[UUID, JobState, int, int]]:
        open_jobs = (job for job in self._all_jobs() if not job.state.is_final)
        return [(job.id, job.state, job.run, job.attempt) for job in open_jobs]

    def _untold(self) -> int:
        with self.service.database.reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(events)) or 0

    def _check_ends(self) -> None:
        told: defaultdict[tuple[UUID, int], set[bytes]] = defaultdict(set)
        for message in self.service.broker.outcomes:
            if message.type == "outcome":
                ended = JobEnded.decode(message.body)
                told[ended.job_id, ended.run].add(message.body)
        assert all(len(bodies) == 1 for bodies in told.values())
        for bodies in told.values():
            self._check_end(JobEnded.decode(next(iter(bodies))))
        for job in self._all_jobs():
            assert (job.id, job.run) in told
            # Each run that ended and went on was parked.
            runs = {run for job_id, run in told if job_id == job.id}
            assert runs == set(range(1, job.run + 1))

    def _check_end(self, ended: JobEnded) -> None:
        truth = self.service.truth
        starts = truth.starts[ended.job_id, ended.run, ended.attempt]
        if ended.job_id in self.repeats and not ended.attempt and ended.state is not JobState.CANCELLED:
            asked_by = self._asked_by(ended)
            starts = [each for name, more in truth.starts.items() if name[0] == asked_by for each in more]
        match ended.state, ended.reason:
            case JobState.SUCCEEDED, _:
                # The result of a task names its agent, too.
                told = {name: value for name, value in (ended.result or {}).items() if name != "agent"}
                assert any(_is(start, Succeeded(told)) for start in starts)
            case JobState.CANCELLED, "discarded":
                assert ended.job_id in truth.discarded_jobs
            case JobState.CANCELLED, _:
                assert (ended.job_id, ended.run) in truth.cancelled_runs
            case JobState.PARKED, reason if reason == EXPIRED:
                deadline_at = self._record(ended.job_id).deadline_at or NOON + timedelta(
                    seconds=DEADLINE_SECONDS
                )
                assert (ended.job_id, ended.run) == (self.jobs[1].id, 1)
                assert ended.finished_at >= deadline_at
            case JobState.PARKED, reason if reason == WORKER_CRASHED:
                assert self.service.broker.taken_back[str(self._asked_by(ended))] > WORK_DELIVERY_LIMIT
            case _:
                said = _own_words(ended.explanation)
                assert any(_failed(start, ended.reason, said) for start in starts)

    def _asked_by(self, ended: JobEnded | JobRecord) -> UUID:
        """Return the job that was asked: a repeat that did not ask itself says which one it was."""
        job_id = ended.job_id if isinstance(ended, JobEnded) else ended.id
        if asked := re.search(_ASKED, ended.explanation or ""):
            return UUID(asked[1])
        record = self._record(job_id)
        return job_id if ended.attempt else record.original or job_id

    def _check_attempts(self) -> None:
        for job in self._all_jobs():
            record = self._record(job.id)
            for attempt in record.attempts:
                assert attempt.number <= record.retry.max_attempts
                starts = self.service.truth.starts[job.id, attempt.run, attempt.number]
                assert any(_made(start, attempt) for start in starts), (attempt, starts)
                # One agent holds a task.
                assert record.kind != TASK or len(starts) == 1
            assert len({(attempt.run, attempt.number) for attempt in record.attempts}) == len(record.attempts)
            self._check_explanation(record)

    def _check_explanation(self, record: JobRecord) -> None:
        explanation = record.explanation or ""
        if died := re.search(r"(\d+) workers died", explanation):
            assert int(died[1]) <= self.service.broker.taken_back[str(self._asked_by(record))]
        if late := re.search(r"before attempt (\d+) could start", explanation):
            numbers = [attempt.number for attempt in record.attempts if attempt.run == record.run]
            assert all(number < int(late[1]) for number in numbers)

    def _check_batch(self) -> None:
        assert self.service.database.read(batches.wrong_counts, self.batch.id) == {}
        completed = {message.body for message in self.service.broker.outcomes if message.type == "batch"}
        (body,) = completed
        assert BatchCompleted.decode(body).total == 5

    def _check_callbacks(self) -> None:
        called = Counter[str]()
        for job in self._all_jobs():
            if of := job.labels.get(CALLBACK_LABEL):
                called[f"{of} {json.dumps(job.args['data'].get('run', 0))}"] += 1
        first = self._record(self.jobs[0].id)
        runs = {f"job/{first.id} {run}" for run in range(1, first.run + 1)}
        assert called == Counter({*runs, f"batch/{self.batch.id} 0"})

    def _serve(self, outcome: str) -> None:
        self.service.relay(Publishing.CONFIRMED)
        for worker in self.service.workers:
            worker.publisher.next, worker.deferral = Publishing.CONFIRMED, None
            worker.read_orders()
        self.service.do()
        self._deliver_all(self.last_worker)
        self._end_all(outcome)
        self._keep_tasks()
        self._pick(PickOrder.OLDEST, 9)
        for lease in list(self.leases):
            self._end_task(lease, outcome)
        self.service.record(most=1_000, is_connection_lost=False)
        self.service.answer_repeats()
        self.service.relay(Publishing.CONFIRMED)

    def _keep_tasks(self) -> None:
        self.service.write(tasks.make_ready, limit=100, now=self.service.now)
        self.service.write(tasks.expire_leases, limit=100, now=self.service.now)

    def _pick(self, order: PickOrder, most: int) -> None:
        agent = f"agent {self.service.changes}"
        asked = PickRequest("default", agent, most, LEASE_SECONDS, order, project="default")
        for picked in self.service.write(tasks.pick, asked, now=self.service.now):
            name = picked.job.id, picked.job.run, picked.job.attempt
            start = Start(name, agent, self.service.promise())
            self.service.truth.starts[name].append(start)
            self.leases.append((picked, start))

    def _end_task(self, lease: tuple[PickedTask, Start], outcome: str) -> None:
        picked, start = lease
        value = self._outcome(start, outcome)
        try:
            self.service.write(
                tasks.finish, picked.job.id, picked.token, value, now=self.service.now, project=None
            )
        except LeaseLost:
            # Nothing of it counts, unless it was told before.
            return
        finally:
            if lease in self.leases:
                self.leases.remove(lease)
        start.outcome = start.outcome or value

    def _deliver_all(self, worker: int) -> None:
        # When all that is left to do is done, it is by the worker that did most of this: it may remember.
        self.last_worker = worker
        for name in self.service.waiting():
            while self.service.broker.queues[name]:
                self.service.do(self.service.workers[worker].take(name))

    def _end_all(self, outcome: str) -> None:
        for _, start in self._running:
            self._end(start, outcome)

    def _end(self, start: Start, outcome: str) -> None:
        if not start.may_end.done():
            start.may_end.set_result(self._outcome(start, outcome))
        self.service.do()

    def _outcome(self, start: Start, outcome: str) -> Succeeded | Failed:
        # Told apart, so that nobody else's outcome is taken for it.
        which = f"{start.name[1:]} of {start.worker}, {self.service.now}"
        if outcome == "succeeds":
            return Succeeded({"by": which})
        is_transient = outcome == "fails for now"
        return Failed("http_503" if is_transient else "http_404", which, transient=is_transient)

    @property
    def _running(self) -> list[tuple[ModelWorker, Start]]:
        return [(worker, start) for worker in self.service.workers for start in worker.running]

    @property
    def _full(self) -> list[list[Message]]:
        return [messages for messages in self.service.broker.queues.values() if messages]

    def _in(self, *states: JobState) -> list[tuple[UUID, int]]:
        """Return the id and run of each of our jobs that is in one of these states."""
        if self._seen_at != self.service.changes:
            self._seen_at = self.service.changes
            self._seen = self.service.database.read(parking.runs_of, [job.id for job in self.jobs])
        return [(job_id, run) for job_id, (run, state) in self._seen.items() if state in states]

    def _record(self, job_id: UUID) -> JobRecord:
        return self.service.database.read(queries.get_job, job_id, project=None)

    def _all_jobs(self) -> Sequence[JobRecord]:
        with self.service.database.reading() as connection:
            ids = connection.scalars(sa.select(jobs.c.id).order_by(jobs.c.id)).all()
            return [queries.get_job(connection, job_id, project=None) for job_id in ids]


def _own_words(explanation: str | None) -> str | None:
    return explanation and re.sub(f" {_ASKED}", "", explanation)


def _is(start: Start, outcome: Outcome) -> bool:
    return start.outcome == outcome


def _failed(start: Start, reason: str | None, explanation: str | None) -> bool:
    if reason in {"time_limit", LEASE_EXPIRED}:
        return start.outcome is None
    outcome = start.outcome
    return isinstance(outcome, Failed) and (outcome.reason, outcome.explanation) == (reason, explanation)


def _made(start: Start, attempt: AttemptRecord) -> bool:
    """Return whether a start is the one that an attempt was recorded of."""
    if start.worker != attempt.worker:
        return False
    if attempt.outcome is None:
        return True
    if attempt.outcome is OutcomeName.CANCELLED or attempt.reason in {"time_limit", LEASE_EXPIRED}:
        return start.outcome is None
    if start.outcome is None:
        return False
    reason = start.outcome.reason if isinstance(start.outcome, Failed) else None
    return (outcome_name(start.outcome), reason) == (attempt.outcome, attempt.reason)


@pytest.fixture
def loop() -> Iterator[VirtualTimeLoop]:
    made = VirtualTimeLoop()
    asyncio.set_event_loop(made)
    yield made
    asyncio.set_event_loop(None)
    made.close()


def test_every_job_ends_once_and_for_a_true_reason(
    loop: VirtualTimeLoop, migrated_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh_service() -> Service:
        path = tmp_path / "retriever.db"
        for left in tmp_path.glob("retriever.db*"):
            left.unlink()
        shutil.copyfile(migrated_file, path)
        database = Database.open(f"sqlite:///{path}")
        # Nothing of it must outlive the machine.
        sa.event.listen(database._reader, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
        return Service(database, loop, lambda service: stop_clocks(monkeypatch, lambda: service.now))

    monkeypatch.setattr(settlement, "_REPUBLISH_SECONDS", 1.0)
    run_state_machine_as_test(
        fresh_service,  # type: ignore[arg-type]
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
