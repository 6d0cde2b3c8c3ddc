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


async def results_csv(client: Client, batch_id: str) -> list[str]:
    async with client.http.stream("GET", f"/batches/{batch_id}/results?format=csv") as answer:
        assert answer.status_code == 200
        lines = [line async for line in answer.aiter_lines()]
    return lines[1:]
