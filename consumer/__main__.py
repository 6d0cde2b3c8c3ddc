"""`python -m consumer worker --kinds check,fetch,webhook` and `python -m consumer agent --api URL`."""

import sys
from collections.abc import Sequence

import click
import durationpy
import uvloop

from consumer.agent.bootstrap import run_agent
from consumer.bootstrap import run_worker
from consumer.handlers.registry import check_handlers
from shared.errors import RetrieverError, SettingsInvalid, StaysUnready
from shared.process import prepare_process, stop_event
from shared.settings import Settings, read_settings
from shared.watchdog import EXIT_STATUS

# Not commands: nobody serves those by accident.
_DEFAULT_KINDS = "check,fetch,webhook"


@click.group()
def main() -> None:
    """The side of Retriever that does the work."""


class _Duration(click.ParamType[float]):
    """A time such as 5s, 10m or 1h30m; its value is in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(durationpy.from_str(str(value)).total_seconds())
        except durationpy.DurationError:
            self.fail(f"{value!r} is no time such as 5s, 10m or 1h30m", param, ctx)


_DURATION = _Duration()


@main.command()
@click.option("--kinds", default=_DEFAULT_KINDS, show_default=True, help="Kinds of jobs to work on.")
def worker(kinds: str) -> None:
    """Work on jobs until stopped; then let those in hand end, within the grace period."""
    settings = read_settings()
    # Hundreds of jobs in hand make hardly any cycles.
    prepare_process(settings, process="worker", collect_every=50_000)
    chosen = list(dict.fromkeys(kind.strip() for kind in kinds.split(",") if kind.strip()))
    if not chosen:
        raise SettingsInvalid("--kinds: name at least one kind")
    check_handlers(chosen)
    uvloop.run(_run_worker(settings, chosen))


async def _run_worker(settings: Settings, kinds: Sequence[str]) -> None:
    await run_worker(settings, kinds, stop_event())


@main.command()
@click.option("--api", "agent_api_url", metavar="URL", help="Where the API serves agents.")
@click.option("--name", "agent_name", help="What the API calls this agent.  [host and process id]")
@click.option("--queue", "agent_queue", help="The queue whose tasks it takes.  [default]")
@click.option("--order", "agent_order", help="Which it takes first, oldest or newest.  [oldest]")
@click.option("--max", "agent_max_tasks", type=int, help="How many it holds at once.  [1]")
@click.option("--lease", "agent_lease_seconds", type=_DURATION, help="How long it may be silent.  [60s]")
@click.option(
    "--wait", "agent_wait_seconds", type=_DURATION, help="How long the API waits for a task.  [20s]"
)
@click.option("--poll-interval", "agent_poll_seconds", type=_DURATION, help="Its rest in between.  [5s]")
@click.option(
    "--handler", "agent_handler", metavar="PROGRAM", help="Gets the payload of tasks without a command."
)
@click.option("--drain", is_flag=True, help="End when there is no task to take and none in hand.")
def agent(*, drain: bool, **given: object) -> None:
    """Take tasks from the API until stopped; then let those in hand end, within the grace period.

    What is not said here is read from RETRIEVER_AGENT_*.
    """
    settings = read_settings(**{name: value for name, value in given.items() if value is not None})
    prepare_process(settings, process="agent")
    uvloop.run(_run_agent(settings, is_draining=drain))


async def _run_agent(settings: Settings, *, is_draining: bool) -> None:
    await run_agent(settings, stop_event(), is_draining=is_draining)


if __name__ == "__main__":
    try:
        main()
    except RetrieverError as error:
        click.echo(f"retriever: {error}", err=True)
        sys.exit(EXIT_STATUS if isinstance(error, StaysUnready) else 2)
