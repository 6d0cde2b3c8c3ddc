"""What a worker was asked to do: how many jobs it holds and runs, and which options it takes."""

import pytest
from click.testing import CliRunner

from consumer import __main__ as command_line
from consumer.backlog import Order
from consumer.plan import NEWEST_AT_ONCE, Plan
from shared.errors import SettingsInvalid
from shared.kinds.command import COMMAND
from shared.kinds.registry import Lane
from shared.settings import Settings

SETTINGS = Settings(worker_interactive_prefetch=20, worker_bulk_prefetch=100, bundle_jobs=10)


def prefetches(plan: Plan, kind: str) -> tuple[int, int, int]:
    lanes = (Lane.INTERACTIVE, Lane.BULK)
    interactive, bulk = (plan.prefetch(kind, lane, SETTINGS) for lane in lanes)
    return interactive, bulk, plan.bundle_prefetch(kind, SETTINGS)


def slots(plan: Plan) -> dict[str, int]:
    made = plan.slots_by_kind(SETTINGS, is_paused=lambda *_: False)
    return {kind: each._limit for kind, each in made.items()}


def test_a_worker_that_was_asked_for_nothing_runs_all_that_it_holds() -> None:
    plan = Plan(("check", "fetch"))

    assert prefetches(plan, "check") == (20, 100, 10)
    assert slots(plan) == {}


def test_the_newest_are_chosen_among_as_many_as_the_settings_say() -> None:
    plan = Plan(("check",), order=Order.NEWEST)

    assert prefetches(plan, "check") == (20, 100, 10)
    assert slots(plan) == {"check": NEWEST_AT_ONCE}
    assert prefetches(Plan(("check",), order=Order.NEWEST, concurrency=200), "check") == (200, 200, 20)


def test_a_worker_that_runs_few_takes_few_more_than_it_runs() -> None:
    plan = Plan(("check",), concurrency=5)

    assert prefetches(plan, "check") == (6, 5, 1)


def test_commands_run_one_at_a_time_beside_others_unless_somebody_says_how_many() -> None:
    kinds = ("check", COMMAND)

    assert slots(Plan(kinds)) == {COMMAND: 1}
    assert slots(Plan(kinds, order=Order.NEWEST)) == {"check": NEWEST_AT_ONCE, COMMAND: 1}
    together = Plan(kinds, concurrency=3).slots_by_kind(SETTINGS, is_paused=lambda *_: False)
    assert together["check"] is together[COMMAND]
    assert prefetches(Plan(kinds), COMMAND)[:2] == (2, 1)


def planned(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Plan:
    """Return the plan that a worker with these options is run with."""
    plans: list[Plan] = []

    async def run(_: Settings, plan: Plan) -> None:
        plans.append(plan)

    monkeypatch.setattr(command_line, "_run_worker", run)
    monkeypatch.setattr(command_line, "prepare_process", lambda *_, **__: None)
    CliRunner().invoke(command_line.main, ["worker", *arguments], catch_exceptions=False)
    (plan,) = plans
    return plan


def test_the_options_of_a_worker_are_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--kinds", "fetch, check,fetch", "--order", "newest", "--concurrency", "2", "--every", "1h30m")

    assert planned(monkeypatch, *options) == Plan(
        ("fetch", "check"), order=Order.NEWEST, concurrency=2, every_seconds=5_400
    )
    assert planned(monkeypatch, "--drain").drains
    # It stays, so it does not end when the queues are empty.
    assert not planned(monkeypatch, "--drain", "--every", "10m").drains


def test_a_worker_takes_the_lanes_that_it_was_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(monkeypatch).lanes == (Lane.INTERACTIVE, Lane.BULK)
    assert planned(monkeypatch, "--lanes", "interactive").lanes == (Lane.INTERACTIVE,)
    assert planned(monkeypatch, "--lanes", " bulk, interactive,bulk").lanes == (Lane.BULK, Lane.INTERACTIVE)


@pytest.mark.parametrize(
    ("lanes", "said"), [("fast", "fast is none of interactive,bulk"), (" ,", "name at least one lane")]
)
def test_a_lane_that_there_is_not_is_refused(lanes: str, said: str) -> None:
    with pytest.raises(SettingsInvalid, match=f"--lanes: {said}"):
        CliRunner().invoke(command_line.main, ["worker", f"--lanes={lanes}"], catch_exceptions=False)


@pytest.mark.parametrize("every", ["0s", "999ms", "169h", "-10m"])
def test_a_cadence_that_makes_no_sense_is_refused(every: str) -> None:
    with pytest.raises(SettingsInvalid, match="--every: give a time from 1s to 168h"):
        CliRunner().invoke(command_line.main, ["worker", f"--every={every}"], catch_exceptions=False)


@pytest.mark.parametrize("option", ["--every=10", "--every=soon", "--concurrency=0", "--order=random"])
def test_an_option_that_is_none_is_named(option: str) -> None:
    told = CliRunner().invoke(command_line.main, ["worker", option])

    assert told.exit_code == 2
    assert f"Invalid value for '{option.split('=', maxsplit=1)[0]}'" in told.output
