"""Rates of callers: what one process lets through, and what several do together."""

import pytest

from producer.rates import LAPSES_SECONDS, Account

TICK = 0.1


class Machine:
    """API processes that share one caller, on a clock of their own; each is asked evenly."""

    def __init__(self, rate_per_second: int, *asked_per_tick: int) -> None:
        self.now = 0.0
        self.asked_per_tick = list(asked_per_tick)
        self.accounts = [Account(rate_per_second, now=0.0) for _ in asked_per_tick]
        self.let_in = [0 for _ in asked_per_tick]

    def run(self, seconds: float, *, is_store_up: bool = True) -> int:
        """Return how many requests were let in, in all."""
        before = sum(self.let_in)
        for _ in range(round(seconds / TICK)):
            for place, account in enumerate(self.accounts):
                asked = self.asked_per_tick[place]
                times = (self.now + TICK * number / asked for number in range(asked))
                self.let_in[place] += sum(account.take(now) for now in times)
            self.now += TICK
            for account in self.accounts:
                account.measure(self.now)
            if is_store_up:
                self._exchange()
        return sum(self.let_in) - before

    def _exchange(self) -> None:
        told = [each.asked_per_second if each.is_loud else 0.0 for each in self.accounts]
        for own, account in zip(told, self.accounts, strict=True):
            if account.is_loud:
                account.share(sum(told) - own)


@pytest.mark.parametrize("rate_per_second", [10, 100, 1_000])
@pytest.mark.parametrize("asked_per_tick", [(300,), (300, 300), (300, 30), (200, 1), (100, 200, 300)])
def test_processes_together_let_through_the_rate_from_the_first_second_on(
    rate_per_second: int, asked_per_tick: tuple[int, ...]
) -> None:
    machine = Machine(rate_per_second, *asked_per_tick)

    assert machine.run(5) <= 5 * rate_per_second * 1.1 + len(asked_per_tick)
    assert machine.run(5) == pytest.approx(5 * rate_per_second, rel=0.1)


def test_whoever_sends_less_than_the_rate_is_never_refused() -> None:
    machine = Machine(100, 6, 3)

    assert machine.run(10) == 900


def test_processes_share_a_rate_as_they_are_asked() -> None:
    machine = Machine(100, 30, 10)
    machine.run(2)
    machine.let_in = [0, 0]

    machine.run(10)

    assert machine.let_in == [pytest.approx(750, rel=0.1), pytest.approx(250, rel=0.1)]


def test_what_one_process_leaves_the_other_has() -> None:
    machine = Machine(100, 30, 30)
    machine.run(3)

    machine.asked_per_tick = [30, 0]
    machine.run(2)

    assert machine.run(5) == pytest.approx(500, rel=0.1)


def test_each_process_keeps_its_part_while_the_store_is_away() -> None:
    machine = Machine(100, 30, 30)
    machine.run(3)

    assert machine.run(30, is_store_up=False) == pytest.approx(3_000, rel=0.1)


def test_a_refused_request_is_let_in_after_the_wait_that_it_was_told() -> None:
    account = Account(2, now=0.0)
    assert [account.take(0.0), account.take(0.0)] == [True, False]

    assert account.wait_seconds == 1
    assert account.take(account.wait_seconds)


def test_a_process_that_is_hardly_asked_tells_a_wait_that_is_true_too() -> None:
    account = Account(10, now=0.0)
    account.take(0.0)
    account.measure(TICK)
    account.share(10_000.0)
    assert not account.take(TICK)

    wait_seconds = account.wait_seconds

    assert wait_seconds == 2
    assert account.take(TICK + wait_seconds)


def test_an_account_that_was_quiet_for_a_while_is_over() -> None:
    account = Account(100, now=0.0)
    for _ in range(20):
        account.take(0.0)
    account.measure(TICK)

    assert not account.is_over(TICK + LAPSES_SECONDS)
    account.measure(LAPSES_SECONDS)
    assert account.is_over(LAPSES_SECONDS + 2 * TICK)
