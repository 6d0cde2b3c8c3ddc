"""Hostile URLs, handed in at the API, run by a worker: none reaches a listener; harmless ones do."""

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from deploy.local.broker import Broker
from tests.support.client import Json
from tests.support.dns import Answer, dns_server
from tests.support.management import Management
from tests.support.system import LocalSystem
from tests.support.urls import Row, read_table
from tests.support.waiting import eventually

HOSTILE, HARMLESS = read_table("hostile_urls"), read_table("harmless_urls")
# The only address that the worker may visit: it stands for the public internet.
PUBLIC = "127.0.0.2"
INSIDE = "127.0.0.1"
LITERALS = ("IPv4 literal", "IPv6 literal", "IPv4 in IPv6")
UNREACHED = {"egress_denied", "dns_no_such_name", "dns_no_address", "redirect_invalid", "connection_refused"}

NAMES: dict[str, list[Answer]] = {
    "localhost": [[INSIDE, "::1"]],
    "app.localhost": [[INSIDE, "::1"]],
    "inside.example": [[INSIDE]],
    "inside6.example": [["::1"]],
    "both.example": [[INSIDE, "::1"]],
    "mapped.example": [["::ffff:7f00:1"]],
    "nat64.example": [["64:ff9b::7f00:1"]],
    "zero.example": [["0.0.0.0"]],
    "mixed.example": [[PUBLIC, INSIDE]],
    "127.0.0.1.nip.example": [[INSIDE]],
    "metadata.google.internal": [["169.254.169.254"]],
    "alias.example": [[INSIDE]],
    "rebind.example": [[PUBLIC], [INSIDE]],
    "rebind-back.example": [[INSIDE], [PUBLIC]],
}


@dataclass(slots=True)
class Listeners:
    """A trap inside, on IPv4 and IPv6, and a site that stands for all public ones."""

    port: int = 0
    site_port: int = 0
    trapped: list[str] = field(default_factory=list)

    @property
    def redirecting(self) -> str:
        """Address of a page that redirects to the URL whose hexadecimal octets follow."""
        return f"http://{PUBLIC}:{self.site_port}/to/"


@asynccontextmanager
async def listening() -> AsyncIterator[Listeners]:
    """Listen at the trap and serve the site."""
    listeners = Listeners()

    async def trap(request: web.Request) -> web.Response:
        listeners.trapped.append(str(request.url))
        return web.Response(text="secret")

    async def site(request: web.Request) -> web.Response:
        if target := request.match_info.get("target"):
            return web.Response(status=302, headers={"Location": bytes.fromhex(target).decode()})
        return web.Response(text="public")

    inside, public = web.Application(), web.Application()
    inside.router.add_route("*", "/{rest:.*}", trap)
    public.router.add_route("*", "/to/{target:[0-9a-f]+}", site)
    public.router.add_route("*", "/{rest:.*}", site)
    runners = [web.AppRunner(inside), web.AppRunner(public)]
    for runner in runners:
        await runner.setup()
    trap_socket, site_socket = _bound(socket.AF_INET, INSIDE, 0), _bound(socket.AF_INET, PUBLIC, 0)
    listeners.port, listeners.site_port = trap_socket.getsockname()[1], site_socket.getsockname()[1]
    trap_socket_6 = _bound(socket.AF_INET6, "::1", listeners.port)
    try:
        for runner, listener in zip(
            (runners[0], *runners), (trap_socket, trap_socket_6, site_socket), strict=True
        ):
            await web.SockSite(runner, listener).start()
        yield listeners
    finally:
        for runner in runners:
            await runner.cleanup()


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.bind((host, port))
    return bound


@pytest.fixture
def api(own_broker: Broker, management: Management, vhost: str, tmp_path: Path) -> Iterator[str]:
    """Yield the address of a service whose worker may visit one address, and asks a DNS of ours."""
    amqp_url = f"{own_broker.amqp_url.rsplit('/', maxsplit=1)[0]}/{vhost}"
    names = NAMES | {name: [[PUBLIC]] for name in _public_names()}
    with dns_server(names) as dns:
        system = LocalSystem(
            broker=own_broker,
            vhost=vhost,
            amqp_url=amqp_url,
            database_url=f"sqlite:///{tmp_path / 'retriever.db'}",
            logs=tmp_path,
            settings={"RETRIEVER_EGRESS_ALLOW": f"{PUBLIC}/32", "RETRIEVER_DNS_SERVERS": dns.server},
        )
        try:
            system.start()
            yield system.api_url
        finally:
            system.stop()


def _public_names() -> set[str]:
    hosts = (httpx.URL(row.on(port=1, redirecting="http://x/").replace("\\", "/")).host for row in HARMLESS)
    return {host.encode("idna").decode().rstrip(".").lower() for host in hosts if "public.example" in host}


async def run(api: str, kind: str, urls: list[str]) -> tuple[dict[int, Json], dict[int, str]]:
    """Return what became of each URL: the jobs, and why the others were rejected, by their number."""
    body = "".join(json.dumps({"url": url, "timeout_seconds": 2}) + "\n" for url in urls)
    async with httpx.AsyncClient(base_url=api, timeout=60) as http:
        answer = await http.post(
            "/batches",
            params={"kind": kind, "lane": "bulk", "retry": '{"max_attempts": 1}'},
            content=body.encode(),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert answer.status_code == 202, answer.text
        batch = f"/batches/{answer.json()['id']}"

        async def finished() -> bool:
            return (await http.get(batch)).json()["finished_at"] is not None

        await eventually(finished, deadline_seconds=60)
        rejected = (await http.get(f"{batch}/rejected", params={"limit": 1_000})).json()["items"]
        results = (await http.get(f"{batch}/results", params={"format": "ndjson"})).text.splitlines()
    why = {each["number"]: each["msg"] for each in rejected}
    taken = (number for number in range(1, len(urls) + 1) if number not in why)
    # Jobs of a batch come in the order of their lines.
    return dict(zip(taken, map(json.loads, results), strict=True)), why


def reason_of(job: Json) -> str:
    return str(job["reason"] or (job["result"] or {}).get("reason"))


async def test_no_hostile_url_reaches_a_listener_and_harmless_ones_pass(api: str) -> None:
    async with listening() as listeners:
        hostile = [row.on(port=listeners.port, redirecting=listeners.redirecting) for row in HOSTILE]
        harmless = [row.on(port=listeners.site_port, redirecting=listeners.redirecting) for row in HARMLESS]

        for kind in ("check", "fetch"):
            jobs, rejected = await run(api, kind, hostile)
            good, refused = await run(api, kind, harmless)

            assert len(HOSTILE) >= 150 and len(jobs) + len(rejected) == len(HOSTILE)
            assert [(job["args"]["url"], reason_of(job)) for job in jobs.values() if _got_through(job)] == []
            assert _not_denied(jobs) == []
            assert len(HARMLESS) >= 30 and refused == {}
            assert [
                (job["args"]["url"], reason_of(job)) for n, job in good.items() if not _passed(n, job)
            ] == []
        assert listeners.trapped == []


def _got_through(job: Json) -> bool:
    return reason_of(job) not in UNREACHED


def _not_denied(jobs: dict[int, Json]) -> list[str]:
    literals = ((HOSTILE[number - 1], job) for number, job in jobs.items())
    return [
        row.url
        for row, job in literals
        if row.about.startswith(LITERALS) and (job["state"], job["reason"]) != ("parked", "egress_denied")
    ]


def _passed(number: int, job: Json) -> bool:
    row: Row = HARMLESS[number - 1]
    if row.about == "answers":
        return (job["state"], job["result"]["status"]) == ("succeeded", 200)
    # There is no internet here, so the guard lets it through and nobody answers.
    return reason_of(job) != "egress_denied"


async def test_the_trap_would_have_told() -> None:
    async with listening() as listeners, httpx.AsyncClient() as http:
        for host in (INSIDE, "[::1]"):
            await http.get(f"http://{host}:{listeners.port}/x")

    assert len(listeners.trapped) == 2
