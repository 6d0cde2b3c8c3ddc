"""Tests of the figures of `bench.tasks`, and of its agents' connection."""

import asyncio

import pytest

from bench.task_agents import Connection
from bench.task_figures import TaskRun, summarize, table
from bench.task_systems import shares
from bench.works import Role


def make_run(
    system: str = "Retriever",
    role: Role = Role.OURS,
    *,
    tasks_per_second: float,
    agents: int = 50,
    **cost: float,
) -> TaskRun:
    return TaskRun(system, role, agents, 1, 1_000, 2.0, tasks_per_second, cost or {"agents": 0.5})


class FakeTransport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)


def test_a_system_has_the_median_of_its_rounds_and_its_ratio_to_the_fastest_peer() -> None:
    rows = summarize(
        [
            *(make_run(tasks_per_second=rate) for rate in (900.0, 300.0, 600.0)),
            make_run("slow", Role.PEER, tasks_per_second=200.0),
            make_run("fast", Role.PEER, tasks_per_second=400.0),
        ]
    )

    assert [(row.system, row.rounds, row.tasks_per_second.median, row.ratio) for row in rows] == [
        ("Retriever", 3, 600.0, 1.5),
        ("fast", 1, 400.0, 1.0),
        ("slow", 1, 200.0, 0.5),
    ]


def test_few_agents_come_before_many_and_are_compared_with_few() -> None:
    runs = [
        make_run(tasks_per_second=500.0, agents=50),
        make_run(tasks_per_second=100.0, agents=1),
        make_run("peer", Role.PEER, tasks_per_second=200.0, agents=1),
    ]

    rows = summarize(runs)

    assert [(row.agents, row.system, row.ratio) for row in rows] == [
        (1, "peer", 1.0),
        (1, "Retriever", 0.5),
        (50, "Retriever", None),
    ]


def test_a_process_that_a_system_does_not_have_has_no_figure_in_the_table() -> None:
    runs = [
        make_run(tasks_per_second=1_500.0, api=0.3, agents=50),
        make_run("peer", Role.PEER, tasks_per_second=1_000.0),
    ]

    head, _, ours, peer = table(summarize(runs)).splitlines()

    assert head == "| agents | system | tasks/s | min-max | ratio | api CPU s | agents CPU s |"
    assert ours == "| 50 | Retriever | 1,500 | 1,500-1,500 | 1.50 | 0.30 | - |"
    assert peer == "| 50 | peer | 1,000 | 1,000-1,000 | 1.00 | - | 0.50 |"


def test_agents_are_spread_evenly_and_no_process_has_none() -> None:
    assert shares(50, 2) == [25, 25]
    assert shares(5, 2) == [3, 2]
    assert shares(1, 2) == [1]


async def test_an_agent_reads_an_answer_that_comes_in_pieces_and_then_the_next() -> None:
    transport, connection = FakeTransport(), Connection()
    connection.connection_made(transport)

    first = asyncio.create_task(connection.post("/tasks/pick", {"queue": "q"}))
    await asyncio.sleep(0)
    for piece in (b"HTTP/1.1 200 OK\r\nContent-", b'Length: 12\r\n\r\n{"tasks"', b":[]}"):
        connection.data_received(piece)
    second = asyncio.create_task(connection.post("/tasks/1/finish", {}))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")

    assert (await first, await second) == ({"tasks": []}, {})
    assert transport.written.startswith(b"POST /tasks/pick HTTP/1.1\r\n")
    assert transport.written.endswith(b"Content-Length: 2\r\n\r\n{}")


async def test_an_agent_says_with_which_answer_it_ended() -> None:
    connection = Connection()
    connection.connection_made(FakeTransport())

    request = asyncio.create_task(connection.post("/tasks/1/finish", {}))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 409 Conflict\r\nContent-Length: 4\r\n\r\nlost")

    with pytest.raises(ConnectionError, match="409: b'lost'"):
        await request


async def test_an_agent_ends_when_the_api_goes_away() -> None:
    connection = Connection()
    connection.connection_made(FakeTransport())

    request = asyncio.create_task(connection.post("/tasks/pick", {}))
    await asyncio.sleep(0)
    connection.connection_lost(None)

    with pytest.raises(ConnectionError, match="closed the connection"):
        await request
