"""The attacks that once succeeded, each against real processes; the numbers are those of docs/security.md."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx
from aio_pika import DeliveryMode, Message

from bench.attacked import Harm, Innocents, Json, Measuring, end_of, ended, innocents, submitted
from bench.hostile_kinds import CHECK, kind_named
from bench.hostile_site import ONE_ADDRESS, HostileSite
from bench.rig import served_by, serving_target
from bench.system import API, LEDGER, WORKERS, System
from deploy.local.ports import LOOPBACK, free_port
from shared.broker.topology import JOBS

ROOT = Path(__file__).resolve().parents[1]
WORKER = WORKERS[0]
WITH_WORKER = (API, LEDGER, WORKER)
LONGEST_SECONDS = 240.0
_PASSWORD = "S3cr3t-of-a-url"  # noqa: S105 - made up
_LOOKS_A_SECOND = 5
_FOREIGN = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
_JSON_TYPE = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Stage:
    """What an attack has to work with."""

    system: System
    site: HostileSite
    http: httpx.AsyncClient
    measuring: Measuring

    def job(self, name: str, number: int) -> Mapping[str, Any]:
        """Return a job that meets a kind of bad server."""
        hostile = kind_named(name)
        return hostile.job_at(self.site.place(hostile), number)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of an attack.

    Attributes:
        holds: Whether what must be true is true, beside deafness and growth.
        served: That in words.
    """

    holds: bool
    served: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    harm: Harm = field(default_factory=Harm)

    @property
    def is_bounded(self) -> bool:
        """Whether the attack did nothing that it should not."""
        return self.holds and self.harm.is_bounded


@dataclass(frozen=True, slots=True)
class Line:
    """One attack: its number, what it is, and the processes and variables that it needs."""

    number: int
    attack: str
    run: Callable[[Stage], Awaitable[Found]]
    processes: Sequence[str] = (API,)
    settings: Mapping[str, str] = field(default_factory=dict)


async def _heads(stage: Stage) -> Found:
    address = _address(stage.system.api_url)
    async with stage.measuring.attack(), innocents_of_the_api(stage) as found:
        for attack in (_send_heads, _stay_silent, _drip_bodies):
            # In a thread: the innocents are asked on this loop.
            await asyncio.to_thread(attack, address)
    return Found(found.are_served, str(found), harm=stage.measuring.harm)


def _send_heads(address: tuple[str, int]) -> None:
    """Send heads that do not end, each until it is refused or has 40 MB."""
    for field_line in (b"X-Again: %b\r\n" % (b"x" * 1_000), b"X: a\r\n", b"x" * 1_000):
        many = field_line * (65_536 // len(field_line))
        for _ in range(8):
            with suppress(OSError), socket.create_connection(address, timeout=30) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: %b\r\n" % address[0].encode())
                for _ in range(40_000_000 // len(many)):
                    connection.sendall(many)


def _stay_silent(address: tuple[str, int]) -> None:
    with ExitStack() as stack:
        for _ in range(3_000):
            stack.enter_context(socket.create_connection(address, timeout=30))
        time.sleep(1)


def _drip_bodies(address: tuple[str, int]) -> None:
    head = b"POST /jobs HTTP/1.1\r\nHost: %b\r\nContent-Length: 1000\r\n\r\n" % address[0].encode()
    with ExitStack() as stack:
        dripping = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(500)]
        for octet in [head, *[b" "] * 5]:
            for each in dripping:
                with suppress(OSError):
                    each.sendall(octet)
            time.sleep(0.2)


@asynccontextmanager
async def innocents_of_the_api(stage: Stage) -> AsyncIterator[Innocents]:
    """Let an innocent submit jobs while inside; nobody works on them. It counts how fast they are taken."""
    found, over = Innocents(), asyncio.Event()

    async def submit() -> None:
        number = 0
        while number < 8 or not over.is_set():
            began, number = time.monotonic(), number + 1
            try:
                await submitted(stage.http, {"kind": "check", "args": {"url": f"https://a.example/{number}"}})
                found.ends.append("ok")
            except httpx.HTTPError as error:
                found.ends.append(type(error).__name__)
            found.seconds.append(time.monotonic() - began)
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        group.create_task(submit())
        try:
            yield found
        finally:
            over.set()


def _of_a_kind(
    *jobs: tuple[str, int], args: Mapping[str, Any] = CHECK["args"]
) -> Callable[[Stage], Awaitable[Found]]:
    """Return the attack of so many jobs of each kind at once; innocents are checks with `args`."""

    async def run(stage: Stage) -> Found:
        async with (
            stage.measuring.attack(),
            innocents(stage.http, stage.system.target_url, args=args) as found,
        ):
            ids = await asyncio.gather(
                *(
                    submitted(stage.http, stage.job(name, number))
                    for name, count in jobs
                    for number in range(count)
                )
            )
            names = [name for name, count in jobs for _ in range(count)]
            documents = await asyncio.gather(
                *(ended(stage.http, each, seconds=LONGEST_SECONDS) for each in ids)
            )
        ends = [(name, end_of(each)) for name, each in zip(names, documents, strict=True)]
        untrue = sorted({end for name, end in ends if not kind_named(name).is_true(end)})
        counted = {f"{name}: {end}": ends.count((name, end)) for name, end in sorted(set(ends))}
        holds = found.are_served and not untrue
        return Found(holds, str(found), {"ends": counted, "untrue": untrue}, stage.measuring.harm)

    return run


async def _large_results(stage: Stage) -> Found:
    place = stage.site.place(kind_named("a megabyte of data"))
    args = {"extract": "@", "max_bytes": 2_000_000}
    batch = {
        "kind": "fetch",
        "items": [{"url": f"http://{place}/{number}"} for number in range(40)],
        "defaults": args,
    }
    answer = (await stage.http.post("/batches", json=batch)).raise_for_status().json()
    await _until_finished(stage.http, answer["id"])
    results = f"/batches/{answer['id']}/results?format="
    async with stage.measuring.attack():
        began = time.monotonic()
        csv = await stage.http.get(f"{results}csv")
        seconds = round(time.monotonic() - began, 2)
        lists = [
            _drained(stage.http, path) for path in ("/jobs?limit=1000", "/jobs?kind=fetch&limit=100") * 3
        ]
        exports = [_drained(stage.http, f"{results}{form}") for form in ("ndjson", "ndjson", "junit", "csv")]
        statuses = await asyncio.gather(*lists, *exports)
    rows = csv.text.count("\n") - 1
    facts = {"csv_bytes": len(csv.content), "csv_seconds": seconds, "statuses": sorted(set(statuses))}
    return Found(rows == 40, f"{rows} rows in {seconds:g} s", facts, stage.measuring.harm)


async def _drained(http: httpx.AsyncClient, path: str) -> int:
    async with http.stream("GET", path) as answer:
        async for _ in answer.aiter_raw():
            pass
    return answer.status_code


async def _until_finished(http: httpx.AsyncClient, batch_id: str) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            batch: Json = (await http.get(f"/batches/{batch_id}")).raise_for_status().json()
            if batch["finished_at"]:
                return
            await asyncio.sleep(0.2)


async def _crossing(stage: Stage) -> Found:
    """A paged POST whose next page is elsewhere, and a redirect to elsewhere that names itself as next."""
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = [
                int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")
            ]
            body = (await reader.readexactly(length[0])).decode("latin-1") if length else ""
            address, port = writer.get_extra_info("sockname")
            there = f"http://127.43.0.2:{port}"
            if address == "127.43.0.2":
                heard.append(head + body)
            if head.startswith(("GET /redirect", "POST /redirect")) and address == "127.43.0.1":
                writer.write(
                    b"HTTP/1.1 307 Go\r\nContent-Length: 0\r\nLocation: %b/moved\r\n\r\n" % there.encode()
                )
            else:
                page = json.dumps({"items": [1], "next": f"{there}/next/{len(heard)}"}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(page), page)
                )
            await writer.drain()
        writer.close()

    first = await asyncio.start_server(serve, "127.43.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    second = await asyncio.start_server(serve, "127.43.0.2", port)
    pages = {"by": "next_url", "items": "items", "next_url": "next", "max_pages": 3, "other_origins": True}
    own = {"method": "POST", "headers": {"X-Api-Key": _PASSWORD}, "pages": pages}
    jobs = [
        {"kind": "fetch", "args": {**own, "url": f"http://u:{_PASSWORD}@127.43.0.1:{port}/{path}", **body}}
        for path in ("pages", "redirect")
        for body in ({"json": {"key": _PASSWORD}}, {"body_base64": "UzNjcjN0LW9mLWEtdXJs"})
    ]
    try:
        ids = [await submitted(stage.http, job) for job in jobs]
        for each in ids:
            await ended(stage.http, each, seconds=60)
        await asyncio.sleep(3)  # For the pages that follow, if any do.
    finally:
        first.close()
        second.close()
    told = [each for each in heard if _PASSWORD in each or "authorization" in each.lower()]
    return Found(not told, f"{len(told)} of {len(heard)} requests to the other origin had what is secret")


async def _rejections(stage: Stage) -> Found:
    rejected = b'{"kind": "check", "items": [' + b"0," * 3_600_000 + b"0]}"
    lines = b"".join(b"https://a%d.example/\n" % number for number in range(70_000))
    small = {"kind": "check", "items": [{"url": "https://a.example/"}]}
    batch: Json = (await stage.http.post("/batches", json=small)).raise_for_status().json()
    async with stage.measuring.attack(), innocents_of_the_api(stage) as found:
        began = time.monotonic()
        answer = await stage.http.post("/batches", content=rejected, headers=_JSON_TYPE)
        seconds = time.monotonic() - began
        sending = [
            asyncio.create_task(
                stage.http.post("/batches?kind=check", content=lines, headers={"Content-Type": "text/plain"})
            )
            for _ in range(3)
        ]
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await _drained(stage.http, f"/batches/{batch['id']}/results?format=csv")
        export_seconds = time.monotonic() - began
        statuses = [task.status_code for task in await asyncio.gather(*sending)]
    facts = {
        "status": answer.status_code,
        "seconds": round(seconds, 2),
        "export_seconds": round(export_seconds, 2),
        "statuses": statuses,
        "database_mebibytes": _database_mebibytes(stage.system),
    }
    said = f"{found}; an export beside three batches: {export_seconds:.2f} s"
    return Found(found.are_served and export_seconds < 5, said, facts, stage.measuring.harm)


def _database_mebibytes(system: System) -> float | None:
    if not system.database_url.startswith("sqlite:///"):
        return None
    path = Path(system.database_url.removeprefix("sqlite:///"))
    files = [path, path.with_name(f"{path.name}-wal")]
    return round(sum(each.stat().st_size for each in files if each.exists()) / 1_048_576, 1)


async def _foreign_pages(stage: Stage) -> Found:
    http = stage.http
    job_id = await submitted(http, {"kind": "check", "args": {"url": "https://a.example/"}})
    text = {"Content-Type": "text/plain"}
    writes: list[tuple[str, bytes]] = [
        ("/batches?kind=check", b"https://a.example/\n"),
        ("/kinds/check/pause", b"{}"),
        ("/lanes/bulk/pause", b"{}"),
        ("/parked/redrive", b"{}"),
        ("/parked/discard", b"{}"),
        (f"/jobs/{job_id}/cancel", b""),
        (f"/jobs/{job_id}/discard", b""),
        ("/tasks/pick", b"{}"),
    ]
    statuses: dict[str, int] = {}
    for headers in (text, _JSON_TYPE):
        for path, body in writes:
            for name, foreign in (("origin", _FOREIGN), ("null", {"Origin": "null"})):
                answer = await http.post(path, content=body, headers={**headers, **foreign})
                statuses[f"{name} {path.replace(job_id, 'id')} {headers['Content-Type']}"] = (
                    answer.status_code
                )
    for path in ("/jobs", f"/jobs/{job_id}", "/batches", "/audit"):
        answer = await http.get(path, headers={"Host": "rebinding.example"})
        statuses[f"host {path.replace(job_id, 'id')}"] = answer.status_code
    allowed = {what: status for what, status in statuses.items() if status not in {400, 403, 421}}
    return Found(
        not allowed, f"{len(allowed)} of {len(statuses)} foreign requests allowed", {"allowed": allowed}
    )


async def _many_schedules(stage: Stage) -> Found:
    template = {"kind": "check", "args": {"url": f"{stage.system.target_url}/s"}}
    free = asyncio.Semaphore(20)

    async def create(name: str) -> httpx.Response:
        body = {"name": name, "every_seconds": 1, "overlap": "allow", "job": template}
        async with free:
            return await stage.http.post("/schedules", json=body)

    answers = await asyncio.gather(*(create(f"hostile {number}") for number in range(600)))
    statuses = sorted({answer.status_code for answer in answers})
    innocent: Json = (await create("innocent")).raise_for_status().json()

    async def runs() -> int:
        schedule: Json = (await stage.http.get(f"/schedules/{innocent['id']}")).raise_for_status().json()
        return int(schedule["runs"])

    async with stage.measuring.attack():
        before, began = await runs(), time.monotonic()
        await asyncio.sleep(15)
        made, seconds = await runs() - before, time.monotonic() - began
    facts = {"statuses": statuses, "accepted": sum(answer.is_success for answer in answers)}
    said = f"an innocent schedule of one second had {made} runs in {seconds:.0f} s"
    return Found(made >= seconds / 2, said, facts, stage.measuring.harm)


async def _one_address(stage: Stage) -> Found:
    port = free_port()
    items = [{"url": f"http://n{number}.{ONE_ADDRESS}:{port}/", "method": "GET"} for number in range(1_000)]
    counts: list[int] = []
    with serving_target(port, stage.system.logs / "one-address.log"):
        async with stage.measuring.attack():
            (await stage.http.post("/batches", json={"kind": "check", "items": items})).raise_for_status()
            for _ in range(10 * _LOOKS_A_SECOND):
                counts.append(await asyncio.to_thread(served_by, f"http://{LOOPBACK}:{port}"))
                await asyncio.sleep(1 / _LOOKS_A_SECOND)
    a_second_later = zip(counts, counts[_LOOKS_A_SECOND:], strict=False)
    busiest = max(later - count for count, later in a_second_later)
    said = f"{busiest} requests in the busiest second to one address, where 20 are allowed"
    return Found(0 < busiest <= 30, said, {"in_all": counts[-1]}, stage.measuring.harm)


async def _raw_logs(stage: Stage) -> Found:
    ugly = "\n\x1b[2J\x07forged\u202e\x9b"
    connection = await aio_pika.connect(stage.system.amqp_url)
    async with connection, connection.channel() as channel:
        exchange = await channel.get_exchange(JOBS, ensure=False)
        for body in (b"garbage", b"{}", b"[]"):
            message = Message(
                body,
                correlation_id=f"{uuid.uuid4()}{ugly}",
                message_id=f"m{ugly}",
                type=f"job{ugly}",
                delivery_mode=DeliveryMode.PERSISTENT,
            )
            await exchange.publish(message, "check.interactive")
        await asyncio.sleep(3)
    logs = {path.name: path.read_bytes() for path in stage.system.logs.glob("*.log")}
    raw = sorted(
        name for name, log in logs.items() if b"\x1b" in log or b"\nforged" in log or b"\xe2\x80\xae" in log
    )
    told = sum(b"forged" in log for log in logs.values())
    return Found(not raw, f"raw in {len(raw)} logs; {told} logs tell of it", {"raw": raw})


async def _passwords(stage: Stage) -> Found:
    url = f"http://u:{_PASSWORD}@127.0.0.1:{urlsplit(stage.system.target_url).port}/"
    batch = {"kind": "check", "items": [{"url": url}, {"url": f"ftp://u:{_PASSWORD}@a.example/"}]}
    answer: Json = (await stage.http.post("/batches", json=batch)).raise_for_status().json()
    await _until_finished(stage.http, answer["id"])
    one = await submitted(stage.http, {"kind": "check", "args": {"url": url}})
    await ended(stage.http, one, seconds=30)
    results = f"/batches/{answer['id']}/results?format="
    paths = (
        *(f"{results}{form}" for form in ("csv", "ndjson", "junit")),
        *("/jobs", f"/jobs/{one}", f"/batches/{answer['id']}", f"/batches/{answer['id']}/rejected", "/audit"),
    )
    shown = [
        path.replace(answer["id"], "id").replace(one, "id")
        for path in paths
        if _PASSWORD in (await stage.http.get(path)).text
    ]
    logged = [
        path.name for path in stage.system.logs.glob("*.log") if _PASSWORD in path.read_text(errors="replace")
    ]
    return Found(
        not shown and not logged, f"shown in {len(shown)} answers, {len(logged)} logs", {"shown": shown}
    )


async def _readable(stage: Stage) -> Found:
    """A store that is made where `make run` makes it: below the folder in which the service is started."""
    del stage
    with TemporaryDirectory(prefix="retriever-attack-") as home:
        modes = await asyncio.to_thread(_modes_of_a_new_store, Path(home))
    readable = {path: mode for path, mode in modes.items() if int(mode, 8) & 0o077}
    return Found(not readable, f"{len(readable)} of {len(modes)} readable for others", {"readable": readable})


def _modes_of_a_new_store(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RETRIEVER_")}
    command = f"umask 022 && exec {sys.executable} -m producer migrate"
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    subprocess.run(["/bin/sh", "-c", command], cwd=home, env=environment, check=True)
    return {str(path.relative_to(home)): oct(stat.S_IMODE(path.stat().st_mode)) for path in home.rglob("*")}


def _address(url: str) -> tuple[str, int]:
    place = urlsplit(url)
    assert place.hostname is not None and place.port is not None
    return place.hostname, place.port


_LOOKS_INTO_BODY = {**CHECK["args"], "timeout_seconds": 5, "assertions": {"regex": ["x+"]}}

LINES: tuple[Line, ...] = (
    Line(4, "40 MB of header fields, 3,000 silent connections, 500 dripping bodies", _heads),
    Line(
        5,
        "8 fetches of 3.9 million lists and of 300,000 names in a little gzip, with `@`",
        _of_a_kind(("3.9 million lists", 8), ("300,000 names", 8)),
        WITH_WORKER,
    ),
    Line(
        6,
        "regexes that grind, on 4 MB of header fields and of body",
        _of_a_kind(("fields that regexes hate", 4), ("body that regexes hate", 4)),
        WITH_WORKER,
    ),
    Line(7, "40 results of 1 MB: six lists and five exports", _large_results, WITH_WORKER),
    Line(8, "a page and a redirect that lead a POST to another origin", _crossing, WITH_WORKER),
    Line(9, "a batch of 3.6 million wrong items, then three of 70,000 lines", _rejections),
    Line(
        10,
        "14 checks with 10 slow JSON assertions each",
        _of_a_kind(("list that takes long to sort", 14), args=_LOOKS_INTO_BODY),
        WITH_WORKER,
    ),
    Line(
        12,
        "40 answers that begin with endless 103 and 100",
        _of_a_kind(("endless 103", 20), ("endless 100", 20)),
        WITH_WORKER,
    ),
    Line(13, "requests of a foreign page, and of a name that was rebound", _foreign_pages),
    Line(14, "600 schedules of one second", _many_schedules, (API, LEDGER)),
    Line(
        15,
        "1,000 names of one address",
        _one_address,
        WITH_WORKER,
        {"RETRIEVER_HOST_CONCURRENCY": "8", "RETRIEVER_HOST_RATE_PER_SECOND": "20"},
    ),
    Line(
        16,
        "references and lengths of 5,000 digits",
        _of_a_kind(
            ("character of 5,000 digits", 5),
            ("character of 5,000 digits in XHTML", 5),
            ("number of 900,000 digits", 5),
            ("Retry-After of 5,000 digits", 5),
            ("total of 5,000 digits", 5),
            ("length of 5,000 digits", 5),
        ),
        WITH_WORKER,
    ),
    Line(
        17,
        "LF, ESC and a bidi override in what a message says of itself",
        _raw_logs,
        WITH_WORKER,
        {"RETRIEVER_LOG_FORMAT": "console"},
    ),
    Line(18, "a password in a URL", _passwords, WITH_WORKER),
    Line(19, "a store made with the usual umask", _readable),
)
