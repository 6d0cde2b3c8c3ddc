"""A big batch through the whole service."""

import uuid
from pathlib import Path

from tests.support.client import Client

MEBIBYTE = 1_048_576


async def test_ten_thousand_urls_in_one_request_all_finish_in_flat_memory(
    client: Client, tmp_path: Path
) -> None:
    run = uuid.uuid4()
    # The first batch pays for caches and pools, and fills the pages of relay and recorder;
    # what comes after must not grow with the number of jobs.
    warm_up = await client.submit_batch([f"/ok/{run}-warm-{n}" for n in range(6_000)], kind="check")
    await client.finished_batch(warm_up["id"], deadline_seconds=60)
    before = {process: client.system.memory_bytes(process) for process in ("api", "ledger")}

    batch = await client.submit_batch([f"/ok/{run}-{n}" for n in range(10_000)], kind="check")
    done = await client.finished_batch(batch["id"], deadline_seconds=180)

    assert batch["total"] == 10_000
    assert {state: n for state, n in done["counts"].items() if n} == {"succeeded": 10_000}
    growth = {process: client.system.memory_bytes(process) - bytes_ for process, bytes_ in before.items()}
    print({process: f"{bytes_ / MEBIBYTE:.1f} MiB" for process, bytes_ in growth.items()})  # noqa: T201
    assert max(growth.values()) < 40 * MEBIBYTE
    verdicts = [line.split(",")[4] for line in await results_csv(client, batch["id"])]
    assert verdicts == ["ok"] * 10_000


async def test_a_page_with_eighty_fragments_and_a_url_a_hundred_times_are_two_requests(
    client: Client,
) -> None:
    page, often = f"/ok/{uuid.uuid4()}", f"/ok/{uuid.uuid4()}"
    places = ["top", *(f"place-{n}" for n in range(79))]
    items = [{"url": client.site(f"{page}#{place}")} for place in places]
    batch = {
        "kind": "check",
        "defaults": {"assertions": {"fragment": True}},
        "items": [*items, *([{"url": client.site(often)}] * 100)],
    }

    accepted = (await client.http.post("/batches", json=batch)).json()
    done = await client.finished_batch(accepted["id"], deadline_seconds=60)

    assert (accepted["total"], accepted["repeats"]) == (180, 178)
    assert done["counts"]["succeeded"] == 180
    hits = await client.hits()
    assert (hits[page], hits[often]) == (1, 1)
    verdicts = [line.split(",")[4] for line in await results_csv(client, accepted["id"])]
    assert verdicts == ["ok"] + ["broken"] * 79 + ["ok"] * 100


async def test_ten_thousand_lines_of_one_url_are_asked_once_in_flat_memory(client: Client) -> None:
    # The first pages pay for caches and pools.
    warm_up = await client.submit_batch([f"/ok/{uuid.uuid4()}"] * 6_000, kind="check")
    await client.finished_batch(warm_up["id"], deadline_seconds=60)
    path = f"/ok/{uuid.uuid4()}"
    before = {process: client.system.memory_bytes(process) for process in ("api", "ledger")}

    batch = await client.submit_batch([path] * 10_000, kind="check")
    done = await client.finished_batch(batch["id"], deadline_seconds=120)

    assert (batch["repeats"], done["counts"]["succeeded"]) == (9_999, 10_000)
    assert (await client.hits())[path] == 1
    growth = {process: client.system.memory_bytes(process) - bytes_ for process, bytes_ in before.items()}
    print({process: f"{bytes_ / MEBIBYTE:.1f} MiB" for process, bytes_ in growth.items()})  # noqa: T201
    assert max(growth.values()) < 40 * MEBIBYTE


async def results_csv(client: Client, batch_id: str) -> list[str]:
    async with client.http.stream("GET", f"/batches/{batch_id}/results?format=csv") as answer:
        assert answer.status_code == 200
        lines = [line async for line in answer.aiter_lines()]
    return lines[1:]
