"""Part (i): what each attack that once succeeded does now: who goes deaf, what grows, who is not served.

`make bench ARGS=attacks`. Each attack has a service of its own, fresh, on loopback, and is bounded in bytes,
connections and time. Deafness is the slowest answer to /livez over the usual one of a quiet moment before;
growth is resident memory over that moment. Both must stay below 100, milliseconds and MiB; what the machine
adds, by the answers of a site that nobody attacks, is taken off.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bench.attack_lines import LINES, Found, Line, Stage
from bench.attacked import Measuring, asking
from bench.hostile_site import HostileSite, open_hostile_site
from bench.report import machine, write_report
from bench.system import API, SQLITE, STORES, open_store, open_system
from deploy.local.errors import LocalError

NUMBERS = [line.number for line in LINES]


class _Numbers(click.ParamType[Sequence[int]]):
    """Numbers of attacks with commas between."""

    name = "numbers"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Sequence[int]:
        """Return the numbers."""
        if not isinstance(value, str):
            return NUMBERS
        try:
            numbers = [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 5,6", param, ctx)
        if unknown := sorted({*numbers} - {*NUMBERS}):
            self.fail(f"there is no attack {unknown[0]}", param, ctx)
        return numbers


@click.command()
@click.option("--quick", is_flag=True, help="Two attacks: shows that it works.")
@click.option("--only", type=_Numbers(), default=NUMBERS, help="Such as 5,6.  [all]")
@click.option("--store", default=SQLITE, show_default=True, type=click.Choice(STORES))
@click.option("--name", default="attacks", show_default=True, help="Of the file of results.")
def attacks(quick: bool, only: Sequence[int], store: str, name: str) -> None:
    """What each attack of docs/security.md does to the processes, one after another."""
    facts = {**machine(), "store": store}
    lines = [line for line in LINES if line.number in ([13, 16] if quick else only)]
    found: dict[int, Found] = {}
    with TemporaryDirectory(prefix="retriever-attacks-") as folder:
        try:
            with open_hostile_site(Path(folder) / "site.log") as site:
                for line in lines:
                    found[line.number] = asyncio.run(_attack(line, store, site))
                    print(row(line, found[line.number]), flush=True)
        except (LocalError, TimeoutError) as error:
            print(f"bench attacks: {error}", file=sys.stderr)
            sys.exit(1)
    print(f"\n{table(lines, found)}\n")
    report = {
        str(line.number): {
            "attack": line.attack,
            "bounded": found[line.number].is_bounded,
            **asdict(found[line.number]),
        }
        for line in lines
    }
    file_name = f"{name}-{store}{'-quick' if quick else ''}"
    print(f"written to {write_report(file_name, {**facts, 'attacks': report})}")
    if not all(each.is_bounded for each in found.values()):
        sys.exit(1)


async def _attack(line: Line, store: str, site: HostileSite) -> Found:
    settings = {"RETRIEVER_DNS_SERVERS": site.dns_server, **line.settings}
    with ExitStack() as stack:
        if set(line.processes) == {API}:
            # A broker takes seconds to start, and an API alone knows none.
            system = stack.enter_context(open_store(store, settings=settings))
            system.start(API)
        else:
            system = stack.enter_context(open_system(store, line.processes, settings=settings))
        async with asking(system) as http:
            return await line.run(Stage(system, site, http, Measuring(system)))


def table(lines: Sequence[Line], found: dict[int, Found]) -> str:
    """Return what was found as a Markdown table."""
    head = (
        "| line | attack | deaf for ms | more MiB (of children) | served | bounded |",
        "| ---: | --- | --- | --- | --- | --- |",
    )
    return "\n".join([*head, *(row(line, found[line.number]) for line in lines)])


def row(line: Line, found: Found) -> str:
    """Return what one attack came to."""
    harm = found.harm
    deaf = {**harm.lag_ms, "machine": harm.machine_lag_ms} if harm.lag_ms else {}
    lags = ", ".join(f"{name} {lag:,.0f}" for name, lag in deaf.items())
    grown = ", ".join(
        f"{name} {each.peak:,.0f}{f' ({each.children:,.0f})' if each.children else ''}"
        for name, each in harm.memory.items()
    )
    extra = [f"{harm.unanswered} probes unanswered"] * bool(harm.unanswered)
    extra += [f"{name} ended" for name in harm.ended]
    cells = [
        str(line.number),
        line.attack,
        lags or "-",
        grown or "-",
        "; ".join([found.served, *extra]),
        "yes" if found.is_bounded else "**no**",
    ]
    return f"| {' | '.join(cells)} |"
