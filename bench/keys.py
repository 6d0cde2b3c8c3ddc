"""Part (i): what it costs to ask callers who they are.

`make bench ARGS=keys`. Two APIs, each on a store of its own: one open, one that asks for a key. POSTs to them
in turn, round after round, so that a machine that gets slower gets slower for both.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from bench.report import machine, write_report
from bench.system import API, System, open_store
from bench.wrk import Load, post_for
from deploy.local.errors import LocalError
from producer.callers import Scope
from producer.key_commands import keep_in_file
from producer.keys import NewKey
from producer.store.database import Database

CONNECTIONS = (1, 64)
ROUNDS, QUICK_ROUNDS = 5, 1
OPEN, KEY = "open", "key"
BODY = json.dumps({"kind": "check", "args": {"url": "https://example.com/"}})

Json = dict[str, Any]


@click.command()
@click.option("--quick", is_flag=True, help="One round of a second: its figures say nothing.")
@click.option(
    "--seconds", default=4, show_default=True, type=click.IntRange(1), help="Of each load of POSTs."
)
@click.option("--store", default="sqlite", show_default=True, type=click.Choice(["postgresql", "sqlite"]))
def keys(quick: bool, seconds: int, store: str) -> None:
    """POSTs a second to an API that is open, and to one that asks for a key."""
    rounds, seconds = (QUICK_ROUNDS, 1) if quick else (ROUNDS, seconds)
    try:
        with _apis(store) as apis:
            loads = _measure(apis, rounds=rounds, seconds=seconds)
    except (LocalError, TimeoutError) as error:
        print(f"bench keys: {error}", file=sys.stderr)
        sys.exit(1)
    report = {**machine(), "store": store, "rounds": rounds, "loads": loads, "ratios": _ratios(loads)}
    print(json.dumps(report["ratios"], indent=2))
    print(f"written to {write_report('keys-quick' if quick else f'keys-{store}', report)}")


@contextmanager
def _apis(store: str) -> Iterator[Mapping[str, tuple[System, Mapping[str, str]]]]:
    """Yield an API of each sort, and what a caller of it sends along."""
    with ExitStack() as stack:
        apis: dict[str, tuple[System, Mapping[str, str]]] = {}
        for sort in (OPEN, KEY):
            system = stack.enter_context(open_store(store))
            headers = {} if sort == OPEN else {"Authorization": f"Bearer {_make_key(stack, system)}"}
            system.start(API)
            apis[sort] = system, headers
        yield apis


def _make_key(stack: ExitStack, system: System) -> str:
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="retriever-bench-key-")))
    database = Database.open(system.database_url)
    stack.callback(database.close)
    keep_in_file(database, NewKey("bench", frozenset({Scope.JOBS_WRITE})), folder / "key")
    return (folder / "key").read_text().strip()


def _measure(
    apis: Mapping[str, tuple[System, Mapping[str, str]]], *, rounds: int, seconds: int
) -> list[Json]:
    loads: list[Json] = []
    with TemporaryDirectory(prefix="retriever-bench-wrk-") as folder:
        for number in range(rounds):
            # The first of a round is another one each time.
            order = list(apis) if number % 2 == 0 else list(apis)[::-1]
            for connections in CONNECTIONS:
                for sort in order:
                    system, headers = apis[sort]
                    load: Load = post_for(
                        f"{system.api_url}/jobs",
                        BODY,
                        connections=connections,
                        seconds=seconds,
                        folder=Path(folder),
                        headers=headers,
                    )
                    loads.append({"api": sort, "round": number, **asdict(load)})
    return loads


def _ratios(loads: list[Json]) -> list[Json]:
    """Return, for each number of connections, what an API that asks reaches of one that is open."""
    ratios = []
    for connections in CONNECTIONS:
        of = {
            sort: [load for load in loads if load["api"] == sort and load["connections"] == connections]
            for sort in (OPEN, KEY)
        }
        pairs = list(zip(of[OPEN], of[KEY], strict=True))
        rates = [key["requests_per_second"] / open_["requests_per_second"] for open_, key in pairs]
        more_ms = [key["p50_ms"] - open_["p50_ms"] for open_, key in pairs]
        ratios.append(
            {
                "connections": connections,
                "throughput": round(median(rates), 3),
                "throughput_of_rounds": [round(rate, 3) for rate in rates],
                "more_p50_ms": round(median(more_ms), 3),
            }
        )
    return ratios
