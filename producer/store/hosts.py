"""The rows of tracked hosts: locked, changed and forgotten, always in the order of their names.

Rows of hosts are locked after those of jobs and before those of batches, so that two transactions cannot wait
for each other.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.hosts import (
    LONGEST_PAUSE_SECONDS,
    MOST_COUNTED,
    Hold,
    HostChange,
    HostLimits,
    HostState,
    RecentHosts,
    TrackedHost,
    answer_of,
    answers_of,
    changed,
    ready_at,
    release,
)
from producer.parking import AuditAction
from producer.store.audit import host_target, write_audit
from producer.store.rows import Standing
from producer.store.schema import IS_HELD, hosts, jobs
from producer.store.sql import POSTGRESQL, insert_absent, is_one_of, json_rowset, rows_parameter
from producer.store.wakeup import announce_room
from shared import exact_json
from shared.clock import utc_now
from shared.hosts import HostLimit, host_key
from shared.kinds.registry import Lane
from shared.messages import Report
from shared.states import JobState

# One look at the hosts that are ready.
_MOST_HOSTS = 200
_FORGET_AFTER = timedelta(seconds=60)
# A name and a port.
_MOST_CHARACTERS = 260
_LOOK_ANYWAY = timedelta(seconds=5)
_STATE_NAMES = (
    "in_flight",
    "waiting",
    "owed",
    "next_at",
    "retries",
    "share",
    "cut_at",
    "asked",
    "complained",
    "heard_at",
    "paused_until",
    "failures",
    "rests",
    "rests_until",
    "turn",
)
_IS_READY = hosts.c.ready_at.is_not(None)
_COLUMNS = [hosts.c[name] for name in ("name", *_STATE_NAMES, "set_concurrency", "set_rate_per_second")]


@dataclass(slots=True)
class HostTurns:
    """What a ledger knows of hosts beside the store.

    Attributes:
        look_at: When a host may have room for a job that it holds, as far as is known here. A report may make
            room before, and whoever records it tells.
    """

    limits: HostLimits = field(default_factory=HostLimits)
    recent: RecentHosts = field(default_factory=RecentHosts)
    look_at: datetime = field(default_factory=utc_now)

    def looked(self, ready_at: datetime | None, *, now: datetime) -> None:
        """Note when the next host is ready, if one is: after a look at all of them."""
        # Another ledger may have died with what it alone knew.
        self.look_at = min(ready_at or now + _LOOK_ANYWAY, now + _LOOK_ANYWAY)

    def held(self, ready_at: datetime | None) -> None:
        """Note when a host has room for a job that was held just now."""
        self.look_at = min(ready_at or self.look_at, self.look_at)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An accepted job that is locked, and may be released; `host` has no port."""

    id: UUID
    host: str


def place(
    connection: sa.Connection, found: Sequence[Candidate], turns: HostTurns, *, now: datetime
) -> list[tuple[UUID, float]]:
    """Hold those of some locked jobs whose host has no room; return the others, in their order.

    Each with the seconds until it is to start. Jobs of hosts that are nowhere near their limit cost one look
    at the few hosts that are.
    """
    concerned = _concerned(connection, found, turns, now)
    names = _names(connection, concerned, turns.limits) if concerned else {}
    if not names:
        return [(each.id, 0.0) for each in found]
    states = lock_states(connection, set(names.values()), now=now)
    by_name = defaultdict[str, list[UUID]](list)
    for job_id, name in names.items():
        by_name[name].append(job_id)
    waits, held = dict[UUID, float](), dict[UUID, str]()
    after: list[HostState] = []
    for name, ids in by_name.items():
        state, offsets = states[name], list[float]()
        if not state.waiting:
            # Otherwise those that wait go first.
            state, offsets = release(state, turns.limits.of(name, state), len(ids), now=now)
        waits |= dict(zip(ids, offsets, strict=False))
        held |= dict.fromkeys(ids[len(offsets) :], name)
        after.append(replace(state, waiting=state.waiting + len(ids) - len(offsets)))
    _write_jobs(connection, {job_id: {"counted_for": names[job_id]} for job_id in waits})
    _write_jobs(
        connection, {job_id: {"held_for": name, "claimed_until": None} for job_id, name in held.items()}
    )
    write_states(connection, after, turns.limits, now=now)
    for state in after:
        if state.waiting:
            turns.held(ready_at(state, turns.limits.of(state.name, state), now))
    return [(each.id, waits.get(each.id, 0.0)) for each in found if each.id not in held]


def release_held(
    connection: sa.Connection, turns: HostTurns, *, limit: int, now: datetime
) -> list[tuple[UUID, float]]:
    """Release held jobs whose host has room now; return them with the seconds until each is to start."""
    query = (
        sa.select(*_COLUMNS)
        .where(hosts.c.ready_at <= now)
        .order_by(hosts.c.ready_at)
        .limit(_MOST_HOSTS)
        .with_for_update(skip_locked=True)
    )
    waits: list[tuple[UUID, float]] = []
    after: list[HostState] = []
    counted: dict[UUID, dict[str, Any]] = {}
    for row in connection.execute(query).mappings().all():
        state = _state(row)
        most = min(state.waiting, limit - len(waits))
        if most <= 0:
            after.append(state)
            continue
        released, offsets = release(state, turns.limits.of(state.name, state), most, now=now)
        held = _next_held(connection, state, len(offsets)) if offsets else []
        if len(held) < len(offsets):
            # It has fewer than its row says, or somebody else is at them.
            waiting = _count_held(connection, state.name)
            released, offsets = release(state, turns.limits.of(state.name, state), len(held), now=now)
            released = replace(released, waiting=waiting)
        if held:
            released = replace(released, turn=held[-1].batch_id)
        for job, offset in zip(held, offsets, strict=False):
            waits.append((job.id, offset))
            counted[job.id] = {"held_for": None, "counted_for": state.name}
        after.append(replace(released, waiting=max(released.waiting - len(held), 0)))
    _write_jobs(connection, counted)
    write_states(connection, after, turns.limits, now=now)
    return waits


def next_ready_at(connection: sa.Connection) -> datetime | None:
    """Return when the next host has room for a job that waits, as far as can be told."""
    return connection.scalar(sa.select(hosts.c.ready_at).where(_IS_READY).order_by(hosts.c.ready_at).limit(1))


def note_changes(
    connection: sa.Connection,
    changes: Iterable[tuple[str, HostChange]],
    *,
    failures_to_open: int = 0,
    now: datetime,
) -> None:
    """Write down what happened to jobs of tracked hosts, and wake the relays where that makes room.

    Call it after the jobs are locked, and before their batches are.
    """
    by_name: dict[str, HostChange] = {}
    for name, change in changes:
        by_name[name] = by_name[name].and_then(change) if name in by_name else change
    if not by_name:
        return
    begins = [name for name, change in by_name.items() if change.begins_tracking]
    states = lock_states(connection, by_name, track=begins, now=now)
    after = [
        changed(state, by_name[name], failures_to_open=failures_to_open, now=now)
        for name, state in states.items()
    ]
    # A relay knows the limits, and looks closer.
    write_states(connection, after, None, now=now)
    if any(state.waiting for state in after):
        announce_room(connection)


def left(place: Standing, *, now: datetime) -> list[tuple[str, HostChange]]:
    """Return what it changes in its host that a job ends, or leaves the state in which it was locked."""
    if place.held_for is not None and place.state is JobState.ACCEPTED:
        return [(place.held_for, HostChange(unheld=1))]
    if place.counted_for is None or place.state.is_final:
        return []
    if place.state is JobState.DELAYED and place.due_at is not None:
        return [(place.counted_for, HostChange(not_retries=[place.due_at.timestamp()]))]
    return [(place.counted_for, HostChange(ended=1))]


def moved_on(report: Report, place: Standing, *, now: datetime) -> list[tuple[str, HostChange]]:
    """Return what the last of its reports that lead a job further changes in the job's host."""
    is_held = place.held_for is not None and place.state is JobState.ACCEPTED
    has_left = report.state.is_final or report.state is JobState.DELAYED
    changes = left(place, now=now) if is_held or has_left else []
    if place.counted_for is not None and report.state is JobState.DELAYED and report.due_at is not None:
        changes.append((place.counted_for, HostChange(retries=[report.due_at.timestamp()])))
    return changes


def heard(report: Report, place: Standing, *, is_proven: bool, now: datetime) -> list[tuple[str, HostChange]]:
    """Return what a report of an attempt that has ended says of the hosts that were asked.

    Args:
        is_proven: Whether a worker of ours wrote it; what others say of hosts is not believed.
    """
    if report.outcome is None:
        return []
    own = place.counted_for
    if report.asked is None or not is_proven:
        return [(own, HostChange(answers=[answer_of(report)]))] if own is not None else []
    changes = []
    for word in report.asked:
        until = None
        if word.pause_seconds:
            until = (report.ended_at or now) + timedelta(
                seconds=min(word.pause_seconds, LONGEST_PAUSE_SECONDS)
            )
        requests = word.requests - (word.host == own)
        changes.append(
            (word.host, HostChange(answers=answers_of(word), more_requests=requests, pause_until=until))
        )
    return changes


def lock_states(
    connection: sa.Connection, names: Collection[str], *, track: Collection[str] | None = None, now: datetime
) -> dict[str, HostState]:
    """Return hosts, locked until the transaction ends.

    Args:
        track: Those of them that are tracked from now on, if they were not; None is all of them.
    """
    ordered = sorted(names)
    found = _lock(connection, ordered)
    wanted = ordered if track is None else sorted(track)
    if missing := [name for name in wanted if name not in found]:
        rows = [{"name": name, "host": _without_port(name), "changed_at": now} for name in missing]
        connection.execute(insert_absent(connection, hosts), rows)
        # All of them again, so that they are locked in order.
        found = _lock(connection, ordered)
    return found


def write_states(
    connection: sa.Connection, states: Sequence[HostState], limits: HostLimits | None, *, now: datetime
) -> None:
    """Write hosts that are locked.

    Args:
        limits: None where nobody knows them; then a relay is to look at once.
    """
    if not states:
        return
    rows = [_row(state, limits, now) for state in states]
    names = tuple(name for name in rows[0] if name != "name")
    connection.execute(_writing(connection.dialect.name, names), rows_parameter(connection, rows))


def list_hosts(connection: sa.Connection, *, after: str | None, limit: int) -> list[TrackedHost]:
    """Return tracked hosts by name, from behind one on."""
    query = sa.select(*_COLUMNS, hosts.c.concurrency, hosts.c.rate_per_second).order_by(hosts.c.name)
    if after is not None:
        query = query.where(hosts.c.name > after)
    return [_tracked(row) for row in connection.execute(query.limit(limit)).mappings()]


def get_host(connection: sa.Connection, name: str) -> TrackedHost | None:
    """Return a host if it is tracked."""
    query = sa.select(*_COLUMNS, hosts.c.concurrency, hosts.c.rate_per_second).where(hosts.c.name == name)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _tracked(row)


def set_limit(
    connection: sa.Connection, name: str, limit: HostLimit | None, *, by: str, now: datetime
) -> TrackedHost:
    """Set the limit of a host over the whole fleet, or with None let the settings say it again; return it."""
    state = lock_states(connection, [name], now=now)[name]
    if state.limit != limit:
        values = {
            "set_concurrency": None if limit is None else limit.concurrency,
            "set_rate_per_second": None if limit is None else limit.rate_per_second,
            # A relay looks at it, and says what it allows.
            "concurrency": None if limit is None else limit.concurrency,
            "rate_per_second": None if limit is None else limit.rate_per_second,
            "ready_at": now if state.waiting else None,
            "changed_at": now,
        }
        connection.execute(hosts.update().where(hosts.c.name == name).values(values))
        write_audit(
            connection,
            AuditAction.HOST_LIMIT_SET if limit is not None else AuditAction.HOST_LIMIT_CLEARED,
            target=host_target(name),
            project=None,
            by=by,
            details={"host": name, "before": _words(state.limit), "after": _words(limit)},
            now=now,
        )
        announce_room(connection)
    found = get_host(connection, name)
    assert found is not None
    return found


def hold_of(connection: sa.Connection, job_id: UUID) -> Hold | None:
    """Return what holds a job, if its host does; it counts no more than `MOST_COUNTED` before it."""
    one = sa.select(jobs.c.held_for, jobs.c.lane, jobs.c.batch_id).where(IS_HELD, jobs.c.id == job_id)
    row = connection.execute(one).one_or_none()
    if row is None or (host := get_host(connection, row.held_for)) is None:
        return None
    of_batch = jobs.c.batch_id.is_(None) if row.batch_id is None else jobs.c.batch_id == row.batch_id
    before = (
        sa.select(jobs.c.id)
        .where(
            IS_HELD, jobs.c.held_for == row.held_for, jobs.c.lane == row.lane, of_batch, jobs.c.id < job_id
        )
        .order_by(jobs.c.held_for, jobs.c.lane, jobs.c.batch_id, jobs.c.id)
        .limit(MOST_COUNTED)
    )
    return Hold(host, connection.scalar(sa.select(sa.func.count()).select_from(before.subquery())) or 0)


def count_hosts(connection: sa.Connection) -> tuple[int, int, int]:
    """Return how many hosts are tracked, how many of them hold jobs, and how many jobs they hold."""
    query = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(sa.case((hosts.c.waiting > 0, 1), else_=0)), 0),
        sa.func.coalesce(sa.func.sum(hosts.c.waiting), 0),
    )
    tracked, holding, held = connection.execute(query).one()
    return int(tracked), int(holding), int(held)


def forget_idle(connection: sa.Connection, *, now: datetime, limit: int = 1_000) -> int:
    """Delete the rows of hosts of which nothing need be known any more; return how many were looked at."""
    query = (
        sa.select(*_COLUMNS)
        .where(
            hosts.c.changed_at < now - _FORGET_AFTER,
            hosts.c.in_flight == 0,
            hosts.c.waiting == 0,
            hosts.c.set_concurrency.is_(None),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = [_state(row) for row in connection.execute(query).mappings().all()]
    if gone := [state.name for state in found if state.is_forgettable(now)]:
        connection.execute(hosts.delete().where(hosts.c.name.in_(gone)))
    return len(gone)


def recount_stuck(connection: sa.Connection, *, now: datetime, limit: int = 1_000) -> list[str]:
    """Count the jobs in flight of hosts of which nothing was heard for a while; return those that differed.

    What gave no place back, such as a job that code of version 0.1.0 ended, must not fill a host for ever.
    """
    query = (
        sa.select(*_COLUMNS)
        .where(hosts.c.changed_at < now - _FORGET_AFTER, sa.or_(hosts.c.in_flight > 0, hosts.c.waiting > 0))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    stuck = {row["name"]: _state(row) for row in connection.execute(query).mappings().all()}
    if not stuck:
        return []
    is_delayed = sa.and_(jobs.c.state == JobState.DELAYED, jobs.c.due_at <= now)
    under_way = sa.or_(jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]), is_delayed)
    counting = sa.select(jobs.c.counted_for, sa.func.count()).where(under_way, jobs.c.counted_for.in_(stuck))
    counted = {row[0]: row[1] for row in connection.execute(counting.group_by(jobs.c.counted_for))}
    wrong = [
        replace(state, in_flight=in_flight, waiting=waiting)
        for name, state in stuck.items()
        for in_flight, waiting in [(counted.get(name, 0), _count_held(connection, name))]
        if (in_flight, waiting) != (state.in_flight, state.waiting)
    ]
    write_states(connection, wrong, None, now=now)
    if wrong:
        announce_room(connection)
    return [state.name for state in wrong]


def _concerned(
    connection: sa.Connection, found: Sequence[Candidate], turns: HostTurns, now: datetime
) -> list[Candidate]:
    """Return the jobs of hosts that are tracked, or that have to be from now on."""
    # Limits know a host without the dot that may end its name.
    counts = Counter(each.host.rstrip(".") for each in found)
    counts.pop("", None)
    if not counts:
        return []
    limits = turns.limits
    # Somebody may have set a limit at run time, or a host may have asked for a pause.
    suspects = set(_among(connection, hosts.c.host, counts))
    if not limits.limits_nothing:
        suspects |= turns.recent.note(counts, now)
        suspects |= {host for host, jobs_of_host in counts.items() if jobs_of_host > 1}
        if limits.tracks_every_host:
            suspects |= counts.keys()
        elif limits.has_names:
            # A name that is limited with a port is a suspect on all ports.
            suspects |= {host for host in counts if limits.may_name(host)}
    return [each for each in found if each.host.rstrip(".") in suspects] if suspects else []


def _names(connection: sa.Connection, concerned: Sequence[Candidate], limits: HostLimits) -> dict[UUID, str]:
    """Return as which hosts jobs are limited, by their ids, in their order.

    Those without a host are missing, and those that were released before by a ledger that has died since:
    they have their place.
    """
    ids = [each.id for each in concerned]
    query = sa.select(jobs.c.id, sa.cast(jobs.c.args, sa.Text())).where(
        is_one_of(connection, jobs.c.id, ids), jobs.c.counted_for.is_(None)
    )
    args = {row[0]: row[1] for row in connection.execute(query)}
    names = {job_id: name for job_id in ids if (name := _name_of(args.get(job_id))) is not None}
    if not limits.limits_nothing:
        return names
    tracked = set(_among(connection, hosts.c.name, set(names.values())))
    return {job_id: name for job_id, name in names.items() if name in tracked}


def _name_of(args_json: str | None) -> str | None:
    try:
        url = exact_json.loads(args_json).get("url") if args_json else None
    except ValueError:
        return None
    name = host_key(url) if isinstance(url, str) else None
    # What is longer has no address (RFC 1035 section 2.3.4), and is too long for an index of PostgreSQL.
    return name if name is not None and len(name) <= _MOST_CHARACTERS else None


def _among(connection: sa.Connection, column: sa.Column[str], names: Iterable[str]) -> Sequence[str]:
    wanted = list(names)
    if connection.dialect.name == POSTGRESQL:
        # One parameter, so that the statement is planned once.
        condition = column == sa.any_(sa.bindparam("names", wanted, sa.ARRAY(sa.Text())))
    else:
        condition = column.in_(wanted)
    return list(connection.scalars(sa.select(column).where(condition)))


def _lock(connection: sa.Connection, ordered: Sequence[str]) -> dict[str, HostState]:
    query = sa.select(*_COLUMNS).where(hosts.c.name.in_(ordered)).order_by(hosts.c.name).with_for_update()
    return {row["name"]: _state(row) for row in connection.execute(query).mappings().all()}


def _next_held(
    connection: sa.Connection, state: HostState, most: int
) -> list[sa.Row[tuple[UUID, UUID | None]]]:
    """Return held jobs of a host in turn: the interactive lane's first, then some of the next batch.

    Those of one batch are in their order. Single jobs are one batch, behind all others.
    """
    here = [IS_HELD, jobs.c.held_for == state.name]
    bulk = [*here, jobs.c.lane == Lane.BULK]
    batches, singles = [*bulk, jobs.c.batch_id.is_not(None)], [*bulk, jobs.c.batch_id.is_(None)]
    # Whose turn is over comes last, also if it is the only one.
    turns = [batches, singles]
    if state.turn is not None:
        turns = [[*batches, jobs.c.batch_id > state.turn], singles, [*batches, jobs.c.batch_id <= state.turn]]
    found: list[Any] = []
    for which in ([*here, jobs.c.lane == Lane.INTERACTIVE], *turns):
        if len(found) == most:
            break
        query = (
            sa.select(jobs.c.id, jobs.c.batch_id)
            .where(*which)
            .order_by(jobs.c.held_for, jobs.c.lane, jobs.c.batch_id, jobs.c.id)
            .limit(most - len(found))
            .with_for_update(skip_locked=True, key_share=True)
        )
        found += [*connection.execute(query).all()]
    return found


def _count_held(connection: sa.Connection, name: str) -> int:
    query = sa.select(sa.func.count()).select_from(jobs).where(IS_HELD, jobs.c.held_for == name)
    return connection.scalar(query) or 0


def _write_jobs(connection: sa.Connection, values: Mapping[UUID, Mapping[str, Any]]) -> None:
    if not values:
        return
    rows = [{"id": job_id, **columns} for job_id, columns in sorted(values.items())]
    statement = _writing_jobs(connection.dialect.name, tuple(rows[0]))
    connection.execute(statement, rows_parameter(connection, rows))


@cache
def _writing_jobs(dialect: str, names: tuple[str, ...]) -> sa.Update:
    given = json_rowset(dialect, jobs, names)
    return jobs.update().where(jobs.c.id == given.c.id).values({n: given.c[n] for n in names if n != "id"})


@cache
def _writing(dialect: str, names: tuple[str, ...]) -> sa.Update:
    given = json_rowset(dialect, hosts, ("name", *names))
    values = {name: given.c[name] for name in names}
    return hosts.update().where(hosts.c.name == given.c.name).values(values)


def _state(row: sa.RowMapping) -> HostState:
    limit = None
    if row["set_concurrency"] is not None:
        limit = HostLimit(row["set_concurrency"], row["set_rate_per_second"] or 0.0)
    return HostState(row["name"], **{name: row[name] for name in _STATE_NAMES}, limit=limit)


def _tracked(row: sa.RowMapping) -> TrackedHost:
    limit = None
    if row["concurrency"] is not None:
        limit = HostLimit(row["concurrency"], row["rate_per_second"] or 0.0)
    return TrackedHost(_state(row), limit)


def _words(limit: HostLimit | None) -> dict[str, float] | None:
    if limit is None:
        return None
    return {"concurrency": limit.concurrency, "rate_per_second": limit.rate_per_second}


def _row(state: HostState, limits: HostLimits | None, now: datetime) -> dict[str, Any]:
    limit = None if limits is None else limits.of(state.name, state)
    at = ready_at(state, limit, now) if state.waiting else None
    values = {name: getattr(state, name) for name in _STATE_NAMES}
    known = (
        {} if limit is None else {"concurrency": limit.concurrency, "rate_per_second": limit.rate_per_second}
    )
    return {
        "name": state.name,
        **values,
        **known,
        "retries": list(state.retries),
        "ready_at": at,
        "changed_at": now,
    }


def _without_port(name: str) -> str:
    host, separator, port = name.rpartition(":")
    return (host if separator and port.isdigit() else name).strip("[]")
