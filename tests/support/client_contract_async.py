"""What the client and the service promise each other: on a running service, and on the one in memory.

Test modules take these tests with their own fixtures `retriever`, a client, and `site`, the address of a site
that has /ok and not /missing. Those for threads are made of these: `python client/make_sync.py`.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import TypeVar

import pytest

from retriever_client import AsyncRetriever, Conflict, Invalid, NotFinished, NotFound
from tests.support.client_contract import (
    HOUR,
    LONG,
    QUICK_RETRY,
    fresh,
)

T = TypeVar("T")


async def collect(items: AsyncIterable[T]) -> list[T]:
    return [item async for item in items]


async def test_a_check_comes_back_with_its_verdict(retriever: AsyncRetriever, site: str) -> None:
    good = await retriever.check(f"{site}/ok", wait=LONG)
    bad = await retriever.check(f"{site}/missing", wait=LONG, labels={"team": "docs"}, ref="a.md:1")

    assert (good.state, good.verdict, good.is_good, good.url) == ("succeeded", "ok", True, f"{site}/ok")
    assert (bad.state, bad.verdict, bad.is_good) == ("succeeded", "broken", False)
    assert (bad.labels, bad.ref, bad.kind, bad.lane) == ({"team": "docs"}, "a.md:1", "check", "interactive")
    assert bad.raw["result"]["reason"] == "http_404"
    assert bad.finished_at is not None and bad.finished_at >= bad.created_at
    assert [attempt.outcome for attempt in bad.attempts] == ["succeeded"]


async def test_a_fetch_that_fails_is_parked_and_says_why(retriever: AsyncRetriever, site: str) -> None:
    job = await retriever.fetch(f"{site}/missing", wait=LONG)

    assert (job.state, job.reason, job.is_ended, job.is_good) == ("parked", "http_404", True, False)
    assert job.explanation


async def test_what_has_not_ended_in_time_is_told_with_what_there_is(
    retriever: AsyncRetriever, site: str
) -> None:
    with pytest.raises(NotFinished) as raised:
        await retriever.check(f"{site}/ok", wait=0.1, delay_seconds=HOUR)
    job = await retriever.check(f"{site}/ok", wait=0, delay_seconds=HOUR)

    assert raised.value.last.state == "scheduled"
    assert (job.state, job.is_ended) == ("scheduled", False)
    assert (await retriever.jobs.cancel(job)).state == "cancelled"
    assert (await retriever.jobs.wait(job.id, timeout_seconds=LONG)).state == "cancelled"


async def test_a_job_is_found_by_what_it_has_page_by_page(retriever: AsyncRetriever, site: str) -> None:
    labels = {"run": fresh()}
    made = [
        await retriever.jobs.submit(
            "check", {"url": f"{site}/ok"}, labels=labels, delay_seconds=HOUR, ref=str(n)
        )
        for n in range(5)
    ]

    found = await collect(retriever.jobs.list(labels=labels, page_size=2))

    assert [job.id for job in found] == [job.id for job in made][::-1]
    assert {job.attempts for job in found} == {()}
    assert await collect(retriever.jobs.list(labels=labels, state="succeeded")) == []
    assert [job.ref for job in await collect(retriever.jobs.list(labels=labels, ref="3"))] == ["3"]
    assert [job.ref for job in await collect(retriever.jobs.list(labels=labels, url="/ok"))][:1] == ["4"]


async def test_what_is_wrong_is_named(retriever: AsyncRetriever) -> None:
    with pytest.raises(Invalid) as wrong:
        await retriever.jobs.submit("check", {"url": "www.example.com"})
    with pytest.raises(Invalid):
        await retriever.jobs.submit("unknown", {})
    with pytest.raises(NotFound):
        await retriever.jobs.get(fresh())
    with pytest.raises(NotFound):
        await retriever.batches.wait(fresh(), timeout_seconds=LONG)

    ((loc, msg),) = wrong.value.problem.errors
    assert (loc, wrong.value.status) == ("/args/url", 400)
    assert "scheme" in msg


async def test_the_same_request_with_the_same_key_is_the_same_job(
    retriever: AsyncRetriever, site: str
) -> None:
    key = fresh()
    args = {"url": f"{site}/ok"}
    first = await retriever.jobs.submit("check", args, idempotency_key=key)

    assert (await retriever.jobs.submit("check", args, idempotency_key=key)).id == first.id
    with pytest.raises(Conflict):
        await retriever.jobs.submit("check", {"url": f"{site}/missing"}, idempotency_key=key)


async def test_a_batch_of_any_iterable_comes_back_whole(retriever: AsyncRetriever, site: str) -> None:
    def items() -> Iterator[str | dict[str, str]]:
        yield f"{site}/ok"
        yield {"url": f"{site}/missing", "ref": "b.md:7"}
        yield {"url": "no scheme", "ref": "c.md:9"}

    seen: list[int] = []
    batch = await retriever.batches.submit("check", items(), labels={"run": fresh()}, retry=QUICK_RETRY)
    done = await retriever.batches.wait(
        batch, timeout_seconds=LONG, on_progress=lambda each: seen.append(each.ended)
    )
    results = await collect(retriever.batches.results(batch))

    assert (batch.total, batch.rejected.count, done.is_ended, done.ended) == (2, 1, True, 2)
    assert seen[-1] == 2
    assert [(job.url, job.verdict, job.ref, job.line) for job in results] == [
        (f"{site}/ok", "ok", None, 1),
        (f"{site}/missing", "broken", "b.md:7", 2),
    ]
    (rejected,) = await collect(retriever.batches.rejected(batch))
    assert (rejected.number, rejected.ref, "no scheme" in str(rejected.given)) == (3, "c.md:9", True)
    assert batch.rejected.errors == (rejected,)
    assert [each.id for each in await collect(retriever.batches.list(labels=batch.labels))] == [batch.id]


async def test_a_batch_is_read_from_an_iterable_that_waits(retriever: AsyncRetriever, site: str) -> None:
    async def items() -> AsyncIterator[str]:
        for number in range(3):
            yield f"{site}/ok?{number}"

    batch = await retriever.batches.submit("check", items(), lane="interactive")

    assert batch.total == 3
    assert (await retriever.batches.get(batch.id)).labels == {}


async def test_a_batch_of_which_nothing_is_valid_is_refused(retriever: AsyncRetriever, site: str) -> None:
    with pytest.raises(Invalid):
        await retriever.batches.submit("check", ["no scheme"])
    with pytest.raises(Invalid):
        await retriever.batches.submit("check", [f"{site}/ok", "no scheme"], strict=True)
    with pytest.raises(Invalid):
        await retriever.batches.submit("check", [])


async def test_results_come_as_they_end_each_once(retriever: AsyncRetriever, site: str) -> None:
    urls = [f"{site}/ok?{number}" for number in range(30)]
    batch = await retriever.batches.submit("check", urls)

    ended = await collect(retriever.batches.results(batch, as_they_end=True))
    again = await collect(retriever.batches.results(batch, as_they_end=True))

    assert sorted(job.args["url"] for job in ended) == sorted(urls)
    assert {job.state for job in ended} == {"succeeded"}
    assert [job.id for job in again] == [job.id for job in ended]


async def test_a_cancelled_batch_ends(retriever: AsyncRetriever, site: str) -> None:
    batch = await retriever.batches.submit("check", [f"{site}/ok"] * 3, delay_seconds=HOUR, dedupe=False)

    await retriever.batches.cancel(batch)

    done = await retriever.batches.wait(batch, timeout_seconds=LONG)
    assert (done.counts["cancelled"], done.cancelled_at is not None) == (3, True)


async def test_events_tell_what_ended_and_go_on_where_they_were(retriever: AsyncRetriever, site: str) -> None:
    labels = {"run": fresh()}
    job = await retriever.check(f"{site}/ok", wait=LONG, labels=labels)

    (first,) = await collect(retriever.events(labels=labels, after="0", follow=False))
    other = await retriever.check(f"{site}/missing", wait=LONG, labels=labels)
    (second,) = await collect(retriever.events(labels=labels, after=first.id, follow=False))

    assert (first.type, first.job and first.job.id) == ("job.succeeded", job.id)
    assert second.job is not None
    assert second.job.id == other.id
    assert await collect(retriever.events(labels=labels, after=second.id, follow=False)) == []
    assert await collect(retriever.events(labels=labels, kind="fetch", after="0", follow=False)) == []


async def test_parked_jobs_are_grouped_redriven_and_discarded(retriever: AsyncRetriever, site: str) -> None:
    urls = [f"{site}/missing?{fresh()}" for _ in range(3)]
    batch = await retriever.batches.submit("fetch", urls, retry=QUICK_RETRY)
    await retriever.batches.wait(batch, timeout_seconds=LONG)
    first, *others = await collect(retriever.jobs.list(batch=batch, state="parked"))

    (group,) = (await retriever.parked.groups(batch=batch)).items
    assert (group.count, group.reason, group.kind) == (3, "http_404", "fetch")
    assert await retriever.parked.count(batch=batch) == 3
    again = await retriever.jobs.redrive(first, args={"url": f"{site}/ok"})
    assert again.run == 2
    assert (await retriever.jobs.wait(again, timeout_seconds=LONG)).state == "succeeded"
    with pytest.raises(Conflict):
        await retriever.jobs.redrive(again)
    operation = await retriever.parked.discard(ids=[each.id for each in others], rate_per_second=1_000)
    done = await retriever.operations.wait(operation, timeout_seconds=LONG)

    assert (done.action, done.state, done.total, done.done) == ("discard", "done", 2, 2)
    assert await retriever.parked.count(batch=batch) == 0
    with pytest.raises(Conflict):
        await retriever.operations.cancel(done)
    assert done.id in [each.id for each in await collect(retriever.operations.list())]
    with pytest.raises(Invalid):
        await retriever.parked.redrive()


async def test_whatever_matches_is_cancelled_or_sent_back(retriever: AsyncRetriever, site: str) -> None:
    labels = {"run": fresh()}
    waiting = [
        await retriever.jobs.submit("check", {"url": f"{site}/ok"}, labels=labels, delay_seconds=HOUR)
        for _ in range(3)
    ]
    other = await retriever.jobs.submit("check", {"url": f"{site}/ok"}, delay_seconds=HOUR)
    batch = await retriever.batches.submit(
        "fetch", [f"{site}/missing?{fresh()}"], labels=labels, retry=QUICK_RETRY
    )
    await retriever.batches.wait(batch, timeout_seconds=LONG)

    assert await retriever.operations.count("cancel", labels=labels) == 3
    operation = await retriever.operations.begin("cancel", labels=labels, kind="check", rate_per_second=1_000)
    done = await retriever.operations.wait(operation, timeout_seconds=LONG)
    assert (done.action, done.done, done.filter) == ("cancel", 3, {"labels": labels, "kind": "check"})
    assert {(await retriever.jobs.get(each)).state for each in waiting} == {"cancelled"}
    assert (await retriever.jobs.cancel(other)).state == "cancelled"
    again = await retriever.operations.wait(await retriever.batches.redrive(batch), timeout_seconds=LONG)
    assert (again.action, again.total) == ("redrive", 1)
    await retriever.batches.wait(batch, timeout_seconds=LONG)
    discarded = await retriever.operations.begin("discard", labels=labels, url="/missing", batch=batch)
    assert (await retriever.operations.wait(discarded, timeout_seconds=LONG)).total == 1


async def test_a_schedule_is_made_paused_run_and_deleted(retriever: AsyncRetriever, site: str) -> None:
    labels = {"run": fresh()}
    job = {"kind": "check", "args": {"url": f"{site}/ok"}}
    schedule = await retriever.schedules.create(name="nightly", cron="0 3 * * *", job=job, labels=labels)

    assert (schedule.name, schedule.paused, len(schedule.next_runs) > 0) == ("nightly", False, True)
    assert (await retriever.schedules.pause(schedule)).paused
    assert not (await retriever.schedules.resume(schedule.id)).paused
    run = (await retriever.schedules.run(schedule)).last_run
    assert run is not None and run.job_id is not None
    assert (await retriever.jobs.wait(run.job_id, timeout_seconds=LONG)).schedule_id == schedule.id
    listed = await collect(retriever.schedules.list())
    assert [each.id for each in listed if each.labels == labels] == [schedule.id]
    await retriever.schedules.delete(schedule)
    with pytest.raises(NotFound):
        await retriever.schedules.get(schedule)


async def test_a_task_is_picked_held_and_done(retriever: AsyncRetriever) -> None:
    queue = fresh()
    made = await retriever.tasks.submit(queue=queue, payload={"film": 7}, labels={"run": queue})

    (task,) = await retriever.tasks.pick(agent="ann", queue=queue, lease_seconds=30)
    assert (task.id, task.payload, task.attempt) == (made.id, {"film": 7}, 1)
    assert await retriever.tasks.pick(agent="bob", queue=queue) == []
    assert not (await retriever.tasks.extend(task, lease_seconds=60)).cancel_requested
    await retriever.tasks.finish(task, output={"seconds": 5})
    await retriever.tasks.finish(task, output={"seconds": 5})

    done = await retriever.tasks.get(made)
    assert (done.state, done.output, done.agent, done.is_ended) == ("succeeded", {"seconds": 5}, "ann", True)
    assert [each.id for each in await collect(retriever.tasks.list(queue=queue))] == [made.id]


async def test_a_task_that_fails_for_good_is_parked_and_another_is_aborted(retriever: AsyncRetriever) -> None:
    queue = fresh()
    failing = await retriever.tasks.submit(queue=queue, payload=1)
    (task,) = await retriever.tasks.pick(agent="ann", queue=queue, wait_seconds=5)
    await retriever.tasks.fail(task, reason="no_film", transient=False)
    other = await retriever.tasks.submit(queue=queue, payload=2)

    assert (await retriever.tasks.get(failing)).reason == "no_film"
    assert (await retriever.tasks.abort(other)).state == "cancelled"
    with pytest.raises(Conflict):
        await retriever.tasks.extend(task)


async def test_the_service_tells_of_itself(retriever: AsyncRetriever) -> None:
    kinds = await retriever.kinds.list()

    assert {"check", "fetch", "command", "webhook", "task"} <= {kind.name for kind in kinds}
    assert (await retriever.retention()).days >= 0
    stats = await retriever.stats()
    assert {"accepted", "parked"} <= stats.jobs.keys()
    assert stats.ended_last_hour.keys() == {"succeeded", "parked", "cancelled"}
    assert await retriever.is_ready()
    assert (await retriever.request("GET", "/jobs", params={"limit": 1})).status_code == 200
    assert isinstance(await collect(retriever.audit(target=f"job/{fresh()}")), list)
