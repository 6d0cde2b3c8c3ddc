"""Tests of `bench.rounds`."""

from bench.rounds import Round, summarize, table


def make_round(workers: int, *, jobs_per_second: float, api: float = 0.1) -> Round:
    cost = {"api": api, **{f"worker-{number}": 1.0 for number in range(1, workers + 1)}, "broker": 0.5}
    return Round(workers, 1_000, 2.0, jobs_per_second, cost)


def test_each_number_of_workers_has_the_medians_of_its_rounds() -> None:
    rounds = [
        make_round(1, jobs_per_second=300.0, api=0.3),
        make_round(1, jobs_per_second=100.0, api=0.1),
        make_round(1, jobs_per_second=200.0, api=0.2),
        make_round(2, jobs_per_second=500.0),
    ]

    one, two = summarize(rounds)

    assert (one.workers, one.rounds, one.jobs_per_second.median) == (1, 3, 200.0)
    assert (one.jobs_per_second.lowest, one.jobs_per_second.highest) == (100.0, 300.0)
    assert one.cpu_seconds_per_1000["api"].median == 0.2
    assert (two.workers, two.rounds, two.jobs_per_second.median) == (2, 1, 500.0)


def test_a_process_that_did_not_run_yet_has_no_figure() -> None:
    rows = summarize([make_round(1, jobs_per_second=300.0), make_round(2, jobs_per_second=1_500.0)])

    head, _, one, two = table(rows).splitlines()

    assert [cell.split()[0] for cell in head.strip("| ").split(" | ")[3:]] == [
        "api",
        "worker-1",
        "worker-2",
        "broker",
    ]
    assert one == "| 1 | 300 | 300-300 | 0.10 | 1.00 | - | 0.50 |"
    assert two == "| 2 | 1,500 | 1,500-1,500 | 0.10 | 1.00 | 1.00 | 0.50 |"
