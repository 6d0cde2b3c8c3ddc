"""The limits of projects: what is set, what they have, and who is let in.

Only projects that are limited have a row of usage, and nobody else pays for one. It is changed in the
transaction that stores or deletes, so it is exact however many processes do so. A process reads the limits
once a second at most: for so long after the first limit of a project is set, it may store without counting.
So may transactions that were under way then, and code of before. Counting again corrects all of that: one
statement sees the rows and the count of one moment, and their difference is what was missed.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from producer.callers import DEFAULT_PROJECT
from producer.parking import AuditAction
from producer.quotas import EVERY_PROJECT_LIMITS, LimitName, Limits, Room, Usage, refusal
from producer.store.audit import project_target, write_audit
from producer.store.projects import visible
from producer.store.schema import (
    IS_OF_A_PROJECT,
    batches,
    bodies,
    jobs,
    project_limits,
    project_usage,
    schedules,
)
from producer.store.sql import POSTGRESQL, insert_absent
from shared.clock import utc_now
from shared.kinds.task import TASK

Stored = Counter[tuple[str, str]]
"""How many jobs were stored, by project and kind."""

KNOWN_SECONDS: Final = 1.0
"""How long a process goes by the limits that it has read."""

SETTLED_SECONDS: Final = 1.5
"""After so long all processes go by limits that were set, and have committed what they stored before."""

KNOWN_LIMITS: Final = "retriever_known_limits"
"""The execution option of an engine that has its `KnownLimits`."""

RECOUNTED_SOON: Final = timedelta(minutes=2)
"""When the ledger counts after a limit was set: what was under way then has ended, a long batch too."""

RECOUNTED: Final = timedelta(hours=1)
_USAGE = tuple(project_usage.c[each.name] for each in fields(Usage))
_STORED = (LimitName.STORED_JOBS, LimitName.STORED_TASKS, LimitName.STORED_BYTES)


class KnownLimits:
    """The limits as one process has read them last; for any number of threads."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._limits = Limits()

    def fresh(self) -> Limits | None:
        """Return the limits; None when they have to be read again."""
        return self._limits if time.monotonic() - self._read_at < KNOWN_SECONDS else None

    def forget(self) -> None:
        """Let the next who asks read them again: this process has changed them."""
        self._read_at = float("-inf")

    def note(self, limits: Limits, *, read_at: float) -> None:
        """Keep what was read at a monotonic time, unless somebody has read later."""
        if read_at > self._read_at:
            self._limits, self._read_at = limits, read_at


def limits_in_force(connection: sa.Connection) -> Limits:
    """Return the limits of all projects, as this process has read them within the last second."""
    known: KnownLimits | None = connection.get_execution_options().get(KNOWN_LIMITS)
    if known is None:
        return read_limits(connection)
    if (limits := known.fresh()) is not None:
        return limits
    read_at = time.monotonic()
    limits = read_limits(connection)
    known.note(limits, read_at=read_at)
    return limits


def read_limits(connection: sa.Connection) -> Limits:
    """Return the limits of all projects, without names that only a newer version knows."""
    found: dict[str, dict[LimitName, int]] = {}
    for project, name, value in connection.execute(sa.select(project_limits)):
        if name in list(LimitName):
            found.setdefault(project, {})[LimitName(name)] = value
    return Limits(found)


def set_limits(
    connection: sa.Connection, project: str, limits: Mapping[LimitName, int], *, by: str, now: datetime
) -> None:
    """Let these be the limits of a project, and no others; `*` is every project without one.

    What a project has is counted from here on, if one of them needs it: call `recount` when all processes
    know of it.
    """
    before = read_limits(connection).by_project.get(project, {})
    connection.execute(project_limits.delete().where(project_limits.c.project == project))
    if limits:
        rows = [{"project": project, "name": name, "value": value} for name, value in limits.items()]
        connection.execute(project_limits.insert(), rows)
    if is_project(project) and read_limits(connection).counted([project]):
        _begin_counting(connection, project, now=now)
    _lock(connection, list(connection.scalars(sa.select(project_usage.c.project))))
    connection.execute(project_usage.update().values(recount_at=now + RECOUNTED_SOON))
    _forget_unlimited(connection)
    if dict(limits) != dict(before):
        details = {"limits": dict(limits), "before": dict(before)}
        write_audit(
            connection,
            AuditAction.LIMITS_SET,
            target=project_target(project),
            project=project if is_project(project) else None,
            by=by,
            details=details,
            now=now,
        )


def is_project(name: str) -> bool:
    """Return whether limits are kept under this name for one project."""
    return name != EVERY_PROJECT_LIMITS


def rooms_of(connection: sa.Connection, projects: Iterable[str]) -> dict[str, Room]:
    """Lock what limited projects have until the transaction ends; return how much more they may store.

    Those without a limit are missing, and cost nothing.
    """
    limits = limits_in_force(connection)
    counted = limits.counted(projects)
    if not counted:
        return {}
    found = _lock(connection, counted)
    for missing in (project for project in counted if project not in found):
        _begin_counting(connection, missing, now=utc_now())
    if len(found) < len(counted):
        found = _lock(connection, counted)
    return {project: Room(project, limits.of(project), usage) for project, usage in found.items()}


def full_projects(connection: sa.Connection) -> dict[LimitName, int]:
    """Return how many projects have reached a limit of what they store, by its name."""
    limits, full = read_limits(connection), dict.fromkeys(_STORED, 0)
    for project, usage in read_usage(connection).items():
        if (refused := Room(project, limits.of(project), usage).refusal(TASK)) is not None:
            full[LimitName(refused.name)] += 1
    return full


def glance(connection: sa.Connection, project: str) -> Room | None:
    """Return how much more a project may store at this moment, without a lock; None for any number."""
    limits = limits_in_force(connection)
    if not limits.counted([project]):
        return None
    usage = read_usage(connection, [project]).get(project)
    return None if usage is None else Room(project, limits.of(project), usage)


def check_room(connection: sa.Connection, stored: Mapping[tuple[str, str], int]) -> None:
    """Do nothing if so many jobs, by project and kind, may be stored in this transaction.

    Raises:
        ProjectLimitReached: they may not.
    """
    rooms = rooms_of(connection, (project for project, _ in stored))
    for (project, kind), more in stored.items():
        if (room := rooms.get(project)) is None:
            continue
        if (refused := room.refusal(kind, more=more)) is not None:
            raise refused
        room.take(kind, more=more)


def count_stored(connection: sa.Connection, stored: Mapping[tuple[str, str], int]) -> dict[str, Usage]:
    """Count jobs that this transaction has stored, by project and kind; fewer than 0 were deleted.

    Call it once, behind all other locks of the transaction: whoever stores for the same project waits until
    it ends, and two that lock the projects in one order cannot wait for each other.

    Returns:
        What the limited projects among them have now.
    """
    counted = limits_in_force(connection).counted(project for project, _ in stored)
    found = {}
    for project in counted:
        more = sum(number for (of, _), number in stored.items() if of == project)
        tasks = sum(number for (of, kind), number in stored.items() if of == project and kind == TASK)
        add = (
            project_usage.update()
            .where(project_usage.c.project == project)
            .values(jobs=project_usage.c.jobs + more, tasks=project_usage.c.tasks + tasks)
            .returning(*_USAGE)
        )
        row = connection.execute(add).one_or_none()
        if row is None:
            # It counts what this transaction has stored; a row that another has made meanwhile does not.
            is_new = _begin_counting(connection, project, now=utc_now())
            query = sa.select(*_USAGE).where(project_usage.c.project == project)
            row = connection.execute(query if is_new else add).one()
        found[project] = Usage(*row)
    return found


def check_counted(
    connection: sa.Connection, project: str, kind: str, *, stored: int, is_unfinished: bool
) -> None:
    """Count the jobs of a batch that this transaction has stored; undo it all if they do not fit.

    At its end, so that nobody else waits while a long batch is stored.

    Raises:
        ProjectLimitReached: the project has more than it may now.
    """
    usage = count_stored(connection, {(project, kind): stored}).get(project)
    if usage is None:
        return
    limits = limits_in_force(connection).of(project)
    before = replace(
        usage, jobs=usage.jobs - stored, tasks=usage.tasks - stored if kind == TASK else usage.tasks
    )
    if (refused := Room(project, limits, before).refusal(kind, more=stored)) is not None:
        raise refused
    # With the lock on the usage: two batches cannot both be the last.
    value = limits.get(LimitName.UNFINISHED_BATCHES)
    if is_unfinished and value is not None and (there := count_unfinished(connection, project)) > value:
        raise refusal(project, LimitName.UNFINISHED_BATCHES, value=value, used=there - 1)


def check_batch(connection: sa.Connection, project: str, kind: str, *, jobs_wanted: int) -> None:
    """Do nothing if a batch may come now: a glance before its jobs are stored, and no promise.

    Raises:
        ProjectLimitReached: it would not fit.
    """
    limits = limits_in_force(connection).of(project)
    if (value := limits.get(LimitName.BATCH_JOBS)) is not None and jobs_wanted > value:
        raise refusal(project, LimitName.BATCH_JOBS, value=value, used=jobs_wanted)
    if (room := glance(connection, project)) is not None and (
        refused := room.refusal(kind, more=jobs_wanted)
    ) is not None:
        raise refused
    value = limits.get(LimitName.UNFINISHED_BATCHES)
    if value is not None and (there := count_unfinished(connection, project)) >= value:
        raise refusal(project, LimitName.UNFINISHED_BATCHES, value=value, used=there)


def check_schedules(connection: sa.Connection, project: str) -> None:
    """Do nothing if a project may have one more schedule; locks its usage.

    Raises:
        ProjectLimitReached: it may not.
    """
    value = limits_in_force(connection).of(project).get(LimitName.SCHEDULES)
    if value is None:
        return
    rooms_of(connection, [project])
    if (there := _count(connection, schedules.c.project == project)) >= value:
        raise refusal(project, LimitName.SCHEDULES, value=value, used=there)


def count_unfinished(connection: sa.Connection, project: str) -> int:
    """Return how many batches of a project are unfinished."""
    return _count(connection, batches.c.project == project, batches.c.finished_at.is_(None))


def count_schedules(connection: sa.Connection, project: str) -> int:
    """Return how many schedules a project has."""
    return _count(connection, schedules.c.project == project)


def read_usage(connection: sa.Connection, projects: Collection[str] | None = None) -> dict[str, Usage]:
    """Return what limited projects have, by name; of all without `projects`."""
    query = sa.select(project_usage.c.project, *_USAGE)
    if projects is not None:
        query = query.where(project_usage.c.project.in_(list(projects)))
    return {project: Usage(*row) for project, *row in connection.execute(query)}


def count_jobs(connection: sa.Connection, project: str) -> Usage:
    """Return how many jobs a project has; reads an entry of an index for each."""
    return Usage(*connection.execute(sa.select(*_counts(project))).one())


def due_recounts(connection: sa.Connection, *, now: datetime) -> list[str]:
    """Return the projects whose rows are to be counted again."""
    return list(
        connection.scalars(
            sa.select(project_usage.c.project)
            .where(project_usage.c.recount_at <= now)
            .order_by(project_usage.c.project)
        )
    )


def recount(connection: sa.Connection, project: str, *, now: datetime) -> int:
    """Count the jobs of a project, and correct its usage; return by how many jobs it was wrong."""
    seen = sa.select(
        project_usage.c.jobs, project_usage.c.tasks, project_usage.c.recounts, *_counts(project)
    ).where(project_usage.c.project == project)
    row = connection.execute(seen).one_or_none()
    if row is None:
        return 0
    jobs_kept, tasks_kept, recounts, jobs_counted, tasks_counted = row
    # By the difference: what others count meanwhile stays counted.
    missed = {"jobs": jobs_counted - jobs_kept, "tasks": tasks_counted - tasks_kept}
    corrected = (
        project_usage.update()
        .where(project_usage.c.project == project, project_usage.c.recounts == recounts)
        .values(
            jobs=project_usage.c.jobs + missed["jobs"],
            tasks=project_usage.c.tasks + missed["tasks"],
            recounts=recounts + 1,
        )
    )
    if not connection.execute(corrected).rowcount:
        return 0
    # Soon again after a fault: whatever made it may go on.
    later = project_usage.c.recount_at <= now
    connection.execute(
        project_usage.update()
        .where(project_usage.c.project == project, later)
        .values(recount_at=now + (RECOUNTED_SOON if any(missed.values()) else RECOUNTED))
    )
    return int(missed["jobs"])


def measured_projects(connection: sa.Connection) -> list[str]:
    """Return the projects of which it matters how many bytes they store."""
    limits = read_limits(connection)
    every = connection.scalars(sa.select(project_usage.c.project).order_by(project_usage.c.project))
    return [project for project in every if LimitName.STORED_BYTES in limits.of(project)]


def measure_window(
    connection: sa.Connection, project: str, *, after: UUID | None, limit: int
) -> tuple[int, UUID | None]:
    """Return the bytes of the next jobs of a project, and the id to go on from; None after the last."""
    ids = sa.select(jobs.c.id).where(*visible(jobs, project)).order_by(jobs.c.id).limit(limit)
    if after is not None:
        ids = ids.where(jobs.c.id > after)
    window = connection.scalars(ids).all()
    if not window:
        return 0, None
    here = jobs.c.id.between(window[0], window[-1]), *visible(jobs, project)
    of_jobs = _stored_bytes(connection, jobs.c.args) + _stored_bytes(connection, jobs.c.result)
    of_bodies = _stored_bytes(connection, bodies.c.content)
    total = connection.scalar(sa.select(sa.func.sum(of_jobs)).where(*here)) or 0
    joined = sa.select(sa.func.sum(of_bodies)).join_from(bodies, jobs, bodies.c.job_id == jobs.c.id)
    total += connection.scalar(joined.where(*here)) or 0
    return int(total), window[-1] if len(window) == limit else None


def note_bytes(connection: sa.Connection, project: str, stored_bytes: int, *, now: datetime) -> None:
    """Keep how many bytes a project was found to store."""
    connection.execute(
        project_usage.update()
        .where(project_usage.c.project == project)
        .values(stored_bytes=stored_bytes, measured_at=now)
    )


def _lock(connection: sa.Connection, projects: Collection[str]) -> dict[str, Usage]:
    query = (
        sa.select(project_usage.c.project, *_USAGE)
        .where(project_usage.c.project.in_(list(projects)))
        .order_by(project_usage.c.project)
        .with_for_update()
    )
    return {project: Usage(*row) for project, *row in connection.execute(query)}


def _forget_unlimited(connection: sa.Connection) -> None:
    """Delete the usage of projects whose last limit was taken away: nobody counts it any more."""
    every = list(connection.scalars(sa.select(project_usage.c.project)))
    gone = set(every) - set(read_limits(connection).counted(every))
    if gone:
        connection.execute(project_usage.delete().where(project_usage.c.project.in_(sorted(gone))))


def _begin_counting(connection: sa.Connection, project: str, *, now: datetime) -> bool:
    """Count what a project has, from now on in its row; return False if another process was first."""
    usage = count_jobs(connection, project)
    new = insert_absent(connection, project_usage).values(
        project=project, jobs=usage.jobs, tasks=usage.tasks, recount_at=now + RECOUNTED_SOON
    )
    return connection.scalar(new.returning(project_usage.c.project)) is not None


def _counts(project: str) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """Return how many jobs and tasks a project has, as parts of one statement, from indexes alone."""
    every, tasks = sa.select(sa.func.count()).select_from(jobs), jobs.c.kind == TASK
    if project != DEFAULT_PROJECT:
        ours = every.where(*visible(jobs, project))
        return ours.scalar_subquery(), ours.where(tasks).scalar_subquery()
    # No index has the jobs of the default project by themselves.
    others = every.where(IS_OF_A_PROJECT)
    return (
        (every.scalar_subquery() - others.scalar_subquery()),
        (every.where(tasks).scalar_subquery() - others.where(tasks).scalar_subquery()),
    )


def _stored_bytes(connection: sa.Connection, column: sa.Column[Any]) -> sa.ColumnElement[int]:
    # What PostgreSQL keeps of a value, compressed, is known without reading it.
    if connection.dialect.name == POSTGRESQL:
        size: sa.ColumnElement[int] = sa.func.pg_column_size(column)
    else:
        size = sa.func.length(sa.type_coerce(column, sa.LargeBinary()))
    return sa.func.coalesce(size, 0)


def _count(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> int:
    return connection.scalar(sa.select(sa.func.count()).where(*where)) or 0
