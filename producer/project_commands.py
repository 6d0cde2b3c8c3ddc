"""`python -m producer projects limits list | show | set`, for whoever can use the database."""

import time
from collections.abc import Mapping
from typing import Final

import click

from producer.callers import PROJECT_PATTERN
from producer.key_commands import BY, TextParameter, opened_database
from producer.quotas import EVERY_PROJECT_LIMITS, LEAST, MAX_LIMIT, MOST, LimitName
from producer.store import quotas
from shared.clock import utc_now
from shared.settings import Settings

_NONE: Final = "none"


class _Limit(click.ParamType[tuple[LimitName, int | None]]):
    """`stored_jobs=1000`, or `stored_jobs=none`."""

    name = "limit"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[LimitName, int | None]:
        """Return the limit and its value, or end the command with what it must look like."""
        name, _, number = str(value).partition("=")
        if name not in list(LimitName):
            self.fail(f"{name} is none of {', '.join(LimitName)}", param, ctx)
        limit = LimitName(name)
        if number == _NONE:
            return limit, None
        least, most = LEAST.get(limit, 0), MOST.get(limit, MAX_LIMIT)
        if not number.isascii() or not number.isdigit() or not least <= int(number) <= most:
            self.fail(f"{limit} is {_NONE}, or {least:,} to {most:,}", param, ctx)
        return limit, int(number)


_PROJECT = TextParameter(
    f"{PROJECT_PATTERN}|[{EVERY_PROJECT_LIMITS}]",
    "lower case letters, digits and . _ - between them, at most 63; or * for every project without a limit",
)


@click.group()
def projects() -> None:
    """What each project may store and occupy."""


@projects.group()
def limits() -> None:
    """List, show and set the limits of projects."""


@limits.command(name="list")
@click.pass_obj
def list_all(settings: Settings) -> None:
    """Print the limits that are set, a project a line."""
    with opened_database(settings) as store:
        found = store.read(quotas.read_limits)
    for project in sorted(found.by_project):
        click.echo(f"{project}  {_said(found.by_project[project])}")


@limits.command()
@click.argument("project", type=_PROJECT)
@click.pass_obj
def show(settings: Settings, project: str) -> None:
    """Print what holds for PROJECT, and how many jobs and tasks it has."""
    with opened_database(settings) as store, store.reading() as connection:
        allowed = quotas.read_limits(connection).of(project)
        click.echo(_said(allowed) or "no limits")
        if quotas.is_project(project):
            counted = quotas.read_usage(connection, [project]).get(project)
            usage = counted or quotas.count_jobs(connection, project)
            click.echo(f"stores {usage.jobs} jobs, {usage.tasks} of them tasks")


@limits.command(name="set")
@click.argument("project", type=_PROJECT)
@click.argument("changes", type=_Limit(), nargs=-1, required=True, metavar="NAME=VALUE...")
@click.pass_obj
def set_some(settings: Settings, project: str, changes: tuple[tuple[LimitName, int | None], ...]) -> None:
    """Set limits of PROJECT, or take them away with NAME=none; the others stay as they are.

    It takes a second or two: then all processes go by them.
    """
    with opened_database(settings) as store:
        with store.writing() as connection:
            wanted: dict[LimitName, int | None] = {
                **quotas.read_limits(connection).by_project.get(project, {}),
                **dict(changes),
            }
            kept = {name: value for name, value in wanted.items() if value is not None}
            quotas.set_limits(connection, project, kept, by=BY, now=utc_now())
        time.sleep(quotas.SETTLED_SECONDS)
        store.write(quotas.recount, project, now=utc_now())
    click.echo(f"{project}  {_said(kept) or 'no limits'}")


def _said(found: Mapping[LimitName, int]) -> str:
    return "  ".join(f"{name}={found[name]}" for name in LimitName if name in found)
