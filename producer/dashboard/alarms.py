"""What is wrong, in words: each says what, since when, and leads to where something can be done. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from producer.dashboard.mount import PREFIX
from producer.figures import REST_FACTOR, JobCount, Overview
from producer.pausing import Pause
from shared.events import EVERY
from shared.kinds.registry import BROKERED_KINDS
from shared.states import JobState

# A relay publishes at once; later than so it lags.
_RELAY_LAG: Final = timedelta(minutes=1)
_STALE: Final = timedelta(seconds=60)
_NAMED_HOSTS = 3


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is wrong. A mild one is as somebody, or a host, wants it, and nobody need hurry.

    Attributes:
        since: Shown behind the text, if it is known.
        href: Where something can be done about it.
    """

    text: str
    href: str | None = None
    since: datetime | None = None
    is_mild: bool = False


def alarms(seen: Overview, *, now: datetime, is_operator: bool) -> list[Alarm]:
    """Return what is wrong, the worst first."""
    found = [*(_of_processes(seen, now) if is_operator else ()), *_of_work(seen, now), *_of_people(seen)]
    return sorted(found, key=lambda alarm: alarm.is_mild)


def _of_processes(seen: Overview, now: datetime) -> Iterator[Alarm]:
    if seen.leads_until is None or seen.leads_until < now:
        since = seen.leads_until
        yield Alarm(
            "No ledger leads: schedules, repairs and the figures on this page stand still since then",
            since=since,
        )
    else:
        stale = max(_STALE, timedelta(seconds=seen.count_seconds * REST_FACTOR * 2))
        if seen.counted_at is not None and now - seen.counted_at > stale:
            yield Alarm("The figures on this page are old: no ledger has counted", since=seen.counted_at)
    looked_at = max((queue.observed_at for queue in seen.queues), default=None)
    if looked_at is not None and not any(queue.is_fresh(now) for queue in seen.queues):
        yield Alarm("No ledger has reached the broker", since=looked_at)
        return
    for queue in seen.queues:
        oldest = _oldest(seen, queue.kind, queue.lane)
        if queue.ready and not queue.consumers and not _is_paused(seen, queue.kind, queue.lane):
            jobs = "1 message waits" if queue.ready == 1 else f"{queue.ready:,} messages wait"
            text = f"No worker takes {queue.kind} in lane {queue.lane}: {jobs}"
            if oldest is not None:
                text += ", the oldest job since"
            query = urlencode({"state": JobState.QUEUED, "kind": queue.kind})
            yield Alarm(text, f"{PREFIX}jobs?{query}", oldest)


def _of_work(seen: Overview, now: datetime) -> Iterator[Alarm]:
    late = [each for each in seen.jobs if _is_late(each, now) and not _is_paused(seen, each.kind, each.lane)]
    if late:
        number = sum(each.jobs for each in late)
        jobs = "1 job waits" if number == 1 else f"{number:,} jobs wait"
        href = f"{PREFIX}jobs?state={JobState.ACCEPTED}"
        yield Alarm(
            f"{jobs} to be published to the broker, the oldest since",
            href,
            min(each.oldest_at for each in late),
        )


def _of_people(seen: Overview) -> Iterator[Alarm]:
    if parked := seen.total(JobState.PARKED):
        jobs = "1 job is parked" if parked == 1 else f"{parked:,} jobs are parked"
        yield Alarm(f"{jobs}: somebody has to decide", f"{PREFIX}parked", is_mild=True)
    for pause in seen.pauses:
        note = f": {pause.note}" if pause.note else ""
        text = f"{_paused_words(pause)} by {pause.by}{note}"
        yield Alarm(text, f"{PREFIX}kinds", pause.since, is_mild=True)
    if seen.hosts:
        waiting = sum(host.waiting for host in seen.hosts)
        jobs = "1 job" if waiting == 1 else f"{waiting:,} jobs"
        names = ", ".join(host.name for host in seen.hosts[:_NAMED_HOSTS])
        more = f" and {len(seen.hosts) - _NAMED_HOSTS} more" if len(seen.hosts) > _NAMED_HOSTS else ""
        yield Alarm(
            f"{names}{more} {'holds' if len(seen.hosts) == 1 else 'hold'} back {jobs}",
            f"{PREFIX}hosts",
            is_mild=True,
        )


def _is_late(each: JobCount, now: datetime) -> bool:
    is_waiting = each.state is JobState.ACCEPTED and not each.is_held and each.kind in BROKERED_KINDS
    return is_waiting and now - each.oldest_at > _RELAY_LAG


def _oldest(seen: Overview, kind: str, lane: str) -> datetime | None:
    waiting = (JobState.QUEUED, JobState.DELAYED)
    ages = (
        each.oldest_at
        for each in seen.jobs
        if (each.kind, each.lane) == (kind, lane) and each.state in waiting
    )
    return min(ages, default=None)


def _is_paused(seen: Overview, kind: str, lane: str) -> bool:
    return any(pause.covers(kind, lane) for pause in seen.pauses)


def _paused_words(pause: Pause) -> str:
    if pause.kind == EVERY:
        return f"Lane {pause.lane} is paused"
    return f"Kind {pause.kind} is paused{'' if pause.lane == EVERY else f' in lane {pause.lane}'}"
