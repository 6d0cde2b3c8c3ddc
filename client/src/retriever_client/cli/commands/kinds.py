"""`retriever kinds` and `retriever lanes`: what jobs can do, and what of it is paused."""

from typing import Final

import click

from retriever_client.cli.session import Session, SessionGroup, pass_session

_QUEUE: Final = (
    "kind",
    "lane",
    "ready",
    "consumers",
    "since=paused.since",
    "by=paused.by",
    "note=paused.note",
)
_LANES: Final = click.Choice(["interactive", "bulk"])


@click.group(cls=SessionGroup)
def kinds() -> None:
    """See what jobs can do and who does it; operators pause and resume it."""


@kinds.command("list")
@pass_session
def list_kinds(session: Session) -> None:
    """List the queues of all kinds: what waits, who works, what is paused since when."""
    found = [queue for kind in session.retriever.kinds.list() for queue in kind.queues]
    session.output.many(found, _QUEUE)


@kinds.command("show")
@click.argument("name")
@pass_session
def show_kind(session: Session, name: str) -> None:
    """Show a kind; `-o json` has the schemas of its arguments and results."""
    known = session.retriever.kinds.list()
    found = next((each for each in known if each.name == name), None)
    if found is None:
        raise click.UsageError(
            f"There is no kind {name!r}; there are: {', '.join(each.name for each in known)}"
        )
    session.output.one(found, ("name", "description", "retry"))


@kinds.command("pause", epilog="\b\nExample:\n  retriever kinds pause fetch --lane bulk --note 'Repairs'")
@click.argument("name")
@click.option("--lane", type=_LANES, help="Default: both.")
@click.option("--note", help="Why, for others.")
@pass_session
def pause_kind(session: Session, name: str, *, lane: str | None, note: str | None) -> None:
    """Let no job of a kind begin until it is resumed; what runs goes on."""
    session.output.many(session.retriever.kinds.pause(name, lane=lane, note=note), _QUEUE)


@kinds.command("resume")
@click.argument("name")
@click.option("--lane", type=_LANES, help="Default: both.")
@pass_session
def resume_kind(session: Session, name: str, *, lane: str | None) -> None:
    """Let jobs of a kind begin again."""
    session.output.many(session.retriever.kinds.resume(name, lane=lane), _QUEUE)


@click.group(cls=SessionGroup)
def lanes() -> None:
    """Pause and resume a lane of all kinds."""


@lanes.command("pause")
@click.argument("lane", type=_LANES)
@click.option("--note", help="Why, for others.")
@pass_session
def pause_lane(session: Session, lane: str, *, note: str | None) -> None:
    """Let no job of a lane begin until it is resumed; what runs goes on."""
    session.output.many(session.retriever.kinds.pause_lane(lane, note=note), _QUEUE)


@lanes.command("resume")
@click.argument("lane", type=_LANES)
@pass_session
def resume_lane(session: Session, lane: str) -> None:
    """Let jobs of a lane begin again."""
    session.output.many(session.retriever.kinds.resume_lane(lane), _QUEUE)
