"""SQLite's one writer: threads of a process take turns, and who is in haste has the next one."""

import asyncio
import threading
from pathlib import Path

from producer.store.database import Database
from tests.support.waiting import eventually


async def test_who_is_in_haste_writes_before_all_who_wait(tmp_path: Path) -> None:
    store, had = Database.open(f"sqlite:///{tmp_path / 'store.db'}"), list[str]()
    assert store._turns is not None
    waiters, has_begun, may_end = store._turns._condition._waiters, threading.Event(), threading.Event()  # type: ignore[attr-defined]

    def first(_: object) -> None:
        has_begun.set()
        assert may_end.wait(20)

    def write(name: str, database: Database) -> None:
        database.write(lambda _: had.append(name))

    async def wait() -> bool:
        return len(waiters) == 4

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(store.write, first))
        assert await asyncio.to_thread(has_begun.wait, 20)
        for name, database in [("a", store), ("b", store), ("hasty", store.in_haste), ("c", store)]:
            group.create_task(asyncio.to_thread(write, name, database))
        await eventually(wait)
        may_end.set()
    store.close()

    assert had[0] == "hasty"
    assert sorted(had[1:]) == ["a", "b", "c"]
