"""What client and service promise each other for operators: on a running API, and on the one in memory.

Test modules take these tests with a fixture `retriever`, a client. Those for threads are made of these:
`python client/make_sync.py`.
"""

import pytest

from retriever_client import AsyncRetriever, Conflict, Invalid, NotFound
from tests.support.client_contract import fresh
from tests.support.client_contract_async import collect


async def test_a_key_is_made_found_rotated_and_revoked(retriever: AsyncRetriever) -> None:
    name = f"ci-{fresh()}"
    made = await retriever.keys.create(name, scopes=["jobs:read"], project="docs", rate_per_second=5)

    assert made.key not in repr(made)
    assert (made.name, made.project, made.scopes, made.state) == (name, "docs", ("jobs:read",), "live")
    assert made.key.startswith(made.starts[0])
    assert (await retriever.keys.get(made)).rate_per_second == 5
    with pytest.raises(Conflict):
        await retriever.keys.create(name, scopes=["jobs:read"])
    rotated = await retriever.keys.rotate(made)
    assert rotated.key != made.key
    assert len(rotated.starts) == 2
    assert len((await retriever.keys.rotate(made, overlap_seconds=0)).starts) == 1
    revoked = await retriever.keys.revoke(made)
    assert (revoked.state, revoked.revoked_at is not None) == ("revoked", True)
    with pytest.raises(Conflict):
        await retriever.keys.rotate(made)
    assert [each.state for each in await collect(retriever.keys.list()) if each.id == made.id] == ["revoked"]
    with pytest.raises(NotFound):
        await retriever.keys.get(fresh())
    with pytest.raises(Invalid):
        await retriever.keys.create(f"ci-{fresh()}", scopes=[])


async def test_a_secret_is_kept_replaced_and_deleted(retriever: AsyncRetriever) -> None:
    name = f"crm-{fresh()}"
    origin = "https://api.example.com"
    made = await retriever.secrets.create(name, origins=[origin], value="first")

    assert (made.name, made.use, made.origins, made.value) == (name, "request", (origin,), None)
    with pytest.raises(Conflict):
        await retriever.secrets.create(name, origins=[origin], value="first")
    with pytest.raises(Invalid):
        await retriever.secrets.create(f"crm-{fresh()}", origins=[origin])
    replaced = await retriever.secrets.replace(made, value="second", origins=["https://b.example.com"])
    assert replaced.origins == ("https://b.example.com",)
    assert (await retriever.secrets.get(made.id)).updated_at == replaced.updated_at > made.updated_at
    signing = await retriever.secrets.create(f"hook-{fresh()}", origins=[origin], use="webhook")
    assert signing.value is not None
    assert signing.value.startswith("whsec_")
    assert (await retriever.secrets.replace(signing, overlap_seconds=60)).previous_until is not None
    listed = [each.id for each in await collect(retriever.secrets.list(page_size=1))]
    assert listed.index(signing.id) < listed.index(made.id)
    for each in (made, signing):
        await retriever.secrets.delete(each)
    with pytest.raises(NotFound):
        await retriever.secrets.delete(made)


async def test_the_limit_of_a_host_is_set_and_cleared(retriever: AsyncRetriever) -> None:
    names = [f"{letter}.{fresh()}.example" for letter in "ab"]
    made = [await retriever.hosts.set_limit(name, concurrency=2, rate_per_second=0.5) for name in names]

    assert [(each.host, each.is_set, each.breaker) for each in made] == [
        (name, True, "closed") for name in names
    ]
    limit = made[0].limit
    assert limit is not None
    assert (limit.concurrency, limit.rate_per_second) == (2, 0.5)
    assert (await retriever.hosts.get(names[0])).host == names[0]
    listed = [each.host for each in await collect(retriever.hosts.list(page_size=1))]
    assert [each for each in listed if each in names] == names
    assert not (await retriever.hosts.clear_limit(made[0])).is_set
    with pytest.raises(Invalid):
        await retriever.hosts.set_limit(names[0], concurrency=0)
    with pytest.raises(NotFound):
        await retriever.hosts.get("idle.example")


async def test_the_limits_of_a_project_are_set_together(retriever: AsyncRetriever) -> None:
    limits = await retriever.limits.set("docs", {"schedules": 3, "labels": 5})

    values = {each.name: each.value for each in limits.items if each.value is not None}
    assert (limits.project, values) == ("docs", {"schedules": 3, "labels": 5})
    again = await retriever.limits.get("docs")
    assert {each.name: each.source for each in again.items if each.source} == {
        "schedules": "project",
        "labels": "project",
    }
    assert (await retriever.limits.get()).project == "default"
    with pytest.raises(Invalid):
        await retriever.limits.set("docs", {"schedule": 3})


async def test_kinds_and_lanes_are_paused_and_resumed(retriever: AsyncRetriever) -> None:
    paused = await retriever.kinds.pause("fetch", lane="bulk", note="Repairs")

    assert [(each.lane, (each.paused or {}).get("note")) for each in paused] == [("bulk", "Repairs")]
    assert all(each.paused is None for each in await retriever.kinds.resume("fetch", lane="bulk"))
    assert {each.lane for each in await retriever.kinds.pause("fetch")} == {"bulk", "interactive"}
    assert all(each.paused is None for each in await retriever.kinds.resume("fetch"))
    lane = await retriever.kinds.pause_lane("bulk")
    assert {each.lane for each in lane} == {"bulk"}
    assert all(each.paused is not None for each in lane)
    kinds = {each.name: each for each in await retriever.kinds.list()}
    assert {each.lane: each.paused is not None for each in kinds["check"].queues}["bulk"]
    assert all(each.paused is None for each in await retriever.kinds.resume_lane("bulk"))
    with pytest.raises(Invalid):
        await retriever.kinds.pause("unknown")


async def test_what_was_done_is_in_the_audit_log(retriever: AsyncRetriever) -> None:
    made = await retriever.keys.create(f"ci-{fresh()}", scopes=["jobs:read"])
    await retriever.keys.revoke(made)

    told = await collect(retriever.audit(page_size=1, target=f"key/{made.id}"))

    assert [each.action for each in told] == ["key_revoked", "key_created"]
    assert len({each.by for each in told}) == 1
    assert told[0].at >= told[1].at


async def test_what_a_job_has_not_is_not_there(retriever: AsyncRetriever) -> None:
    job = await retriever.jobs.submit("check", {"url": "https://example.com/"})

    with pytest.raises(Conflict):
        await retriever.jobs.pages_of(job)
    with pytest.raises(NotFound):
        await retriever.jobs.output(fresh())
    with pytest.raises(Conflict):
        await collect(retriever.jobs.items(job))
    with pytest.raises(NotFound):
        async with retriever.jobs.body(job):
            pass
    paged = await retriever.jobs.submit(
        "fetch", {"url": "https://example.com/", "pages": {"by": "page"}}, delay_seconds=3_600
    )
    pages = await retriever.jobs.pages_of(paged)
    assert (pages.job_id, pages.pages.open, pages.items, pages.complete) == (paged.id, 1, 0, False)
    assert await collect(retriever.jobs.items(paged)) == []
    assert await retriever.is_alive()
    assert await retriever.metrics() is not None
