"""`retriever doctor`: whether the service can do what it is asked, and what to do where it cannot.

It asks the API alone, so it runs anywhere. The broker, the arguments of its queues and the settings of the
service are seen from its own machine only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import click

from retriever_client.cli.exit_codes import ExitCode
from retriever_client.cli.session import Session, SessionCommand, pass_session
from retriever_client.errors import ApiError, ConnectionFailed, NotAllowed, RetrieverError
from retriever_client.models import Queue

_COLUMNS: Final = ("check", "state", "says", "todo")
# The contract that this client is made for.
_CONTRACT: Final = "1"
_SKEW_SECONDS: Final = 5.0
# A ledger looks every few seconds.
_STALE: Final = timedelta(minutes=1)


class Health(StrEnum):
    """How something is."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    check: str
    state: Health
    says: str
    todo: str = ""


@dataclass(slots=True)
class _Visit:
    """Looks at one service after the other thing."""

    session: Session
    _date: datetime | None = field(default=None)

    def findings(self) -> Iterator[Finding]:
        """Yield what there is to say; nothing more once the API gives no answer."""
        try:
            yield self._api()
        except ConnectionFailed as error:
            source = self.session.where_from()["url"][1]
            todo = f"Is the API running there? The address is from: {source}"
            yield Finding("api", Health.BAD, str(error), todo)
            return
        yield self._clock()
        looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
            ("store", self._store),
            ("versions", self._versions),
            ("queues", self._queues),
            ("work", self._work),
            ("hosts", self._hosts),
        )
        for name, look in looks:
            try:
                yield from look()
            except NotAllowed as error:
                yield Finding(
                    name, Health.UNKNOWN, f"Not told: {error.problem.detail}", "Use a key that may see it."
                )
            except RetrieverError as error:
                yield Finding(name, Health.BAD, str(error), "See the log of the API.")

    def _api(self) -> Finding:
        answer = self.session.retriever.request("GET", "/livez")
        self._date = _time(answer.headers.get("Date"))
        return Finding("api", Health.GOOD, f"{self.session.retriever.url} answers.")

    def _clock(self) -> Finding:
        if self._date is None:
            return Finding("clock", Health.UNKNOWN, "The answer has no Date.")
        # The header has whole seconds.
        seconds = abs((datetime.now(UTC) - self._date).total_seconds() - 0.5)
        if seconds <= _SKEW_SECONDS:
            return Finding("clock", Health.GOOD, f"As here, to {_SKEW_SECONDS:g} s.")
        todo = "Set both by NTP: leases, signatures and schedules go by the time."
        return Finding("clock", Health.BAD, f"{seconds:.0f} s from the clock here.", todo)

    def _store(self) -> Iterator[Finding]:
        try:
            self.session.retriever.is_ready()
        except ApiError as error:
            todo = "Is the database running, and has `python -m producer migrate` been run?"
            yield Finding("store", Health.BAD, error.problem.detail or str(error), todo)
        else:
            yield Finding("store", Health.GOOD, "It answers, and has the tables of this version.")

    def _versions(self) -> Iterator[Finding]:
        found = str(self.session.retriever.request("GET", "/openapi.json").json()["info"]["version"])
        try:
            own = version("retriever-client")
        except PackageNotFoundError:
            own = "of a source tree"
        says = f"Client {own}; contract {found}."
        if found == _CONTRACT:
            yield Finding("versions", Health.GOOD, says)
        else:
            yield Finding(
                "versions", Health.NOTE, f"{says} This client is made for {_CONTRACT}.", "Upgrade it."
            )

    def _queues(self) -> Iterator[Finding]:
        queues = [each for kind in self.session.retriever.kinds.list() for each in kind.queues]
        brokered = [each for each in queues if each.name is not None]
        seen = [each.observed_at for each in brokered if each.observed_at is not None]
        latest = max(seen, default=None)
        todo = "Is `python -m producer ledger` running, and can it reach the broker? Its log says so."
        if latest is None:
            yield Finding("ledger", Health.BAD, "No ledger has looked at the broker's queues yet.", todo)
        elif datetime.now(UTC) - latest > _STALE:
            says = f"No ledger has seen the broker's queues since {latest:%Y-%m-%d %H:%M:%S} UTC."
            yield Finding("ledger", Health.BAD, says, todo)
        else:
            yield Finding("ledger", Health.GOOD, "It sees the broker's queues.")
            yield from map(_without_workers, _idle(brokered))
        for each in queues:
            if each.paused is not None:
                says = f"{each.kind}, {each.lane}: paused by {each.paused.get('by')}"
                note = each.paused.get("note")
                again = f"retriever kinds resume {each.kind}, or lanes resume {each.lane}"
                yield Finding("paused", Health.NOTE, f"{says}: {note}" if note else f"{says}.", again)

    def _work(self) -> Iterator[Finding]:
        stats = self.session.retriever.stats()
        waiting = sum(stats.jobs.get(each, 0) for each in ("accepted", "queued", "delayed"))
        ended = sum(stats.ended_last_minute.values())
        says = f"{waiting:,} wait, {stats.jobs.get('running', 0):,} run, {ended:,} ended in the last minute."
        yield Finding("work", Health.GOOD, says)
        if parked := stats.jobs.get("parked", 0):
            yield Finding("parked", Health.NOTE, f"{parked:,} jobs were given up.", "retriever parked list")

    def _hosts(self) -> Iterator[Finding]:
        held = [
            each
            for each in self.session.retriever.hosts.list()
            if each.breaker != "closed" or each.paused_until
        ]
        for each in held[:10]:
            why = (
                f"is paused until {each.paused_until:%H:%M:%S} UTC"
                if each.paused_until
                else "is left alone: it fails"
            )
            says = f"{each.host} {why}; {each.waiting:,} jobs wait."
            yield Finding("hosts", Health.NOTE, says, f"retriever hosts show {each.host}")
        if len(held) > 10:
            yield Finding(
                "hosts", Health.NOTE, f"{len(held) - 10} more are held back.", "retriever hosts list"
            )
        if not held:
            yield Finding("hosts", Health.GOOD, "None is held back.")


@click.command(cls=SessionCommand)
@pass_session
def doctor(session: Session) -> None:
    """Look whether the service can do its work.

    It says what to do where it cannot. It asks the API: store, clock, versions, ledger and broker, workers,
    pauses, hosts. It ends with 1 when something is bad, and with 3 when the API does not answer.
    """
    found: list[Finding] = []

    def noted() -> Iterator[Finding]:
        for each in _Visit(session).findings():
            found.append(each)
            yield each

    session.output.many(noted(), _COLUMNS, is_whole=True)
    bad = [each.check for each in found if each.state is Health.BAD]
    if bad == ["api"]:
        raise click.exceptions.Exit(ExitCode.UNREACHABLE)
    if bad:
        raise click.exceptions.Exit(ExitCode.FOUND)


def _idle(queues: list[Queue]) -> list[Queue]:
    return [each for each in queues if each.consumers == 0]


def _without_workers(queue: Queue) -> Finding:
    says = f"Nobody works on {queue.kind}, {queue.lane}; {queue.ready or 0:,} jobs wait for it."
    todo = f"python -m consumer worker --kinds {queue.kind}"
    return Finding("workers", Health.BAD if queue.ready else Health.NOTE, says, todo)


def _time(text: Any) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (TypeError, ValueError):
        return None
