"""The overview: what there is, what was, what is wrong. It counts nothing, and is made once for all."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import flask

from producer.callers import Scope
from producer.dashboard.alarms import Alarm, alarms
from producer.dashboard.drawing import caller, check_may, page
from producer.dashboard.kept import Kept
from producer.dashboard.mount import PREFIX
from producer.dashboard.plots import DurationPlot, EndsPlot, plot_durations, plot_ends
from producer.figures import HeldHost, Overview, ParkedCount, RunningBatch, Span
from producer.pausing import Pause
from producer.store import figures
from producer.store.database import Database
from shared.clock import utc_now
from shared.kinds.registry import KINDS, Lane
from shared.redaction import redact_text
from shared.states import JobState

SNAPSHOT_SECONDS: Final = 1.0
_HISTORY_SECONDS: Final = 5.0
# How long each plot reaches back, and how long each of its bars is.
RANGES: Final = {
    "hour": (timedelta(hours=1), 60),
    "day": (timedelta(days=1), 900),
    "72h": (timedelta(hours=72), 3_600),
}
_SHOWN_STATES = [state for state in JobState if state not in {JobState.SUCCEEDED, JobState.CANCELLED}]


@dataclass(frozen=True, slots=True)
class StateTile:
    """How many jobs are in a state; `is_cut`: so many or more."""

    state: JobState
    jobs: int
    is_cut: bool


@dataclass(frozen=True, slots=True)
class LaneRow:
    """A kind in a lane: what waits, since when, and who takes it. Workers are None where nobody can say."""

    kind: str
    lane: Lane
    held: int
    accepted: int
    queued: int
    running: int
    delayed: int
    oldest_at: datetime | None
    workers: int | None
    pause: Pause | None


@dataclass(frozen=True, slots=True)
class Picture:
    """The overview as it is shown."""

    alarms: Sequence[Alarm]
    tiles: Sequence[StateTile]
    lanes: Sequence[LaneRow]
    delays: Sequence[tuple[int, int, float]]
    groups: Sequence[ParkedCount]
    hosts: Sequence[HeldHost]
    batches: Sequence[RunningBatch]
    operations: int
    is_counted: bool

    @property
    def version(self) -> str:
        """What it is known by: the same when nothing in it has changed."""
        return hashlib.blake2b(repr(self).encode("utf-8", "replace"), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class History:
    """What was, as it is shown."""

    spans: Sequence[Span]
    ends: EndsPlot
    durations: DurationPlot


class OverviewPages:
    """Shows the overview."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pictures = Kept[tuple[Picture, str]](SNAPSHOT_SECONDS)
        self._histories = Kept[tuple[History, str]](_HISTORY_SECONDS)

    def add_to(self, app: flask.Flask) -> None:
        """Add its page to an application."""
        app.add_url_rule(PREFIX, "overview", self._show)

    def _show(self) -> flask.Response:
        check_may(Scope.JOBS_READ)
        project, name = caller().project, flask.request.args.get("range", "hour")
        name = name if name in RANGES else "hour"
        picture, version = self._pictures.get(project, lambda: self._look(project))
        history, of_history = self._histories.get((project, name), lambda: self._look_back(project, name))
        is_alarm = any(not alarm.is_mild for alarm in picture.alarms)
        return page(
            "overview.html",
            version=f"{version}{of_history}{name}{flask.request.args.get('done', '')}",
            picture=picture,
            history=history,
            range=name,
            ranges=RANGES,
            icon="icon-alarm.svg" if is_alarm else "icon.svg",
        )

    def _look(self, project: str | None) -> tuple[Picture, str]:
        now = utc_now()
        picture = draw(
            self._database.read(figures.read_overview, project=project, now=now),
            now=now,
            is_operator=project is None,
        )
        return picture, picture.version

    def _look_back(self, project: str | None, name: str) -> tuple[History, str]:
        back, step_seconds = RANGES[name]
        now = utc_now()
        spans = self._database.read(
            figures.read_history, project=project, since=now - back, step_seconds=step_seconds, now=now
        )
        version = hashlib.blake2b(repr(spans).encode(), digest_size=12).hexdigest()
        return History(spans, plot_ends(spans), plot_durations(spans)), version


def draw(seen: Overview, *, now: datetime, is_operator: bool) -> Picture:
    """Return the overview as it is shown. Pure."""
    most = max((each.jobs for each in seen.delays), default=1)
    found = alarms(seen, now=now, is_operator=is_operator)
    return Picture(
        alarms=[Alarm(redact_text(each.text), each.href, each.since, is_mild=each.is_mild) for each in found],
        tiles=[StateTile(state, seen.total(state), seen.is_cut(state)) for state in _SHOWN_STATES],
        lanes=[row for kind in KINDS for lane in Lane if (row := _lane(seen, kind, lane))],
        delays=[(each.step_seconds, each.jobs, round(each.jobs / most, 3)) for each in seen.delays],
        groups=seen.groups[:10],
        hosts=seen.hosts[:10],
        batches=seen.batches,
        operations=seen.operations,
        is_counted=seen.counted_at is not None,
    )


def _lane(seen: Overview, kind: str, lane: Lane) -> LaneRow | None:
    counts = [each for each in seen.jobs if (each.kind, each.lane) == (kind, lane)]
    queue = next((each for each in seen.queues if (each.kind, each.lane) == (kind, lane)), None)
    pause = next((each for each in seen.pauses if each.covers(kind, lane)), None)
    if not counts and pause is None and not (queue and queue.consumers):
        return None

    def number(state: JobState, *, is_held: bool = False) -> int:
        return sum(each.jobs for each in counts if each.state is state and each.is_held is is_held)

    waiting = (each.oldest_at for each in counts if each.state in {JobState.ACCEPTED, JobState.QUEUED})
    return LaneRow(
        kind=kind,
        lane=lane,
        held=number(JobState.ACCEPTED, is_held=True),
        accepted=number(JobState.ACCEPTED),
        queued=number(JobState.QUEUED),
        running=number(JobState.RUNNING),
        delayed=number(JobState.DELAYED),
        oldest_at=min(waiting, default=None),
        workers=queue.consumers if queue else None,
        pause=pause,
    )
