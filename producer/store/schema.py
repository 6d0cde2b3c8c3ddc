"""The tables. `migrations/` builds them; a test holds the two together.

Every change of a job's state writes a new entry into every index of `jobs` on PostgreSQL, so there
are only those that a query cannot do without:

- `(state, id, kind)`: lists by state, counts by state. A list by state and kind reads the kind of thousands
  of jobs, so it is in there.
- `(id)` of the accepted jobs of the interactive lane, which the relay takes first: they would wait behind
  every batch that is being relayed. `(kind, batch_id, id)` of those of the bulk lane, of which it takes some
  of each batch in turn. Neither has those that a host holds; `(held_for, lane, batch_id, id)` has.
- `(kind, id)` and `(host, id)`: lists by a kind or host that is rare among millions of jobs.
- `(due_at, id)` of the scheduled, `(deadline_at, id)` of those that can expire: what the scheduler
  looks for. Both are partial; a job without a time pays nothing for them.
- `(schedule_id, id)`: lists of what a schedule made; it holds nothing else.
- `(kind, host, reason, ...)` of the parked alone: their groups, and the operations on them. It has all that
  those ask for, because the rows of 30,000 parked jobs lie in nearly as many pages of the table. PostgreSQL
  limits an entry to 2,704 bytes, so the few whose reason is long, and may be of any length, have their own.
  `(batch_id, kind, host, reason, ...)` is the same for those of one batch, which may have most of them.
- `(batch_id, id)` and `(batch_id, state, id)`: a batch's exports, and what of it can still be
  cancelled. Both hold only jobs of batches; a single job pays nothing for them.
- `(unique_key, id)`: has the same been asked for? Only jobs that were submitted singly.
- `(ref, id)`: lists by a ref. A job without one pays nothing for it.
- `(project, queue, id)` of the tasks that agents may pick, `(due_at, id)` of those that wait for another
  attempt, `(leased_until, id)` of those that agents hold: all three partial.
- `(project, id)`, and `(project, ref, id)` of those with a ref, of all projects but the default one: their
  lists, however many jobs others have. `(project, kind, host, reason, ...)` of the parked among them.
  A job of the default project pays for none of these; its own lists pass over the jobs of others, a window a
  page, as every search does over what does not match.
- `(same_as, id)` of the repeats that wait, `(id)` of the originals that have ended: who gets which answer.
- `(feed_number, id)`: the ends in the order in which they were recorded, for whoever follows them. A job pays
  for it once a run.

Leasing a job changes no indexed column, so PostgreSQL writes no index where the row's page has room (HOT):
the table's `fillfactor` sees to it that it has.
"""

from typing import Any

import sqlalchemy as sa

from producer.callers import DEFAULT_PROJECT
from producer.parking import FINGERPRINT_CHARACTERS, OperationAction, OperationState
from producer.records import Overlap
from producer.store.sql import Choice, Moment, PlainText, RetryDocument
from producer.timetable import CatchUp
from shared.events import EventType
from shared.kinds.pages import StopReason
from shared.kinds.registry import Lane
from shared.kinds.task import TASK
from shared.outcomes import OutcomeName
from shared.states import JobState

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


def _partial_index(name: str, *columns: sa.Column[Any], where: sa.ColumnElement[bool]) -> None:
    sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


def _project(*, nullable: bool = False) -> sa.Column[str]:
    # What was stored before there were projects, and what code of then stores, is the default project's.
    return sa.Column("project", PlainText(), nullable=nullable, server_default=DEFAULT_PROJECT)


batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("kind", PlainText(), nullable=False),
    sa.Column("total", sa.BigInteger(), nullable=False),
    sa.Column("labels", sa.JSON(), nullable=False),
    # The schedule that made it, which may have been deleted since.
    sa.Column("schedule_id", sa.Uuid(), nullable=True),
    sa.Column("created_at", Moment(), nullable=False),
    # How many of its jobs are in each state, changed in the transaction that moves the job.
    *(sa.Column(state.value, sa.BigInteger(), nullable=False, server_default="0") for state in JobState),
    sa.Column("finished_at", Moment(), nullable=True),
    # When all its jobs had ended for the first time; its completion is announced once.
    sa.Column("completed_at", Moment(), nullable=True),
    sa.Column("cancelled_at", Moment(), nullable=True),
    # Its retention is over: nobody sees it any more, and its jobs are being deleted.
    sa.Column("expired_at", Moment(), nullable=True),
    # Whom to tell of its completion.
    sa.Column("callback_url", PlainText(), nullable=True),
    # Of which events, its jobs' ends among them; null is its completion.
    sa.Column("callback_events", sa.JSON(none_as_null=True), nullable=True),
    # How many lines of it became no job, and how many of those are in `rejected_lines`: null means all.
    sa.Column("rejected", sa.BigInteger(), nullable=False, server_default="0"),
    sa.Column("rejected_kept", sa.BigInteger(), nullable=True),
    # How many of its jobs are repeats of others.
    sa.Column("repeats", sa.BigInteger(), nullable=False, server_default="0"),
    # How many of its jobs had ended at two recent times, for its rate: `batches.py` moves them.
    sa.Column("previous_mark_at", Moment(), nullable=True),
    sa.Column("previous_mark_ended", sa.BigInteger(), nullable=True),
    sa.Column("current_mark_at", Moment(), nullable=True),
    sa.Column("current_mark_ended", sa.BigInteger(), nullable=True),
    # When the number of ended jobs changed last, and the time before that.
    sa.Column("last_ended_at", Moment(), nullable=True),
    sa.Column("ended_before_at", Moment(), nullable=True),
    # All its jobs are of this project too.
    _project(),
    # Of the transaction that found it complete: `producer.store.feed`.
    sa.Column("feed_number", sa.BigInteger(), nullable=True),
)

sa.Index("ix_batches_project_id", batches.c.project, batches.c.id)
# How many batches of a project are unfinished.
_partial_index("ix_batches_unfinished", batches.c.project, where=batches.c.finished_at.is_(None))
# For the reconciler: the unfinished, and those that finished lately.
sa.Index("ix_batches_finished_at_id", batches.c.finished_at, batches.c.id)
_partial_index(
    "ix_batches_feed_number", batches.c.feed_number, batches.c.id, where=batches.c.feed_number.is_not(None)
)

# Lines of a batch that became no job: where and why, and the beginning of what was handed in.
rejected_lines = sa.Table(
    "rejected_lines",
    metadata,
    sa.Column("batch_id", sa.Uuid(), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
    sa.Column("loc", PlainText(), nullable=False),
    sa.Column("msg", PlainText(), nullable=False),
    # The sender's own name for it.
    sa.Column("ref", PlainText(), nullable=True),
    # Its text, cut.
    sa.Column("given", PlainText(), nullable=True),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("kind", PlainText(), nullable=False),
    sa.Column("lane", Choice(Lane), nullable=False),
    sa.Column("args", sa.JSON(), nullable=False),
    sa.Column("retry", RetryDocument(), nullable=False),
    sa.Column("labels", sa.JSON(), nullable=False),
    sa.Column("host", PlainText(), nullable=False),
    sa.Column("batch_id", sa.Uuid(), sa.ForeignKey("batches.id"), nullable=True),
    # The schedule that made it, which may have been deleted since.
    sa.Column("schedule_id", sa.Uuid(), nullable=True),
    sa.Column("state", Choice(JobState), nullable=False),
    # `shared.states.position`: a job only ever moves to a greater one.
    sa.Column("position", sa.BigInteger(), nullable=False),
    sa.Column("run", sa.Integer(), nullable=False),
    sa.Column("attempt", sa.Integer(), nullable=False),
    sa.Column("reason", PlainText(), nullable=True),
    sa.Column("explanation", PlainText(), nullable=True),
    # `json`, not `jsonb`: jsonb refuses \u0000 and lone surrogates, which JSON from outside may hold.
    sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
    # When a scheduled job is accepted, or a delayed one is tried again.
    sa.Column("due_at", Moment(), nullable=True),
    # No attempt starts from then on.
    sa.Column("deadline_at", Moment(), nullable=True),
    sa.Column("claimed_until", Moment(), nullable=True),
    # The host for which it is held, while it is accepted: that one has no room for it yet. And the host in
    # which it is counted since it was released. Both as limits are kept: `shared.hosts.host_key`.
    sa.Column("held_for", PlainText(), nullable=True),
    sa.Column("counted_for", PlainText(), nullable=True),
    # Whether its message, the last one that the relay published, carried other jobs too: such messages have
    # a queue of their own. Null where nobody noted it.
    sa.Column("is_bundled", sa.Boolean(), nullable=True),
    # A person wants it to end; the worker that runs it will report how it did.
    sa.Column("cancel_requested_at", Moment(), nullable=True),
    # 16 bytes made of the kind and the normalized arguments; only jobs that were submitted singly have it.
    sa.Column("unique_key", sa.LargeBinary(), nullable=True),
    # Whom to tell of each end.
    sa.Column("callback_url", PlainText(), nullable=True),
    # Of which ends; null is every one.
    sa.Column("callback_events", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("created_at", Moment(), nullable=False),
    sa.Column("finished_at", Moment(), nullable=True),
    sa.Column("updated_at", Moment(), nullable=False),
    # The first run whose reports must bring its token. Null in rows of version 0.1.0: the run after this one.
    sa.Column("token_from_run", sa.Integer(), nullable=True),
    # The sender's own name for it.
    sa.Column("ref", PlainText(), nullable=True),
    # The line or item of its batch that it came from, counted from 1.
    sa.Column("line", sa.Integer(), nullable=True),
    # Its URL as it was handed in, where that is not the one in `args`.
    sa.Column("given_url", PlainText(), nullable=True),
    # Of a repeat: the job of its batch that asks for it too. Of that one: its own id, until all repeats have
    # its answer.
    sa.Column("same_as", sa.Uuid(), nullable=True),
    # Of a task: the queue that agents ask for, as its arguments say; the token of its last lease, which is
    # held until `leased_until` while it runs; and since when its wait for the next attempt is over, null
    # before. `claimed_until` would not do: it must be in no index, not even in a partial one, or PostgreSQL
    # writes all indexes for each job that a relay leases.
    sa.Column("queue", PlainText(), nullable=True),
    sa.Column("lease", PlainText(), nullable=True),
    sa.Column("leased_until", Moment(), nullable=True),
    sa.Column("ready_at", Moment(), nullable=True),
    # It never changes.
    _project(),
    # Of the transaction that recorded its last end, which a redrive leaves: `producer.store.feed`.
    sa.Column("feed_number", sa.BigInteger(), nullable=True),
    # Half of each page is left free: a job's row is written again for its lease and for every state, and a
    # lease that finds room beside its row costs PostgreSQL a quarter.
    postgresql_with={"fillfactor": 50},
)

_OF_A_BATCH = jobs.c.batch_id.is_not(None)


def _written(choice: JobState | Lane) -> sa.ColumnElement[str]:
    # A literal and not bound: a prepared plan trusts the partial index only if it sees the value.
    return sa.literal_column(f"'{choice.value}'")


# Of another project than the default one.
IS_OF_A_PROJECT: sa.ColumnElement[bool] = jobs.c.project != sa.literal_column(f"'{DEFAULT_PROJECT}'")


IS_ACCEPTED = jobs.c.state == _written(JobState.ACCEPTED)


# In a function, or SQLite takes the index on `state` instead of the partial one, and reads a million jobs
# where it could read none. `coalesce` changes nothing: a state is never null.
_state = sa.func.coalesce(jobs.c.state, sa.literal_column("''"))
_IS_ACCEPTED = _state == _written(JobState.ACCEPTED)
_IS_FREE = jobs.c.held_for.is_(None)
# What the relay takes: of one lane, and no host holds it.
IS_READY_INTERACTIVE = sa.and_(_IS_ACCEPTED, _IS_FREE, jobs.c.lane == _written(Lane.INTERACTIVE))
IS_READY_BULK = sa.and_(_IS_ACCEPTED, _IS_FREE, jobs.c.lane == _written(Lane.BULK))
IS_HELD = sa.and_(_IS_ACCEPTED, jobs.c.held_for.is_not(None))
IS_SCHEDULED = _state == _written(JobState.SCHEDULED)
# The next attempt has not started, and must not start too late.
CAN_EXPIRE = sa.and_(
    jobs.c.deadline_at.is_not(None),
    _state.in_(
        [
            _written(state)
            for state in (JobState.SCHEDULED, JobState.ACCEPTED, JobState.QUEUED, JobState.DELAYED)
        ]
    ),
)


def is_waiting_repeat(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Return whether a job of a table of jobs, or of an alias of it, waits for the end of its original.

    It is scheduled, so that no relay comes across it.
    """
    # Not in the words of `IS_SCHEDULED`, or PostgreSQL reads all the scheduled by the index of those.
    state = sa.func.coalesce(table.c.state, sa.literal_column("'-'"))
    is_repeat = sa.and_(table.c.same_as.is_not(None), table.c.same_as != table.c.id)
    return sa.and_(is_repeat, state == _written(JobState.SCHEDULED))


IS_WAITING_REPEAT = is_waiting_repeat(jobs)
# An original whose repeats may still have to get its answer.
IS_ENDED_ORIGINAL = sa.and_(
    jobs.c.same_as == jobs.c.id, _state.in_([_written(state) for state in JobState if state.is_final])
)

sa.Index("ix_jobs_state_id_kind", jobs.c.state, jobs.c.id, jobs.c.kind)
# Version 0.1.0 claims by it.
_partial_index(
    "ix_jobs_accepted_interactive",
    jobs.c.id,
    where=sa.and_(_IS_ACCEPTED, jobs.c.lane == _written(Lane.INTERACTIVE)),
)
_partial_index("ix_jobs_ready_interactive", jobs.c.id, where=IS_READY_INTERACTIVE)
_partial_index("ix_jobs_ready_bulk", jobs.c.kind, jobs.c.batch_id, jobs.c.id, where=IS_READY_BULK)
_partial_index("ix_jobs_held", jobs.c.held_for, jobs.c.lane, jobs.c.batch_id, jobs.c.id, where=IS_HELD)
sa.Index("ix_jobs_kind_id", jobs.c.kind, jobs.c.id)
sa.Index("ix_jobs_host_id", jobs.c.host, jobs.c.id)
_partial_index("ix_jobs_batch_id_id", jobs.c.batch_id, jobs.c.id, where=_OF_A_BATCH)
_partial_index("ix_jobs_batch_id_state_id", jobs.c.batch_id, jobs.c.state, jobs.c.id, where=_OF_A_BATCH)

_WITH_UNIQUE_KEY = jobs.c.unique_key.is_not(None)

_partial_index("ix_jobs_unique_key_id", jobs.c.unique_key, jobs.c.id, where=_WITH_UNIQUE_KEY)
_partial_index("ix_jobs_ref_id", jobs.c.ref, jobs.c.id, where=jobs.c.ref.is_not(None))
_partial_index("ix_jobs_feed_number", jobs.c.feed_number, jobs.c.id, where=jobs.c.feed_number.is_not(None))
_partial_index("ix_jobs_project_id", jobs.c.project, jobs.c.id, where=IS_OF_A_PROJECT)
_partial_index(
    "ix_jobs_project_ref_id",
    jobs.c.project,
    jobs.c.ref,
    jobs.c.id,
    where=sa.and_(jobs.c.ref.is_not(None), IS_OF_A_PROJECT),
)
_partial_index("ix_jobs_scheduled_due_at", jobs.c.due_at, jobs.c.id, where=IS_SCHEDULED)
_partial_index("ix_jobs_waiting_repeats", jobs.c.same_as, jobs.c.id, where=IS_WAITING_REPEAT)
_partial_index("ix_jobs_ended_originals", jobs.c.id, where=IS_ENDED_ORIGINAL)
_partial_index("ix_jobs_unstarted_deadline_at", jobs.c.deadline_at, jobs.c.id, where=CAN_EXPIRE)
_partial_index("ix_jobs_schedule_id_id", jobs.c.schedule_id, jobs.c.id, where=jobs.c.schedule_id.is_not(None))

# In a function as `_state` is, or SQLite reads all tasks by the index on `kind`.
_is_task = sa.func.coalesce(jobs.c.kind, sa.literal_column("''")) == sa.literal_column(f"'{TASK}'")
_is_delayed_task = sa.and_(_is_task, _state == _written(JobState.DELAYED))
# What an agent may be given.
IS_PICKABLE = sa.and_(
    _is_task,
    sa.or_(_state == _written(JobState.QUEUED), sa.and_(_is_delayed_task, jobs.c.ready_at.is_not(None))),
)
IS_UNREADY_TASK = sa.and_(_is_delayed_task, jobs.c.ready_at.is_(None))
IS_LEASED_TASK = sa.and_(_is_task, _state == _written(JobState.RUNNING))

_partial_index("ix_jobs_pickable", jobs.c.project, jobs.c.queue, jobs.c.id, where=IS_PICKABLE)
_partial_index("ix_jobs_unready_tasks", jobs.c.due_at, jobs.c.id, where=IS_UNREADY_TASK)
_partial_index("ix_jobs_leased_tasks", jobs.c.leased_until, jobs.c.id, where=IS_LEASED_TASK)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("run", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("started_at", Moment(), nullable=False),
    sa.Column("ended_at", Moment(), nullable=True),
    sa.Column("outcome", Choice(OutcomeName), nullable=True),
    sa.Column("reason", PlainText(), nullable=True),
    sa.Column("explanation", PlainText(), nullable=True),
    sa.Column("wait_seconds", sa.Double(), nullable=True),
    sa.Column("worker", PlainText(), nullable=False),
)

# What the running attempts of commands and tasks have written so far: the last snapshot of each.
outputs = sa.Table(
    "outputs",
    metadata,
    sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("run", sa.Integer(), nullable=False),
    sa.Column("attempt", sa.Integer(), nullable=False),
    sa.Column("sequence", sa.BigInteger(), nullable=False),
    # `shared.kinds.command.OutputSnapshot`.
    sa.Column("output", sa.JSON(), nullable=False),
    sa.Column("updated_at", Moment(), nullable=False),
)

# When an agent asked for tasks of a queue last, and which, to about ten seconds: whether anybody serves it.
# The name is that of the queue in its project: `producer.callers.scoped`.
task_queues = sa.Table(
    "task_queues",
    metadata,
    sa.Column("name", PlainText(), primary_key=True),
    sa.Column("asked_at", Moment(), nullable=False),
    sa.Column("agent", PlainText(), nullable=False),
)

# Fetched bodies that are too large for `jobs.result`, as gzip; a job has one at most.
bodies = sa.Table(
    "bodies",
    metadata,
    sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("run", sa.Integer(), nullable=False),
    sa.Column("content_type", PlainText(), nullable=True),
    sa.Column("charset", PlainText(), nullable=True),
    # Size and SHA-256, in hexadecimal, are those of the expanded body.
    sa.Column("size", sa.BigInteger(), nullable=False),
    sa.Column("sha256", PlainText(), nullable=False),
    sa.Column("content", sa.LargeBinary(), nullable=False),
)

# What a target called the version that was fetched last; `key` is 16 bytes made of the arguments.
validators = sa.Table(
    "validators",
    metadata,
    sa.Column("key", sa.LargeBinary(), primary_key=True),
    # The job that has the body. Its deletion looks for these rows.
    sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("etag", PlainText(), nullable=True),
    sa.Column("last_modified", PlainText(), nullable=True),
    sa.Column("fetched_at", Moment(), nullable=False),
)

sa.Index("ix_validators_job_id", validators.c.job_id)

# The pages of paged fetches that were fetched, beside the results of their jobs; 0 is the root job's own.
pages = sa.Table(
    "pages",
    metadata,
    sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    # The root job, which may have been deleted since.
    sa.Column("root_id", sa.Uuid(), nullable=False),
    sa.Column("number", sa.Integer(), nullable=False),
    sa.Column("item_count", sa.Integer(), nullable=False),
    sa.Column("total", sa.BigInteger(), nullable=True),
    sa.Column("stopped_by", Choice(StopReason), nullable=True),
    # Eight octets of a digest for each item's key.
    sa.Column("key_digests", sa.LargeBinary(), nullable=True),
    sa.Column("ended_at", Moment(), nullable=False),
)

sa.Index("ix_pages_root_id_number", pages.c.root_id, pages.c.number)

# What still has to be announced to the broker: outcomes, completed batches, cancellations. Rows are
# deleted when the broker has confirmed them.
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("type", Choice(EventType), nullable=False),
    sa.Column("body", sa.JSON(), nullable=False),
    sa.Column("claimed_until", Moment(), nullable=True),
    sa.Column("created_at", Moment(), nullable=False),
)

# What each Idempotency-Key was used for, so that a repeated request gets the same answer.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    # What the request makes, in its project: `producer.callers.scoped`.
    sa.Column("scope", PlainText(), primary_key=True),
    sa.Column("key", PlainText(), primary_key=True),
    # SHA-256 of the request.
    sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
    sa.Column("resource_id", sa.Uuid(), nullable=False),
    # The request was answered with a job that another request had submitted.
    sa.Column("is_duplicate", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("expires_at", Moment(), nullable=False),
    # What the request was answered: null while nobody has kept it, and in rows of version 0.1.0.
    sa.Column("answer_status", sa.Integer(), nullable=True),
    sa.Column("answer_location", PlainText(), nullable=True),
    sa.Column("answer", sa.LargeBinary(), nullable=True),
)

sa.Index("ix_idempotency_keys_expires_at", idempotency_keys.c.expires_at)

# A redriven job's old message still has to leave `jobs.parked`; `run` is the run that was parked.
redrives = sa.Table(
    "redrives",
    metadata,
    sa.Column("job_id", sa.Uuid(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("run", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("requested_at", Moment(), nullable=False),
    sa.Column("swept_at", Moment(), nullable=True),
)

_UNSWEPT = redrives.c.swept_at.is_(None)

_partial_index("ix_redrives_unswept", redrives.c.requested_at, redrives.c.job_id, where=_UNSWEPT)

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("name", PlainText(), nullable=True),
    # Either cron and timezone, or every_seconds and starts_at.
    sa.Column("cron", PlainText(), nullable=True),
    sa.Column("timezone", PlainText(), nullable=True),
    sa.Column("every_seconds", sa.Integer(), nullable=True),
    sa.Column("starts_at", Moment(), nullable=True),
    # The submission that each run makes, under `job` or `batch`.
    sa.Column("template", sa.JSON(), nullable=False),
    # How large that is as it is stored; null in rows of version 0.1.0.
    sa.Column("template_bytes", sa.Integer(), nullable=True),
    sa.Column("overlap", Choice(Overlap), nullable=False),
    sa.Column("catch_up", Choice(CatchUp), nullable=False),
    sa.Column("labels", sa.JSON(), nullable=False),
    sa.Column("created_at", Moment(), nullable=False),
    sa.Column("paused_at", Moment(), nullable=True),
    # Null while paused, or when no time is left.
    sa.Column("next_run_at", Moment(), nullable=True),
    # Grows with each change; a run is made only from the revision that it was decided at.
    sa.Column("revision", sa.BigInteger(), nullable=False),
    sa.Column("runs", sa.BigInteger(), nullable=False),
    sa.Column("skipped", sa.BigInteger(), nullable=False),
    sa.Column("last_run_at", Moment(), nullable=True),
    sa.Column("last_job_id", sa.Uuid(), nullable=True),
    sa.Column("last_batch_id", sa.Uuid(), nullable=True),
    sa.Column("last_error", PlainText(), nullable=True),
    _project(),
)

sa.Index("ix_schedules_project_id", schedules.c.project, schedules.c.id)

HAS_A_RUN = schedules.c.next_run_at.is_not(None)

_partial_index("ix_schedules_next_run_at", schedules.c.next_run_at, schedules.c.id, where=HAS_A_RUN)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("action", Choice(OperationAction), nullable=False),
    sa.Column("filter", sa.JSON(), nullable=False),
    sa.Column("rate_per_second", sa.Integer(), nullable=False),
    sa.Column("by", PlainText(), nullable=False),
    sa.Column("state", Choice(OperationState), nullable=False),
    sa.Column("total", sa.BigInteger(), nullable=False),
    sa.Column("done", sa.BigInteger(), nullable=False),
    sa.Column("skipped", sa.BigInteger(), nullable=False),
    # The next page may be made from then on: this is how all ledgers together keep the rate.
    sa.Column("next_at", Moment(), nullable=False),
    sa.Column("created_at", Moment(), nullable=False),
    sa.Column("finished_at", Moment(), nullable=True),
    # Null is an operator's, on the jobs of all projects.
    _project(nullable=True),
)

sa.Index("ix_operations_project_id", operations.c.project, operations.c.id)

IS_PARKED = jobs.c.state == _written(JobState.PARKED)
IS_RUNNING_OPERATION = operations.c.state == sa.literal_column(f"'{OperationState.RUNNING.value}'")

_partial_index("ix_operations_running", operations.c.next_at, where=IS_RUNNING_OPERATION)

# The jobs that an operation still has to deal with, chosen when it began; `run` is the run that was parked.
operation_jobs = sa.Table(
    "operation_jobs",
    metadata,
    sa.Column(
        "operation_id", sa.Uuid(), sa.ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("job_id", sa.Uuid(), primary_key=True),
    sa.Column("run", sa.Integer(), nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("at", Moment(), nullable=False),
    sa.Column("by", PlainText(), nullable=False),
    sa.Column("action", PlainText(), nullable=False),
    sa.Column("target", PlainText(), nullable=False),
    sa.Column("details", sa.JSON(), nullable=False),
    # Whose it was done to; null is the installation.
    _project(nullable=True),
)

sa.Index("ix_audit_target_id", audit.c.target, audit.c.id)
sa.Index("ix_audit_project_id", audit.c.project, audit.c.id)

# Who leads, and until when.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", PlainText(), primary_key=True),
    sa.Column("holder", PlainText(), nullable=False),
    sa.Column("held_until", Moment(), nullable=False),
)

# The work queues as a ledger last saw them: one row each, however often they are looked at.
queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", PlainText(), primary_key=True),
    sa.Column("kind", PlainText(), nullable=False),
    sa.Column("lane", PlainText(), nullable=False),
    sa.Column("ready", sa.BigInteger(), nullable=False),
    sa.Column("consumers", sa.BigInteger(), nullable=False),
    sa.Column("observed_at", Moment(), nullable=False),
)

# What operators have paused; kind and lane may be `*`.
pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("kind", PlainText(), primary_key=True),
    sa.Column("lane", PlainText(), primary_key=True),
    sa.Column("since", Moment(), nullable=False),
    sa.Column("by", PlainText(), nullable=False),
    sa.Column("note", PlainText(), nullable=True),
)

# Numbers that only grow; whoever changes what one of them counts locks its row first.
revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("name", PlainText(), primary_key=True),
    sa.Column("value", sa.BigInteger(), nullable=False),
)

# Random keys, made when they are first needed: with `run_tokens` the ledgers make the tokens of runs, with
# `api_keys` the API makes the hashes of its keys.
secret_keys = sa.Table(
    "secret_keys",
    metadata,
    sa.Column("name", PlainText(), primary_key=True),
    sa.Column("value", sa.LargeBinary(), nullable=False),
)

# Keys of the API. Names are never given twice, so the audit log tells whom it means.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("name", PlainText(), nullable=False),
    # Null is an operator's, who sees all projects.
    sa.Column("project", PlainText(), nullable=True),
    sa.Column("scopes", sa.JSON(), nullable=False),
    sa.Column("created_at", Moment(), nullable=False),
    sa.Column("created_by", PlainText(), nullable=False),
    sa.Column("expires_at", Moment(), nullable=True),
    sa.Column("revoked_at", Moment(), nullable=True),
    sa.Column("last_used_at", Moment(), nullable=True),
    # Null: as many requests as keys without a rate of their own.
    sa.Column("rate_per_second", sa.Integer(), nullable=True),
)

sa.Index("ix_api_keys_name", api_keys.c.name, unique=True)

# What opens each: two while a key is rotated.
api_key_secrets = sa.Table(
    "api_key_secrets",
    metadata,
    sa.Column("start", PlainText(), primary_key=True),
    sa.Column("key_id", sa.Uuid(), sa.ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
    sa.Column("digest", sa.LargeBinary(), nullable=False),
    sa.Column("created_at", Moment(), nullable=False),
    # When it ends before its key does.
    sa.Column("expires_at", Moment(), nullable=True),
)
sa.Index("ix_api_key_secrets_key_id", api_key_secrets.c.key_id)

# What jobs name instead of saying it, and what webhooks are signed with. Each opens as what its row says.
secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("id", sa.Uuid(), primary_key=True),
    sa.Column("project", PlainText(), nullable=False),
    sa.Column("name", PlainText(), nullable=False),
    sa.Column("use", PlainText(), nullable=False),
    sa.Column("origins", sa.JSON(), nullable=False),
    sa.Column("box", sa.LargeBinary(), nullable=False),
    sa.Column("digest", PlainText(), nullable=True),
    # Of a webhook's: what signs too, for a while.
    sa.Column("previous_box", sa.LargeBinary(), nullable=True),
    sa.Column("previous_until", Moment(), nullable=True),
    sa.Column("created_at", Moment(), nullable=False),
    sa.Column("created_by", PlainText(), nullable=False),
    sa.Column("updated_at", Moment(), nullable=False),
    sa.Column("last_used_at", Moment(), nullable=True),
)
sa.Index("ix_secrets_project_name", secrets.c.project, secrets.c.name, unique=True)

# What each API process is asked for by callers who send much. Each writes rows of its own alone.
rate_demands = sa.Table(
    "rate_demands",
    metadata,
    sa.Column("caller", PlainText(), primary_key=True),
    sa.Column("process", sa.Uuid(), primary_key=True),
    sa.Column("asked_per_second", sa.Float(), nullable=False),
    sa.Column("noted_at", Moment(), nullable=False),
)

# What a project may have: a row each. `*` is every project that has no limit of this name.
project_limits = sa.Table(
    "project_limits",
    metadata,
    sa.Column("project", PlainText(), primary_key=True),
    sa.Column("name", PlainText(), primary_key=True),
    sa.Column("value", sa.BigInteger(), nullable=False),
)

# What the projects have that are limited, changed in the transactions that store and delete. Whoever changes
# or locks several rows does so in the order of their names, after all other rows that may be waited for.
project_usage = sa.Table(
    "project_usage",
    metadata,
    sa.Column("project", PlainText(), primary_key=True),
    sa.Column("jobs", sa.BigInteger(), nullable=False),
    sa.Column("tasks", sa.BigInteger(), nullable=False),
    # Arguments, results and bodies, as they were measured: null before.
    sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
    sa.Column("measured_at", Moment(), nullable=True),
    # When the ledger counts again, and how often that was done: of two who count, one corrects.
    sa.Column("recount_at", Moment(), nullable=False),
    sa.Column("recounts", sa.BigInteger(), nullable=False, server_default="0"),
)

# The hosts that are tracked: those that come near their limits. `producer.hosts.HostState` says the rest.
hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("name", PlainText(), primary_key=True),
    # The name without its port, as jobs have it.
    sa.Column("host", PlainText(), nullable=False),
    sa.Column("in_flight", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("waiting", sa.BigInteger(), nullable=False, server_default="0"),
    sa.Column("owed", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("next_at", Moment(), nullable=True),
    sa.Column("retries", sa.JSON(), nullable=False, server_default="[]"),
    sa.Column("share", sa.Float(), nullable=False, server_default="1"),
    sa.Column("cut_at", Moment(), nullable=True),
    sa.Column("asked", sa.Float(), nullable=False, server_default="0"),
    sa.Column("complained", sa.Float(), nullable=False, server_default="0"),
    sa.Column("heard_at", Moment(), nullable=True),
    sa.Column("paused_until", Moment(), nullable=True),
    sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("rests", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("rests_until", Moment(), nullable=True),
    # The batch whose jobs went last.
    sa.Column("turn", sa.Uuid(), nullable=True),
    # What somebody has set at run time, and the limit by which a relay decided last.
    sa.Column("set_concurrency", sa.Integer(), nullable=True),
    sa.Column("set_rate_per_second", sa.Float(), nullable=True),
    sa.Column("concurrency", sa.Integer(), nullable=True),
    sa.Column("rate_per_second", sa.Float(), nullable=True),
    # When a job that waits may be released; null while a report must come first, or none waits.
    sa.Column("ready_at", Moment(), nullable=True),
    sa.Column("changed_at", Moment(), nullable=False),
)

sa.Index("ix_hosts_host", hosts.c.host)
_partial_index("ix_hosts_ready_at", hosts.c.ready_at, where=hosts.c.ready_at.is_not(None))

_reason_characters = sa.func.coalesce(sa.func.length(jobs.c.reason), sa.literal_column("0"))
_most_characters: sa.ColumnElement[int] = sa.literal_column(str(FINGERPRINT_CHARACTERS))
_is_parked = _state == _written(JobState.PARKED)
IS_PARKED_SHORT = sa.and_(_is_parked, _reason_characters <= _most_characters)
IS_PARKED_LONG = sa.and_(_is_parked, _reason_characters > _most_characters)
_IS_PARKED_SHORT_OF_BATCH = sa.and_(_OF_A_BATCH, IS_PARKED_SHORT)

_partial_index(
    "ix_jobs_parked_short",
    jobs.c.kind,
    jobs.c.host,
    # In this order the groups are read one after another, and nothing is sorted.
    jobs.c.reason,
    jobs.c.id,
    jobs.c.finished_at,
    jobs.c.batch_id,
    jobs.c.run,
    # The condition has it; SQLite would look it up in the row.
    jobs.c.state,
    jobs.c.project,
    where=IS_PARKED_SHORT,
)
_partial_index(
    "ix_jobs_parked_of_project",
    jobs.c.project,
    jobs.c.kind,
    jobs.c.host,
    jobs.c.reason,
    jobs.c.id,
    jobs.c.finished_at,
    jobs.c.batch_id,
    jobs.c.run,
    jobs.c.state,
    where=sa.and_(IS_PARKED_SHORT, IS_OF_A_PROJECT),
)
_partial_index(
    "ix_jobs_parked_short_of_batch",
    jobs.c.batch_id,
    jobs.c.kind,
    jobs.c.host,
    jobs.c.reason,
    jobs.c.id,
    jobs.c.finished_at,
    jobs.c.run,
    jobs.c.state,
    where=_IS_PARKED_SHORT_OF_BATCH,
)
_partial_index("ix_jobs_parked_long", jobs.c.kind, jobs.c.host, jobs.c.id, where=IS_PARKED_LONG)

# What the leading ledger has counted for the dashboard: how many jobs there are in each state that is no end,
# and of the parked ones the sum. A page counts nothing.
job_counts = sa.Table(
    "job_counts",
    metadata,
    sa.Column("project", PlainText(), primary_key=True),
    sa.Column("state", PlainText(), primary_key=True),
    sa.Column("kind", PlainText(), primary_key=True),
    sa.Column("lane", PlainText(), primary_key=True),
    sa.Column("is_held", sa.Boolean(), primary_key=True),
    sa.Column("jobs", sa.BigInteger(), nullable=False),
    sa.Column("oldest_at", Moment(), nullable=False),
)

# The largest groups of parked jobs.
parked_counts = sa.Table(
    "parked_counts",
    metadata,
    sa.Column("project", PlainText(), primary_key=True),
    sa.Column("kind", PlainText(), primary_key=True),
    sa.Column("reason", PlainText(), primary_key=True),
    sa.Column("host", PlainText(), primary_key=True),
    sa.Column("jobs", sa.BigInteger(), nullable=False),
    sa.Column("first_parked_at", Moment(), nullable=False),
    sa.Column("last_parked_at", Moment(), nullable=False),
    sa.Column("newest", sa.Uuid(), nullable=False),
)

# What waits in the steps of the delay ladder that are not empty.
delay_depths = sa.Table(
    "delay_depths",
    metadata,
    sa.Column("step_seconds", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("jobs", sa.BigInteger(), nullable=False),
)


def _ended(name: str) -> sa.Table:
    """Return a table of how many jobs ended in each span of time, how, and in which bucket of durations."""
    return sa.Table(
        name,
        metadata,
        # Spans since 1970.
        sa.Column("span", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("project", PlainText(), primary_key=True),
        sa.Column("kind", PlainText(), primary_key=True),
        sa.Column("lane", PlainText(), primary_key=True),
        sa.Column("state", PlainText(), primary_key=True),
        sa.Column("bucket", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
    )


ended_minutes = _ended("ended_minutes")
ended_hours = _ended("ended_hours")

# When something was counted and how long that took; of `ends`, up to which number they are in the spans.
figures = sa.Table(
    "figures",
    metadata,
    sa.Column("name", PlainText(), primary_key=True),
    sa.Column("at", Moment(), nullable=False),
    sa.Column("seconds", sa.Float(), nullable=False),
    sa.Column("number", sa.BigInteger(), nullable=False),
)

# The oldest code that may use these tables, in one row; `compatibility.py` makes the table.
schema_compatibility = sa.Table(
    "schema_compatibility", metadata, sa.Column("oldest_code", PlainText(), primary_key=True)
)
