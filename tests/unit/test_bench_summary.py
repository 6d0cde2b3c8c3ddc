"""Tests of `bench.summary`."""

import pytest

from bench.summary import Run, Spread, percentiles, rotated, spread, summarize, table
from bench.works import Role, Work


def make_run(
    *,
    contender: str = "Celery",
    role: Role = Role.PEER,
    jobs_per_second: float = 100.0,
    work: Work = Work.FAST,
    number: int = 1,
) -> Run:
    return Run(
        work=work,
        contender=contender,
        role=role,
        round=number,
        jobs=1_000,
        seconds=10.0,
        jobs_per_second=jobs_per_second,
        worker_cpu_seconds_per_1000=0.5,
        broker_cpu_seconds_per_1000=0.2,
        peak_mebibytes=60.0,
    )


def test_a_spread_is_the_median_and_the_two_ends() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(median=3.0, lowest=1.0, highest=10.0)
    assert spread([4.0, 2.0]).median == 3.0


def test_no_figures_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no figures"):
        spread([])


def test_each_round_begins_with_another_contender() -> None:
    orders = [rotated(["a", "b", "c"], number) for number in range(4)]

    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_ratios_are_of_medians_and_to_the_fastest_peer() -> None:
    runs = [
        make_run(contender="Retriever", role=Role.OURS, jobs_per_second=300.0),
        make_run(contender="Celery", jobs_per_second=100.0, number=1),
        make_run(contender="Celery", jobs_per_second=900.0, number=2),
        make_run(contender="Celery", jobs_per_second=120.0, number=3),
        make_run(contender="Taskiq", jobs_per_second=200.0),
    ]

    rows = summarize(runs)

    assert [(row.contender, row.ratio) for row in rows] == [
        ("Retriever", 1.5),
        ("Taskiq", 1.0),
        ("Celery", 0.6),
    ]
    assert rows[2].jobs_per_second == Spread(median=120.0, lowest=100.0, highest=900.0)
    assert rows[2].rounds == 3


def test_the_floor_is_compared_and_compared_with_nobody() -> None:
    runs = [
        make_run(contender="aio-pika", role=Role.FLOOR, jobs_per_second=400.0),
        make_run(contender="Taskiq", jobs_per_second=200.0),
    ]

    assert [row.ratio for row in summarize(runs)] == [2.0, 1.0]


def test_without_a_peer_there_is_no_ratio() -> None:
    (row,) = summarize([make_run(contender="Retriever", role=Role.OURS)])

    assert row.ratio is None
    assert "| Retriever | 100 | 100-100 | - | 0.50 | 0.20 | 60 |" in table([row])


def test_each_sort_of_job_has_a_table_of_its_own() -> None:
    runs = [make_run(work=Work.NOOP, jobs_per_second=2_500.0), make_run(work=Work.FAST)]

    text = table(summarize(runs))

    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### Check, fast target",
        "### No-op",
    ]
    assert "| Celery | 2,500 | 2,500-2,500 | 1.00 |" in text


def test_percentiles_are_figures_that_were_seen() -> None:
    found = percentiles([float(figure) for figure in range(200, 0, -1)])

    assert (found.p50, found.p99, found.highest) == (100.0, 198.0, 200.0)
    assert percentiles([7.0]).p99 == 7.0


def test_no_figures_have_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no figures"):
        percentiles([])
