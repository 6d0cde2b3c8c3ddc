"""The transactional outbox: the accepted jobs, leased to one relay at a time until they are published."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.flows import Flow, Flows
from producer.records import ClaimedJob
from producer.store.batches import Move, count_moves
from producer.store.bodies import FETCH, copy_key, find_copies
from producer.store.hosts import Candidate, HostTurns, next_ready_at, place, release_held
from producer.store.page_bytes import PAGE_BYTES, lock_fitting_rows
from producer.store.rows import CLAIM_COLUMNS, claimed_job, first_id, lock_jobs
from producer.store.schema import IS_ACCEPTED, IS_READY_BULK, IS_READY_INTERACTIVE, jobs
from producer.store.secrets import note_use, with_secrets
from producer.store.sql import is_free, is_one_of, read_in_order
from producer.store.wakeup import announce_room, announce_waiting
from shared.kinds.registry import BROKERED_KINDS, KINDS, Lane, is_bundled
from shared.states import JobState, position

_MAY_BE_BUNDLED = sa.or_(
    *(
        sa.and_(jobs.c.kind == kind, jobs.c.lane == lane)
        for kind in KINDS
        for lane in Lane
        if is_bundled(kind, lane)
    )
)
# No page looks for more flows than these. The others are found when some of these have ended.
_MOST_FLOWS = 64
_BY_FLOW = (jobs.c.kind, jobs.c.batch_id, jobs.c.id)
_READY_INTERACTIVE = sa.select(jobs.c.id, jobs.c.host).where(IS_READY_INTERACTIVE).order_by(jobs.c.id)


def claim_accepted(
    connection: sa.Connection,
    *,
    limit: int,
    lease_seconds: float,
    now: datetime,
    turns: HostTurns | None = None,
    flows: Flows | None = None,
    most_of: Mapping[str, int] | None = None,
    interactive_before: datetime | None = None,
) -> list[ClaimedJob]:
    """Lease accepted jobs that nobody holds a lease on, and return them: interactive first, then in turn.

    The interactive ones wait behind no batch. What they leave of the limit goes to the batches of the bulk
    lane, as `flows` share it. No more are leased once they have `PAGE_BYTES` of arguments, and those before
    are returned once they have as much with their secrets. Those whose host has no room are held instead:
    `claim_held` finds them.

    Args:
        turns: What is known of hosts; without it nothing is limited by the settings.
        flows: What is known of batches. It says afterwards whether there are more jobs.
        most_of: How many jobs of the bulk lane of a kind may be leased, of those that are bounded.
        interactive_before: Leave interactive jobs that were handed in later to `claim_interactive`.
    """
    flows = flows or Flows()
    read_in_order(connection)
    found = _Found(connection, lease_seconds, now)
    ready = _READY_INTERACTIVE
    if interactive_before is not None:
        ready = ready.where(jobs.c.id < first_id(interactive_before))
    found.take(ready, limit)
    if found.has_room and flows.is_old(now):
        flows.found(_ready_flows(connection), now)
    after: dict[Flow, UUID] = {}
    left_of = dict(most_of or {})
    while found.has_room and (shares := flows.shares(limit - len(found.rows), left_of)):
        for flow, share in shares:
            which = [*_of(flow), *([jobs.c.id > after[flow]] if flow in after else [])]
            rows = found.take(sa.select(jobs.c.id, jobs.c.host).where(*which).order_by(*_BY_FLOW), share)
            if rows:
                after[flow] = rows[-1].id
            if flow.kind in left_of:
                left_of[flow.kind] -= len(rows)
            if found.has_room:
                flows.took(flow, len(rows), share=share)
    flows.is_page_full = not found.has_room or len(found.rows) >= limit
    waits = place(connection, found.candidates, turns or HostTurns(), now=now)
    return _leased(connection, waits, until=now + timedelta(seconds=lease_seconds), now=now)


def has_interactive(connection: sa.Connection) -> bool:
    """Return whether `claim_interactive` may find something. Locks nothing."""
    return connection.scalar(_READY_INTERACTIVE.limit(1)) is not None


def claim_interactive(
    connection: sa.Connection, turns: HostTurns, *, limit: int, lease_seconds: float, now: datetime
) -> tuple[list[ClaimedJob], bool]:
    """Lease interactive jobs as `claim_accepted` does, without a look at any other.

    Returns:
        The jobs, and whether more may follow at once.
    """
    read_in_order(connection)
    found = _Found(connection, lease_seconds, now)
    found.take(_READY_INTERACTIVE, limit)
    waits = place(connection, found.candidates, turns, now=now)
    if len(waits) < len(found.rows):
        # Who claims what is held is to look when their hosts have room.
        announce_room(connection)
    leased = _leased(connection, waits, until=now + timedelta(seconds=lease_seconds), now=now)
    return leased, not found.has_room or len(found.rows) >= limit


def claim_held(
    connection: sa.Connection, turns: HostTurns, *, limit: int, lease_seconds: float, now: datetime
) -> list[ClaimedJob]:
    """Lease held jobs whose host has room now, and return them; `turns` then knows when to look again."""
    read_in_order(connection)
    until = now + timedelta(seconds=lease_seconds)
    waits = release_held(connection, turns, limit=limit, now=now)
    turns.looked(next_ready_at(connection), now=now)
    return _leased(connection, waits, until=until, now=now)


def mark_queued(
    connection: sa.Connection,
    claims: Sequence[tuple[UUID, int]],
    *,
    now: datetime,
    alone: Collection[UUID] | None = None,
) -> None:
    """Move jobs that the broker has confirmed to `queued`; a job that has moved on stays where it is.

    A fast worker's report may come first, and a redrive may have started another run.

    Args:
        claims: The jobs, as (id, run).
        now: Later than the confirms.
        alone: Those that might have shared a message with others of these jobs, and went alone; None when
            nobody knows.
    """
    ids_by_run: defaultdict[int, list[UUID]] = defaultdict(list)
    for job_id, run in claims:
        ids_by_run[run].append(job_id)
    if len(ids_by_run) > 1:
        # In the order of their ids over all runs, or two transactions might wait for each other.
        lock_jobs(connection, (job_id for job_id, _ in claims))
    also = {} if alone is None else {"is_bundled": _was_bundled(connection, alone)}
    moves = [
        move for run, ids in ids_by_run.items() for move in _move_to_queued(connection, run, ids, now, also)
    ]
    count_moves(connection, moves, now=now)


def release_claims(connection: sa.Connection, job_ids: Iterable[UUID], *, retry_at: datetime) -> None:
    """Give up the lease of jobs that could not be published: they can be claimed after `retry_at`."""
    locked = lock_jobs(connection, job_ids)
    connection.execute(
        jobs.update()
        .where(is_one_of(connection, jobs.c.id, list(locked)), IS_ACCEPTED)
        .values(claimed_until=retry_at)
    )


def as_sent(connection: sa.Connection, claimed: list[ClaimedJob], *, now: datetime) -> list[ClaimedJob]:
    """Return the jobs with what goes along: the copy that one builds on, the secrets that it names."""
    return with_secrets(connection, _with_copies(connection, claimed), now=now)


def _fitting(connection: sa.Connection, claimed: list[ClaimedJob]) -> list[ClaimedJob]:
    """Return the first jobs that have `PAGE_BYTES` with their secrets; let go of the others."""
    if not any(job.sealed for job in claimed):
        return claimed
    total = 0
    for number, job in enumerate(claimed, start=1):
        total += job.claimed_bytes
        # As full as a page that is full by its arguments, so that the next is claimed at once.
        if total >= PAGE_BYTES and (left := [each.id for each in claimed[number:]]):
            is_left = is_one_of(connection, jobs.c.id, left)
            connection.execute(jobs.update().where(is_left).values(claimed_until=None))
            return claimed[:number]
    return claimed


def _with_copies(connection: sa.Connection, claimed: list[ClaimedJob]) -> list[ClaimedJob]:
    """Return the jobs; those that ask for changes alone get the copy that they build on."""
    asking = {job.id: key for job in claimed if job.kind == FETCH and (key := _copy_key(job))}
    if not asking:
        return claimed
    copies = find_copies(connection, asking)
    return [replace(job, known=copies[job.id]) if job.id in copies else job for job in claimed]


def _hand_to_agents(connection: sa.Connection, pulled: Sequence[ClaimedJob], *, now: datetime) -> None:
    """Let agents find jobs that no message asks for."""
    mark_queued(connection, [(job.id, job.run) for job in pulled], now=now)
    announce_waiting(connection, {job.id: job.kind for job in pulled})


def _copy_key(job: ClaimedJob) -> bytes | None:
    try:
        args = job.args
    except ValueError:
        # A lone surrogate, which JSON of a third party may hold: no worker takes such arguments.
        return None
    return copy_key(args, project=job.project) if args.get("if_changed") else None


class _Found:
    """Accepted jobs that were locked for a page."""

    def __init__(self, connection: sa.Connection, lease_seconds: float, now: datetime) -> None:
        self.rows: list[sa.Row[Any]] = []
        self._connection = connection
        self._is_free = is_free(jobs.c.claimed_until, seconds=lease_seconds, now=now)
        self._most_bytes = PAGE_BYTES

    @property
    def candidates(self) -> list[Candidate]:
        """The jobs that were found, for `place`."""
        return [Candidate(row.id, row.host) for row in self.rows]

    @property
    def has_room(self) -> bool:
        """Whether the page may have more bytes."""
        return self._most_bytes > 0

    def take(self, ready: sa.Select[Any], limit: int) -> list[sa.Row[Any]]:
        """Lock more jobs, without those that another relay is leasing; return them."""
        if limit <= 0:
            return []
        query = ready.where(self._is_free).limit(limit)
        rows = lock_fitting_rows(
            self._connection, query, [jobs.c.args], most_bytes=self._most_bytes, key_share=True
        )
        self._most_bytes -= sum(row[-1] for row in rows)
        self.rows += rows
        return rows


def _ready_flows(connection: sa.Connection) -> list[Flow]:
    """Return which batches have jobs that may be leased: one look at the index for each."""
    flows: list[Flow] = []
    after_kind: list[sa.ColumnElement[bool]] = []
    while kind := connection.scalar(_first_ready(jobs.c.kind, *after_kind)):
        here = [jobs.c.kind == kind]
        if connection.scalar(_first_ready(jobs.c.id, *here, jobs.c.batch_id.is_(None))):
            flows.append(Flow(kind, None))
        last = UUID(int=0)
        while len(flows) < _MOST_FLOWS and (
            batch_id := connection.scalar(_first_ready(jobs.c.batch_id, *here, jobs.c.batch_id > last))
        ):
            flows.append(Flow(kind, batch_id))
            last = batch_id
        after_kind = [jobs.c.kind > kind]
    return flows


def _first_ready(column: sa.Column[Any], *which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(column).where(IS_READY_BULK, *which).order_by(*_BY_FLOW).limit(1)


def _of(flow: Flow) -> list[sa.ColumnElement[bool]]:
    batch_id = jobs.c.batch_id
    is_of = batch_id.is_(None) if flow.batch_id is None else batch_id == flow.batch_id
    return [IS_READY_BULK, jobs.c.kind == flow.kind, is_of]


def _leased(
    connection: sa.Connection, waits: Sequence[tuple[UUID, float]], *, until: datetime, now: datetime
) -> list[ClaimedJob]:
    """Lease locked jobs, and return them in their order; each with the seconds until it is to start."""
    if not waits:
        return []
    lease = (
        jobs.update()
        .where(is_one_of(connection, jobs.c.id, [job_id for job_id, _ in waits]))
        .values(claimed_until=until)
        .returning(*CLAIM_COLUMNS)
    )
    # RETURNING promises no order. By the numbers, because ids are hashed in Python.
    leased = {row[0].int: claimed_job(row) for row in connection.execute(lease).all()}
    claimed = [
        replace(leased[job_id.int], starts_at=now + timedelta(seconds=wait)) if wait else leased[job_id.int]
        for job_id, wait in waits
    ]
    if pulled := [job for job in claimed if job.kind not in BROKERED_KINDS and job.kind in KINDS]:
        # Code of version 0.1.0 has redriven them, or accepted them at their time.
        _hand_to_agents(connection, pulled, now=now)
        claimed = [job for job in claimed if job not in pulled]
    sent = _fitting(connection, as_sent(connection, claimed, now=now))
    note_use(connection, sent, now=now)
    return sent


def _was_bundled(connection: sa.Connection, alone: Collection[UUID]) -> sa.ColumnElement[bool]:
    if not alone:
        return _MAY_BE_BUNDLED
    return sa.and_(_MAY_BE_BUNDLED, sa.not_(is_one_of(connection, jobs.c.id, alone)))


def _move_to_queued(
    connection: sa.Connection, run: int, ids: Sequence[UUID], now: datetime, also: Mapping[str, Any]
) -> list[Move]:
    """Move those of a run's jobs that are not as far yet, and return the moves."""
    queued = position(run=run, attempt=0, state=JobState.QUEUED)
    is_behind = sa.and_(is_one_of(connection, jobs.c.id, ids), jobs.c.run == run, jobs.c.position < queued)
    behind = (
        sa.select(jobs.c.batch_id, jobs.c.state)
        .where(is_behind)
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
        .subquery()
    )
    # The database counts them: thousands of rows need not come here.
    count = sa.select(behind, sa.func.count()).group_by(behind.c.batch_id, behind.c.state)
    counted = connection.execute(count).all()
    connection.execute(
        jobs.update()
        .where(is_behind)
        .values(state=JobState.QUEUED, position=queued, claimed_until=None, updated_at=now, **also)
    )
    return [Move(batch_id, state, JobState.QUEUED, jobs=number) for batch_id, state, number in counted]
