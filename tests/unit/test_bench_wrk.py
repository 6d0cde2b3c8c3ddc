"""Tests of `bench.wrk`."""

import pytest

from bench.wrk import Load, read_load
from deploy.local.errors import ControlFailed

TOLD = """Running 2s test @ http://127.0.0.1:21999/jobs
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    92.75ms  149.44us   3.05ms   96.55%
    Req/Sec    52.50k    11.01k   77.03k    72.73%
  Latency Distribution
     50%  860.00us
     75%    8.80ms
     90%   11.90ms
     99%    1.20s
  57323 requests in 1.10s, 3.61MB read
Requests/sec:  52111.53
Transfer/sec:      3.28MB
"""


def test_the_figures_of_wrk_are_read_in_milliseconds() -> None:
    assert read_load(TOLD, connections=16) == Load(16, 52_111.53, p50_ms=0.86, p99_ms=1_200.0)


@pytest.mark.parametrize(
    "line",
    ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 1, write 0, timeout 0\n"],
)
def test_a_load_that_failed_in_part_has_no_figures(line: str) -> None:
    with pytest.raises(ControlFailed, match="not all went well"):
        read_load(TOLD + line, connections=16)


def test_a_load_without_figures_is_an_error() -> None:
    with pytest.raises(ControlFailed):
        read_load("unable to connect\n", connections=1)
