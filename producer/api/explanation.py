"""One honest sentence on why a job is unfinished or parked. Pure: the caller passes in what is known."""

from datetime import datetime
from typing import Final

from producer.callers import scoped
from producer.hosts import MOST_COUNTED as MOST_COUNTED_HELD
from producer.pausing import MOST_COUNTED, Circumstances, Pause, QueueObservation, TaskQueueObservation
from producer.records import JobRecord, NewJob
from shared.broker.topology import lane_queues
from shared.events import EVERY
from shared.kinds.command import COMMAND
from shared.outcomes import DeferralReason
from shared.states import JobState

_DEFERRALS = frozenset(DeferralReason)

# No worker serves it unless it was started for it.
_HOW_TO_SERVE = {
    COMMAND: "; start one with python -m consumer worker --kinds command, or in compose the profile commands"
}
# An agent may wait for a minute until it asks again, and not each time is written down.
_SERVED_SECONDS = 90.0

ACCEPTED: Final = "Stored; waiting to be published to the broker."


def explain_new(job: NewJob) -> str:
    """Return what a job waits for that was stored just now."""
    if job.due_at:
        return explain_schedule(job.due_at)
    return ACCEPTED if job.queue is None else f"{_capital(_unseen_words(job.queue))}."


def explain(record: JobRecord, known: Circumstances) -> str | None:
    """Return the sentence; None when the job succeeded."""
    match record.state:
        case JobState.SCHEDULED if record.is_waiting_repeat:
            return f"Waiting for job {record.original}, which asks for this one too."
        case JobState.SCHEDULED:
            return explain_schedule(record.due_at, known.pause(record.kind, record.lane))
        case JobState.ACCEPTED | JobState.QUEUED | JobState.DELAYED:
            return _explain_waiting(record, known)
        case JobState.RUNNING:
            return _explain_running(record)
        case JobState.PARKED | JobState.CANCELLED:
            return record.explanation or record.reason
        case JobState.SUCCEEDED:
            return None


def explain_schedule(due_at: datetime | None, pause: Pause | None = None) -> str:
    """Return what a scheduled job waits for; a pause does not move its time."""
    until = f"until {_time(due_at)}, its time to run" if due_at else "for its time"
    return f"Waiting {until}{f'; {_pause_words(pause)}' if pause else ''}."


def _explain_waiting(record: JobRecord, known: Circumstances) -> str:
    if record.state is JobState.DELAYED and record.due_at and record.due_at > known.now:
        return _explain_delay(record, record.due_at)
    if pause := known.pause(record.kind, record.lane):
        return f"{_capital(_pause_words(pause))}."
    if record.state is JobState.ACCEPTED:
        return _explain_held(record, record.held_for, known) if record.held_for else _explain_accepted(known)
    if record.state is JobState.DELAYED and record.due_at:
        due = f"{_capital(_next_attempt(record))} has been due since {_time(record.due_at)}"
        return f"{due}; {_place_words(record, known)}."
    return f"{_capital(_place_words(record, known))}."


def _explain_delay(record: JobRecord, due_at: datetime) -> str:
    if record.reason not in _DEFERRALS:
        return f"Waiting until {_time(due_at)} for {_next_attempt(record)}."
    # No attempt was made, and the explanation of the deferral names the host, or the worker's limit.
    said = record.explanation or str(record.reason)
    # What a worker keeps in hand need not come back at all.
    return (
        said
        if record.reason == DeferralReason.WORKER_BUSY
        else f"{said} Back in its queue from {_time(due_at)} on."
    )


def _explain_held(record: JobRecord, host: str, known: Circumstances) -> str:
    hold = known.holds.get(record.id)
    if hold is None:
        return f"Waiting until {host} has room."
    state, limit, now = hold.host.state, hold.host.limit, known.now
    if state.paused_until is not None and state.paused_until > now:
        why = f"{host} asked us to stay away until {_time(state.paused_until)}"
    elif state.is_open():
        why = f"{host} has failed again and again, and is left alone for a while"
    elif limit is None:
        why = f"{host} has no room"
    else:
        allowed = state.allowed(limit, now)
        rate = f" and {allowed.rate_per_second:g} a second" if allowed.rate_per_second else ""
        share = "" if state.pace(now) == 1.0 else ", because it complains"
        why = f"{host} is at its limit of {allowed.concurrency} at once{rate}{share}"
    more = " or more" if hold.before >= MOST_COUNTED_HELD else ""
    jobs = "1 job is" if hold.before == 1 else f"{hold.before:,}{more} jobs are"
    at = hold.expected_at(now)
    return f"{why}; {jobs} before this one{f'; expected at {_time(at)}' if at else ''}."


def _explain_accepted(known: Circumstances) -> str:
    if not known.is_known:
        return ACCEPTED
    seen_at = known.last_seen_at
    if seen_at is None:
        return "Stored; waiting to be published to the broker, which no ledger has reached yet."
    if any(queue.is_fresh(known.now) for queue in known.queues.values()):
        return ACCEPTED
    return (
        f"Stored; waiting to be published to the broker, which no ledger has reached since {_time(seen_at)}."
    )


def _explain_running(record: JobRecord) -> str:
    if record.cancel_requested_at:
        told = "its worker has been told to cancel it"
        if record.queue is not None:
            told = "its agent is told to cancel it when it next extends its lease"
        return f"Attempt {record.attempt} is running; {told}{_lease_words(record)}."
    current = (record.run, record.attempt)
    for attempt in record.attempts:
        if (attempt.run, attempt.number) == current and attempt.worker:
            since = _time(attempt.started_at)
            on = f"since {since} on {attempt.worker}"
            return f"Attempt {record.attempt} has been running {on}{_lease_words(record)}."
    return f"Attempt {record.attempt} is running{_lease_words(record)}."


def _lease_words(record: JobRecord) -> str:
    if record.queue is None or record.leased_until is None:
        return ""
    return f"; its lease ends at {_time(record.leased_until)}"


def _pause_words(pause: Pause) -> str:
    if pause.kind == EVERY:
        what = f"lane {pause.lane} is paused"
    else:
        what = f"kind {pause.kind} is paused{'' if pause.lane == EVERY else f' in lane {pause.lane}'}"
    note = f": {pause.note.rstrip('. ')}" if pause.note else ""
    return f"{what} since {_time(pause.since)} by {pause.by}{note}"


def _place_words(record: JobRecord, known: Circumstances) -> str:
    if record.queue is None:
        return _queue_words(record, known)
    seen = known.task_queues.get(scoped(record.queue, record.project))
    return _unseen_words(record.queue) if seen is None else _task_queue_words(record.queue, seen, known.now)


def _unseen_words(queue: str) -> str:
    return f"waiting in task queue {queue} for an agent to pick it"


def _task_queue_words(queue: str, seen: TaskQueueObservation, now: datetime) -> str:
    more = " or more" if seen.waiting >= MOST_COUNTED else ""
    tasks = "1 task waits" if seen.waiting == 1 else f"{seen.waiting:,}{more} tasks wait"
    place = f"in task queue {queue}, where {tasks} for agents"
    if seen.asked_at is not None and (age := (now - seen.asked_at).total_seconds()) <= _SERVED_SECONDS:
        return f"{place}; {seen.agent} asked for tasks {max(age, 0):.0f} s ago"
    since = f"since {_time(seen.asked_at)}" if seen.asked_at else "lately"
    start = f"python -m consumer agent --api URL --queue {queue}"
    return f"{place}; none has asked for tasks {since}; start one with {start}, or ask with POST /tasks/pick"


def _queue_words(record: JobRecord, known: Circumstances) -> str:
    if not known.is_known:
        return "in its queue; waiting for a worker"
    names = lane_queues(record.kind, record.lane)
    # In the second of two queues, one message carries several jobs.
    queues, what, them = ("queue", "job", "it") if len(names) == 1 else ("queues", "message", "them")
    place = f"{queues} {' and '.join(names)}"
    queue = known.queue(record.kind, record.lane)
    if queue is None:
        return f"in {place}, which no ledger has looked at yet"
    if not queue.is_fresh(known.now):
        return f"in {place}, which no ledger has seen since {_time(queue.observed_at)}"
    seen = f"(seen {queue.age_seconds(known.now):.0f} s ago)"
    if not queue.consumers:
        where = f"for {record.kind} in lane {record.lane} is connected"
        how = _HOW_TO_SERVE.get(record.kind, "")
        return f"no worker {where}; {_waiting(queue, what)} in {place} {seen}{how}"
    return f"in {place}: {_ready(queue, what)}, {_workers(queue)} from {them} {seen}"


def _waiting(queue: QueueObservation, what: str) -> str:
    return f"1 {what} waits" if queue.ready == 1 else f"{queue.ready:,} {what}s wait"


def _ready(queue: QueueObservation, what: str) -> str:
    return f"1 {what} is ready" if queue.ready == 1 else f"{queue.ready:,} {what}s are ready"


def _workers(queue: QueueObservation) -> str:
    return "1 worker takes" if queue.consumers == 1 else f"{queue.consumers:,} workers take"


def _next_attempt(record: JobRecord) -> str:
    return f"attempt {record.attempt + 1} after {record.reason or 'a failure'}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
