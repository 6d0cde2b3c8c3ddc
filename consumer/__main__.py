"""`python -m consumer worker --kinds check,fetch,webhook` and `python -m consumer agent --api URL`."""

import sys

import click
import durationpy
import uvloop

from consumer.agent.bootstrap import run_agent
from consumer.backlog import Order
from consumer.bootstrap import run_worker
from consumer.handlers.registry import check_handlers
from consumer.plan import NEWEST_AT_ONCE, Plan
from shared.errors import DrainGivenUp, DrainStopped, RetrieverError, SettingsInvalid, StaysUnready
from shared.kinds.registry import Lane
from shared.log_lines import printable
from shared.process import prepare_process, stop_event, warn_of_open_broker
from shared.settings import Settings, read_settings
from shared.watchdog import EXIT_STATUS

# Not commands: nobody serves those by accident.
_DEFAULT_KINDS = "check,fetch,webhook"
_BOTH_LANES = ",".join(Lane)
_SHORTEST_CADENCE_SECONDS, _LONGEST_CADENCE_SECONDS = 1.0, 7 * 86_400.0
# EX_TEMPFAIL of sysexits.h: try again later; and what a shell says of a process that SIGTERM has ended.
_EXIT_STATUS_BY_ERROR = {StaysUnready: EXIT_STATUS, DrainGivenUp: 75, DrainStopped: 143}


@click.group()
def main() -> None:
    """The side of Retriever that does the work."""


class _Duration(click.ParamType[float]):
    """A time such as 5s, 10m or 1h30m; its value is in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(durationpy.from_str(str(value)).total_seconds())
        except (durationpy.DurationError, OverflowError):
            self.fail(f"{value!r} is no time such as 5s, 10m or 1h30m", param, ctx)


_DURATION = _Duration()


@main.command()
@click.option("--kinds", default=_DEFAULT_KINDS, show_default=True, help="Kinds of jobs to work on.")
@click.option(
    "--lanes",
    default=_BOTH_LANES,
    show_default=True,
    help="Lanes to work on. A worker of the interactive lane alone is busy with no batch.",
)
@click.option(
    "--order",
    type=click.Choice([order.value for order in Order]),
    default=Order.OLDEST.value,
    show_default=True,
    help="Which job runs next, of those in hand. newest has as many as the prefetch settings say, and "
    f"runs {NEWEST_AT_ONCE} at once unless --concurrency says otherwise. It knows nothing of jobs that the "
    "broker still has, or another worker. The interactive lane goes first, and a job that was in hand for 10 "
    "minutes before all others.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 2_000),
    help="How many jobs run at once, over all kinds and lanes. Without it as many as the prefetch settings "
    "say, and of commands RETRIEVER_COMMAND_CONCURRENCY.",
)
@click.option(
    "--drain",
    is_flag=True,
    help="Work until the queues of the kinds are empty and nothing is in hand, then end with status 0. It "
    "waits for no job that is delayed, paused, or in another worker's hand. Status 75: the broker could not "
    "be used for 30 s. Status 143: it was told to stop before.",
)
@click.option(
    "--every",
    type=_DURATION,
    help="Stay, and drain again and again: from one start to the next takes so long, 10m for example. What "
    "a long one misses is left out.",
)
def worker(
    *, kinds: str, lanes: str, order: str, concurrency: int | None, drain: bool, every: float | None
) -> None:
    """Work on jobs until stopped; then let those in hand end, within the grace period."""
    settings = read_settings()
    # Hundreds of jobs in hand make hardly any cycles.
    prepare_process(settings, process="worker", collect_every=50_000)
    if every is not None and not _SHORTEST_CADENCE_SECONDS <= every <= _LONGEST_CADENCE_SECONDS:
        raise SettingsInvalid("--every: give a time from 1s to 168h")
    chosen = _named(kinds)
    if not chosen:
        raise SettingsInvalid("--kinds: name at least one kind")
    check_handlers(chosen)
    plan = Plan(
        chosen,
        lanes=_chosen_lanes(lanes),
        order=Order(order),
        concurrency=concurrency,
        drains=drain and every is None,
        every_seconds=every,
    )
    warn_of_open_broker(settings)
    uvloop.run(_run_worker(settings, plan))


def _named(given: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))


def _chosen_lanes(given: str) -> tuple[Lane, ...]:
    try:
        lanes = tuple(Lane(name) for name in _named(given))
    except ValueError:
        raise SettingsInvalid(f"--lanes: {printable(given)} is none of {_BOTH_LANES}") from None
    if not lanes:
        raise SettingsInvalid("--lanes: name at least one lane")
    return lanes


async def _run_worker(settings: Settings, plan: Plan) -> None:
    await run_worker(settings, plan, stop_event())


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
@click.option(
    "--drain",
    is_flag=True,
    help="End with status 0 when there is no task to take and none in hand. Status 75: the API gave no "
    "answer. Status 143: it was told to stop before.",
)
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
        click.echo(f"retriever: {printable(str(error))}", err=True)
        sys.exit(_EXIT_STATUS_BY_ERROR.get(type(error), 2))
