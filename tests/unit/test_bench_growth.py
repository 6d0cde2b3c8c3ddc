"""Tests of `bench.growth`."""

from bench.growth import Growth, Sample, growths, table

MEBIBYTE = 1_048_576


def samples_of(memory: dict[int, float]) -> list[Sample]:
    """Return samples of one process: MiB by the number of jobs that had ended."""
    return [Sample(ended, {"api": int(mebibytes * MEBIBYTE)}) for ended, mebibytes in memory.items()]


def test_what_grows_only_at_first_is_flat() -> None:
    found = growths(samples_of({0: 100, 10_000: 180, 20_000: 150, 30_000: 150, 39_000: 150, 40_000: 150}))

    assert found["api"] == Growth(start=100, peak=180, end=150, per_10000_jobs=0)


def test_a_steady_growth_is_told_for_each_ten_thousand_jobs() -> None:
    found = growths(samples_of({jobs: 100 + jobs / 5_000 for jobs in range(0, 40_001, 1_000)}))

    assert found["api"].per_10000_jobs == 2


def test_what_happens_after_the_last_job_is_in_the_peak_alone() -> None:
    samples = samples_of({0: 100, 20_000: 110, 30_000: 110, 39_000: 110, 40_000: 110})

    found = growths([*samples, *samples_of({40_000: 300}), *samples_of({40_000: 120})])

    assert found["api"] == Growth(start=100, peak=300, end=120, per_10000_jobs=0)


def test_a_batch_that_was_done_at_once_has_no_slope() -> None:
    found = growths(samples_of({0: 100, 100: 110}))

    assert found["api"] == Growth(start=100, peak=110, end=110, per_10000_jobs=None)


def test_the_table_has_the_sign_of_the_growth() -> None:
    lines = table({"api": Growth(100, 180.04, 150, -0.5), "broker": Growth(1, 2, 3, None)}).splitlines()

    assert lines[2:] == [
        "| api | 100.0 | 180.0 | 150.0 | -0.50 |",
        "| broker | 1.0 | 2.0 | 3.0 | - |",
    ]
