"""One task in an agent's hand: its lease, its end, and who stops its work. Time is virtual."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from consumer.agent.held_task import HeldTask
from consumer.agent.task_api import ApiUnavailable, End, Extension, PickedTask, RequestRefused
from shared.kinds.command import OutputSnapshot, OutputText
from shared.outcomes import Cancelled, Failed, Succeeded
from tests.support.task_api import FakeTaskApi, make_picked_task
from tests.support.virtual_time import run_in_virtual_time

LEASE_SECONDS = 60.0
DONE = Succeeded({"output": 7})
Show = Callable[[OutputSnapshot], None]


class Work:
    """Takes as long as it is told, then ends as it is told."""

    def __init__(
        self, *, seconds: float = 0.0, end: End = DONE, writes: int = 0, last_words: str = ""
    ) -> None:
        self.seconds, self.end, self.writes, self.last_words = seconds, end, writes, last_words
        self.was_stopped_at: float | None = None

    async def __call__(self, task: PickedTask, show: Show) -> End:
        try:
            for number in range(self.writes):
                show(OutputSnapshot(sequence=number, stdout=OutputText(text=f"line {number}")))
                await asyncio.sleep(self.seconds / self.writes)
            await asyncio.sleep(0 if self.writes else self.seconds)
        except asyncio.CancelledError:
            self.was_stopped_at = asyncio.get_running_loop().time()
            if self.last_words:
                show(OutputSnapshot(sequence=self.writes, stdout=OutputText(text=self.last_words)))
            raise
        return self.end


async def hold(api: FakeTaskApi, task: PickedTask, work: Work, given_up: asyncio.Event | None = None) -> str:
    held = HeldTask(task, api=api, work=work, lease_seconds=LEASE_SECONDS)
    return await held.run(given_up or asyncio.Event())


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Return a test that pytest runs, without waiting."""

    def run() -> None:
        run_in_virtual_time(test())

    return run


@pytest.mark.parametrize(
    ("end", "name"),
    [
        (DONE, "succeeded"),
        (Failed("exit_3", "It ended with 3.", transient=False), "failed_permanent"),
        (Failed("timeout", "It took too long.", transient=True), "failed_transient"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_end_of_the_work_is_reported_once(end: End, name: str) -> None:
    async def test() -> None:
        api, task = FakeTaskApi(), make_picked_task()

        assert await hold(api, task, Work(end=end)) == name

        assert api.ends == [(task, end)]
        assert api.calls == {"report": 1}

    run_in_virtual_time(test())


@in_virtual_time
async def test_the_lease_is_extended_at_each_third_of_it() -> None:
    api = FakeTaskApi()

    await hold(api, make_picked_task(), Work(seconds=50))

    assert api.calls == {"extend": 2, "report": 1}


@in_virtual_time
async def test_what_the_work_writes_is_shown_at_once() -> None:
    api = FakeTaskApi()

    await hold(api, make_picked_task(), Work(seconds=3, writes=3))

    assert [output and output.stdout.text for output in api.outputs] == ["line 0", "line 1", "line 2"]


@in_virtual_time
async def test_what_was_shown_is_not_shown_again_while_nothing_new_is_written() -> None:
    api = FakeTaskApi()

    await hold(api, make_picked_task(), Work(seconds=50, writes=1))

    assert [output and output.stdout.text for output in api.outputs] == ["line 0", None, None]


@in_virtual_time
async def test_what_the_api_did_not_hear_is_shown_when_it_is_back() -> None:
    api = FakeTaskApi()
    api.errors = {"extend": deque([ApiUnavailable("away")] * 3)}

    await hold(api, make_picked_task(), Work(seconds=20, writes=1))

    assert [output and output.stdout.text for output in api.outputs] == ["line 0"]


@in_virtual_time
async def test_a_cancelled_task_is_stopped_and_reported_as_cancelled() -> None:
    api, task, work = FakeTaskApi(), make_picked_task(), Work(seconds=1_000)
    api.cancelled.add(task.id)

    assert await hold(api, task, work) == "cancelled"

    assert work.was_stopped_at == LEASE_SECONDS / 3
    assert api.ends == [(task, Cancelled())]


@in_virtual_time
async def test_what_cancelled_work_writes_at_last_is_reported_with_its_end() -> None:
    api, task = FakeTaskApi(), make_picked_task()
    api.cancelled.add(task.id)

    await hold(api, task, Work(seconds=1_000, last_words="sorry"))

    ((_, end),) = api.ends
    assert isinstance(end, Cancelled) and end.result is not None
    assert end.result["stdout"] == OutputText(text="sorry").model_dump()


@in_virtual_time
async def test_work_whose_lease_is_lost_is_stopped_and_not_reported() -> None:
    api, task, work = FakeTaskApi(), make_picked_task(), Work(seconds=1_000)
    api.lost.add(task.id)

    assert await hold(api, task, work) == "lease_lost"

    assert work.was_stopped_at == LEASE_SECONDS / 3
    assert api.ends == []


@in_virtual_time
async def test_work_goes_on_while_the_api_is_away_and_is_reported_when_it_is_back() -> None:
    api, task, work = FakeTaskApi(), make_picked_task(), Work(seconds=70)
    api.errors = {
        "extend": deque([ApiUnavailable("away")] * 5),
        "report": deque([ApiUnavailable("away")] * 5),
    }

    assert await hold(api, task, work) == "succeeded"

    assert api.ends == [(task, DONE)]


@in_virtual_time
async def test_work_is_stopped_when_its_lease_runs_out_while_the_api_is_away() -> None:
    api, work = FakeTaskApi(), Work(seconds=1_000)
    api.is_away = True

    assert await hold(api, make_picked_task(), work) == "lease_lost"

    # Another agent may be given the task from then on, and not before.
    assert work.was_stopped_at == pytest.approx(LEASE_SECONDS)


class SlowTaskApi(FakeTaskApi):
    """Extends a lease once, answers that late, and is away from then on."""

    async def extend(
        self, task: PickedTask, *, lease_seconds: float, output: OutputSnapshot | None
    ) -> Extension:
        extension = await super().extend(task, lease_seconds=lease_seconds, output=output)
        self.is_away = True
        await asyncio.sleep(15)
        return extension


@in_virtual_time
async def test_a_lease_runs_from_before_its_extension_and_not_from_the_answer() -> None:
    work = Work(seconds=1_000)

    assert await hold(SlowTaskApi(), make_picked_task(), work) == "lease_lost"

    assert work.was_stopped_at == pytest.approx(LEASE_SECONDS / 3 + LEASE_SECONDS)


@in_virtual_time
async def test_an_end_is_not_reported_after_the_lease_has_run_out() -> None:
    api = FakeTaskApi()
    api.is_away = True

    assert await hold(api, make_picked_task(), Work()) == "lease_lost"

    assert asyncio.get_running_loop().time() == pytest.approx(LEASE_SECONDS)


@in_virtual_time
async def test_output_that_is_refused_costs_no_lease() -> None:
    api = FakeTaskApi()
    api.errors = {"extend": deque([RequestRefused("too large")])}

    assert await hold(api, make_picked_task(), Work(seconds=10, writes=1)) == "succeeded"

    assert api.outputs == [None]


@in_virtual_time
async def test_an_end_that_is_refused_fails_the_task_and_says_why() -> None:
    api = FakeTaskApi()
    api.errors = {"report": deque([RequestRefused("output: is too large")])}

    assert await hold(api, make_picked_task(), Work()) == "failed_permanent"

    [(_, end)] = api.ends
    assert isinstance(end, Failed) and not end.transient
    assert (end.reason, "output: is too large" in end.explanation) == ("result_refused", True)


@in_virtual_time
async def test_a_task_is_let_go_when_even_its_refusal_is_refused() -> None:
    api = FakeTaskApi()
    api.errors = {"report": deque([RequestRefused("no")] * 2)}

    assert await hold(api, make_picked_task(), Work()) == "refused"


@in_virtual_time
async def test_an_agent_that_gives_up_stops_the_work_and_gives_the_task_back() -> None:
    api, task, work = FakeTaskApi(), make_picked_task(), Work(seconds=1_000)
    given_up = asyncio.Event()
    asyncio.get_running_loop().call_later(7, given_up.set)

    assert await hold(api, task, work, given_up) == "failed_transient"

    assert work.was_stopped_at == 7
    [(_, end)] = api.ends
    assert isinstance(end, Failed) and (end.reason, end.transient) == ("agent_stopped", True)
