"""Record what workers report. Late, twice, in any order or by two recorders, reports come to the same."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from producer.callers import wire_project
from producer.hosts import HostChange
from producer.records import Recorded, Transition
from producer.store.batches import Move
from producer.store.bodies import remember_validators, write_bodies
from producer.store.endings import end_jobs
from producer.store.hosts import heard, moved_on, note_changes
from producer.store.outputs import HAVE_OUTPUT, forget_outputs, keep_output
from producer.store.pages import record_pages
from producer.store.rows import Standing, lock_jobs, write_jobs
from producer.store.schema import attempts, jobs
from producer.store.sql import Moment, json_rowset, rows_parameter, upsert
from shared.events import JobEnded
from shared.messages import Report
from shared.outcomes import DELIVERY_LIMIT
from shared.states import JobState, position

logger = logging.getLogger(__name__)
# PostgreSQL's INTEGER. No job of ours gets there, but anyone may publish a report.
_LAST_RUN = 2**31 - 1
# A job that is deferred again stays where it is, and only waits for another time.
_RENEW = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("job_id"), jobs.c.position == sa.bindparam("same_position"))
    .where(sa.or_(jobs.c.due_at.is_(None), jobs.c.due_at < sa.bindparam("later_due_at", type_=Moment())))
)


def record_reports(
    connection: sa.Connection,
    reports: Sequence[Report],
    *,
    now: datetime,
    unproven: Collection[int] = frozenset(),
    failures_to_open: int = 0,
) -> Recorded:
    """Write down the reports, each as if it had come alone and in the order given.

    Args:
        unproven: The places of those that came without the token of their run; nothing of them is written if
            the run needs one.
        failures_to_open: Failures of a host in a row that open its breaker; 0 never opens it.

    Returns:
        The transitions really made, in the order of their reports.
    """
    possible = [(place, report) for place, report in enumerate(reports) if _is_possible(report)]
    standing = lock_jobs(connection, (report.job_id for _, report in possible))
    disbelieved = frozenset(
        place
        for place, report in possible
        if place in unproven and (there := standing.get(report.job_id)) and there.needs_token(report.run)
    )
    known = [report for place, report in possible if report.job_id in standing and place not in disbelieved]
    _write_attempts(connection, [report for report in known if not report.is_untried], now=now)
    _end_attempts(connection, [report for report in known if report.reason == DELIVERY_LIMIT], now=now)
    advances = choose_advances(known, standing)
    # Before their ends, which bring all of it.
    _keep_outputs(connection, known, standing, now=now)
    # A job is written once, as its last report says, which has the greatest position.
    reached = {report.job_id: report for report in advances}
    proven = {id(report) for place, report in possible if place not in unproven}
    of_hosts = [
        change
        for report in advances
        if report.asked or (place := standing[report.job_id]).counted_for or place.held_for
        for change in _of_hosts(
            report,
            standing[report.job_id],
            is_proven=id(report) in proven,
            is_last=reached[report.job_id] is report,
            now=now,
        )
    ]
    _write_reached(connection, reached, standing, of_hosts, failures_to_open=failures_to_open, now=now)
    _write_renewals(connection, [report for report in known if report.is_deferral], now=now)
    return Recorded(
        transitions=[_transition(report, standing[report.job_id]) for report in advances],
        unknown_job_ids=frozenset(report.job_id for _, report in possible if report.job_id not in standing),
        disbelieved=disbelieved,
    )


def choose_advances(reports: Iterable[Report], standing: Mapping[UUID, Standing]) -> list[Report]:
    """Return the reports that lead their job further, each measured against those before it."""
    reached = {job_id: where.position for job_id, where in standing.items()}
    advances = []
    for report in reports:
        here = _position(report)
        if here > reached[report.job_id]:
            reached[report.job_id] = here
            advances.append(report)
    return advances


def choose_attempts(reports: Iterable[Report]) -> list[Report]:
    """Return one report of each attempt: the first that has ended, else the first; sorted by job."""
    chosen: dict[tuple[UUID, int, int], Report] = {}
    for report in reports:
        key = (report.job_id, report.run, report.attempt)
        if key not in chosen or (_is_end(report) and not _is_end(chosen[key])):
            chosen[key] = report
    return [chosen[key] for key in sorted(chosen)]


def _of_hosts(
    report: Report, place: Standing, *, is_proven: bool, is_last: bool, now: datetime
) -> list[tuple[str, HostChange]]:
    changes = heard(report, place, is_proven=is_proven, now=now)
    return [*changes, *moved_on(report, place, now=now)] if is_last else changes


def _write_reached(
    connection: sa.Connection,
    advances: Mapping[UUID, Report],
    standing: Mapping[UUID, Standing],
    of_hosts: Sequence[tuple[str, HostChange]],
    *,
    failures_to_open: int,
    now: datetime,
) -> None:
    """Write the jobs as far as they have come, and all that follows for their batches, pages and bodies."""
    # Hosts before batches, which the pages lock.
    note_changes(connection, of_hosts, failures_to_open=failures_to_open, now=now)
    reached, stored = record_pages(connection, advances, standing, now=now)
    moves = _move_jobs(connection, reached, standing, now=now)
    write_bodies(connection, reached.values())
    remember_validators(connection, reached.values(), now=now)
    forget_outputs(
        connection,
        {job_id: report.result for job_id, report in reached.items() if standing[job_id].kind in HAVE_OUTPUT},
    )
    end_jobs(
        connection,
        [_end(report, standing[job_id], now) for job_id, report in reached.items() if report.state.is_final],
        standing,
        also=lambda end: {"result": end.result},
        moves=moves,
        began_at={job_id: report.started_at for job_id, report in reached.items()},
        are_hosts_noted=True,
        stored=stored,
        now=now,
    )


def _write_attempts(connection: sa.Connection, reports: Sequence[Report], *, now: datetime) -> None:
    # A job that was cancelled before it started, or deferred, made no attempt.
    started = [report for report in choose_attempts(reports) if report.started_at is not None]
    if not started:
        return
    rows = [_attempt_row(report, now) for report in started]
    connection.execute(_first_ends(connection.dialect.name, tuple(rows[0])), rows_parameter(connection, rows))


@cache
def _first_ends(dialect: str, names: tuple[str, ...]) -> sa.Insert:
    # With a condition, or SQLite takes the ON of the conflict for that of a join.
    every = sa.select(json_rowset(dialect, attempts, names)).where(sa.true())
    # The first end wins, and a start never undoes one.
    first_end = upsert(
        dialect,
        attempts,
        where=lambda new: sa.and_(attempts.c.ended_at.is_(None), new.ended_at.is_not(None)),
    )
    return first_end.from_select(names, every)


def _keep_outputs(
    connection: sa.Connection, reports: Sequence[Report], standing: Mapping[UUID, Standing], *, now: datetime
) -> None:
    """Keep what attempts have written that run; what is told of one that has ended comes too late."""
    if not any(report.output for report in reports):
        return
    reached = {job_id: place.position for job_id, place in standing.items()}
    for report in reports:
        is_late = _position(report) < reached[report.job_id]
        reached[report.job_id] = max(_position(report), reached[report.job_id])
        if report.output is None or report.state is not JobState.RUNNING or is_late:
            continue
        if standing[report.job_id].kind in HAVE_OUTPUT:
            keep_output(connection, report.job_id, report.run, report.attempt, report.output, now=now)


def _end_attempts(connection: sa.Connection, given_up: Sequence[Report], *, now: datetime) -> None:
    """End the attempts that were announced, and never told of again, of jobs that the broker gave up."""
    for report in given_up:
        connection.execute(
            attempts.update()
            .where(
                attempts.c.job_id == report.job_id,
                attempts.c.run == report.run,
                attempts.c.number == report.attempt,
                attempts.c.ended_at.is_(None),
            )
            .values(
                ended_at=_ended_at(report, now),
                outcome=report.outcome,
                reason=report.reason,
                explanation=report.explanation,
            )
        )


def _write_renewals(connection: sa.Connection, deferrals: Sequence[Report], *, now: datetime) -> None:
    renewals = [_renewal_row(report, now) for report in deferrals if report.due_at is not None]
    if renewals:
        connection.execute(_RENEW, sorted(renewals, key=lambda row: (row["job_id"], row["due_at"])))


def _move_jobs(
    connection: sa.Connection,
    reached: Mapping[UUID, Report],
    standing: Mapping[UUID, Standing],
    *,
    now: datetime,
) -> list[Move]:
    """Write the jobs whose run goes on, and return their moves."""
    moved = [report for report in reached.values() if not report.state.is_final]
    write_jobs(connection, [_row(report, now) for report in moved])
    places = [standing[report.job_id] for report in moved]
    return [
        Move(place.batch_id, place.state, report.state) for place, report in zip(places, moved, strict=True)
    ]


def _end(report: Report, place: Standing, now: datetime) -> JobEnded:
    return JobEnded(
        job_id=report.job_id,
        kind=report.kind,
        run=report.run,
        state=report.state,
        attempt=_last_attempt(report, place),
        reason=report.reason,
        explanation=report.explanation,
        result=report.result,
        batch_id=place.batch_id,
        ref=place.ref,
        project=wire_project(place.project),
        finished_at=_ended_at(report, now) or now,
    )


def _attempt_row(report: Report, now: datetime) -> dict[str, Any]:
    return {
        "job_id": report.job_id,
        "run": report.run,
        "number": report.attempt,
        "started_at": report.started_at,
        "ended_at": _ended_at(report, now),
        "outcome": report.outcome,
        "reason": report.reason,
        "explanation": report.explanation,
        "wait_seconds": report.wait_seconds,
        "worker": report.worker,
    }


def _row(report: Report, now: datetime) -> dict[str, Any]:
    return {
        "id": report.job_id,
        "position": _position(report),
        "state": report.state,
        "run": report.run,
        "attempt": report.attempt,
        "reason": report.reason,
        "explanation": report.explanation,
        "result": report.result,
        "due_at": report.due_at if report.state is JobState.DELAYED else None,
        "claimed_until": None,
        "finished_at": None,
        "updated_at": now,
    }


def _renewal_row(report: Report, now: datetime) -> dict[str, Any]:
    return {
        "job_id": report.job_id,
        "same_position": _position(report),
        "later_due_at": report.due_at,
        "due_at": report.due_at,
        "reason": report.reason,
        "explanation": report.explanation,
        "updated_at": now,
    }


def _last_attempt(report: Report, place: Standing) -> int:
    # The attempt that an untried delivery asked for was never made, unless a worker had announced it.
    is_announced = place.run == report.run and place.attempt == report.attempt
    return report.attempt - 1 if report.is_untried and not is_announced else report.attempt


def _ended_at(report: Report, now: datetime) -> datetime | None:
    return report.ended_at or (now if _is_end(report) else None)


def _is_end(report: Report) -> bool:
    return report.ended_at is not None or report.state.is_final or report.state is JobState.DELAYED


def _is_possible(report: Report) -> bool:
    try:
        _position(report)
    except ValueError:
        possible = False
    else:
        # Only a deferral may come before the first attempt.
        possible = report.run <= _LAST_RUN and (report.attempt >= 1 or report.is_deferral)
    if not possible:
        facts = {"job_id": str(report.job_id), "run": report.run, "attempt": report.attempt}
        logger.warning("report_impossible", extra={**facts, "worker": report.worker})
    return possible


def _position(report: Report) -> int:
    return position(run=report.run, attempt=report.attempt, state=report.state)


def _transition(report: Report, standing: Standing) -> Transition:
    return Transition(
        job_id=report.job_id,
        kind=standing.kind,
        run=report.run,
        attempt=_last_attempt(report, standing),
        state=report.state,
        reason=None if report.state is JobState.SUCCEEDED else report.reason,
    )
