"""Waiting for batches: progress on stderr, in a pipe too, and what Ctrl-C means."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Final, TypeVar

import click

from retriever_client import NotFinished, Retriever, RetrieverError
from retriever_client.cli.output import say
from retriever_client.models import Batch

# Where nobody looks at it as it moves, progress is a line so often.
_LINE_SECONDS: Final = 10.0
Waited = TypeVar("Waited")


class Choice(StrEnum):
    """What Ctrl-C may mean."""

    DETACH = "detach"
    CANCEL = "cancel"
    GO_ON = "go on"


class Interrupted(Exception):
    """Ctrl-C ended the wait: what was to be said is said."""


def wait_for(
    retriever: Retriever,
    batch_ids: Sequence[str],
    *,
    seconds: float | None,
    progress: str,
    detach_on_interrupt: bool,
) -> bool:
    """Wait until batches have ended; return whether they have within some seconds.

    Raises:
        Interrupted: Ctrl-C, and not to go on.
    """
    ends_at = None if seconds is None else time.monotonic() + seconds

    def wait() -> None:
        with _progress(progress) as tell:
            for batch_id in batch_ids:
                left = None if ends_at is None else max(0.0, ends_at - time.monotonic())
                retriever.batches.wait(batch_id, timeout_seconds=left, on_progress=tell)

    def cancel() -> None:
        for batch_id in batch_ids:
            retriever.batches.cancel(batch_id)

    try:
        interruptible(wait, cancel, how_to_come_back(batch_ids), detach_on_interrupt=detach_on_interrupt)
    except NotFinished:
        return False
    return True


def interruptible(
    wait: Callable[[], Waited], cancel: Callable[[], object], come_back: str, *, detach_on_interrupt: bool
) -> Waited:
    """Return what a wait returns.

    Ctrl-C asks on a terminal what to do, and elsewhere cancels. A second one leaves at once.

    Args:
        come_back: Words that say how to see later what became of it.
        detach_on_interrupt: Whether it is left running where nobody can be asked.

    Raises:
        Interrupted: Ctrl-C, and not to go on.
    """
    while True:
        try:
            return wait()
        except KeyboardInterrupt:
            _interrupt(cancel, come_back, detach_on_interrupt=detach_on_interrupt)
        except NotFinished:
            raise
        except RetrieverError:
            say(f"The service goes on. {come_back}")
            raise


def how_to_come_back(batch_ids: Sequence[str]) -> str:
    """Return the command that shows later what became of batches."""
    return f"To come back: retriever check {' '.join(f'--attach {shlex.quote(each)}' for each in batch_ids)}"


def is_terminal() -> bool:
    """Whether a person can be asked something."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _interrupt(cancel: Callable[[], object], come_back: str, *, detach_on_interrupt: bool) -> None:
    """Do what a person says, or return to go on."""
    try:
        match _ask() if is_terminal() else Choice.DETACH if detach_on_interrupt else Choice.CANCEL:
            case Choice.GO_ON:
                return
            case Choice.CANCEL:
                cancel()
                say("Cancelled: what has not begun is not done.")
            case Choice.DETACH:
                say(f"Left; the service goes on. {come_back}")
    except (KeyboardInterrupt, click.Abort):
        say(f"\nLeft at once; the service goes on. {come_back}")
    raise Interrupted


def _ask() -> Choice:
    say("")
    answer: str = click.prompt(
        "Leave it running (d), cancel it (c), or go on waiting (g)?",
        type=click.Choice(["d", "c", "g"], case_sensitive=False),
        default="d",
        show_choices=False,
        err=True,
    )
    return {"d": Choice.DETACH, "c": Choice.CANCEL, "g": Choice.GO_ON}[answer.lower()]


@contextmanager
def _progress(how: str) -> Iterator[Callable[[Batch], None]]:
    """Yield what is told of a batch from time to time: a bar on a terminal, else a line now and then."""
    match how:
        case "none":
            yield lambda _batch: None
        case "bar":
            with _bar() as tell:
                yield tell
        case "auto" if sys.stderr.isatty():
            with _bar() as tell:
                yield tell
        case _:
            yield _Lines().tell


class _Lines:
    """A line each ten seconds; none for what is over before."""

    def __init__(self) -> None:
        self._next_at = time.monotonic() + _LINE_SECONDS

    def tell(self, batch: Batch) -> None:
        if batch.is_ended or time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _LINE_SECONDS
        say(f"{batch.ended:,} of {batch.total:,} URLs: {words_of(batch)}")


def words_of(batch: Batch) -> str:
    """Return how far a batch is, as a person wants to know it."""
    waiting = batch.total - batch.ended
    words = [f"{waiting:,} to do"]
    if delayed := batch.counts.get("delayed", 0):
        words.append(f"{delayed:,} of them wait to be tried again")
    if parked := batch.counts.get("parked", 0):
        words.append(f"{parked:,} given up")
    words.append(f"{batch.rate_per_second:.1f} a second")
    if batch.estimated_end_at is not None:
        words.append(f"done about {batch.estimated_end_at:%H:%M:%S} UTC")
    return ", ".join(words)


@contextmanager
def _bar() -> Iterator[Callable[[Batch], None]]:
    from rich.console import Console  # noqa: PLC0415 - slow, and for terminals alone
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def tell(batch: Batch) -> None:
            progress.update(task, total=batch.total, completed=batch.ended, description=words_of(batch))

        yield tell
