"""Pauses and queues on both stores: revisions that only grow, orders that are kept, and what is logged."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from producer.pausing import QueueObservation
from producer.store import audit, queues
from producer.store.database import Database
from tests.support.factories import NOON


def places(store: Database) -> set[tuple[str, str]]:
    return {(pause.kind, pause.lane) for pause in store.read(queues.read_pauses).items}


def test_orders_change_what_is_paused_and_are_logged_once(store: Database) -> None:
    assert (store.read(queues.read_pauses).revision, places(store)) == (0, set())

    for _ in range(2):
        store.write(queues.pause, "check", "*", by="ann", note="down", now=NOON)
    store.write(queues.resume, "check", "bulk", by="bob", note=None, now=NOON)

    (pause,) = store.read(queues.read_pauses).items
    assert (pause.kind, pause.lane, pause.since, pause.by, pause.note) == (
        "check",
        "interactive",
        NOON,
        "ann",
        "down",
    )
    log = store.read(audit.list_audit, target="kind/check", limit=9, after=None, project=None).records
    assert [(entry.action, entry.by, entry.details["lane"]) for entry in log] == [
        ("resumed", "bob", "bulk"),
        ("paused", "ann", "*"),
    ]


def test_every_order_has_a_greater_revision_whatever_the_clocks_say(store: Database) -> None:
    revisions = []
    for ahead in (0, 3_600, -3_600):
        store.write(queues.resume, "check", "*", by="ann", note=None, now=NOON + timedelta(seconds=ahead))
        revisions.append(store.read(queues.read_pauses).revision)

    # Microseconds since 1970, so that a store that was made anew goes on above.
    assert revisions == [
        int(NOON.timestamp() * 1e6),
        int((NOON + timedelta(hours=1)).timestamp() * 1e6),
        int((NOON + timedelta(hours=1)).timestamp() * 1e6) + 1,
    ]


def test_orders_at_once_are_all_kept(store: Database, database_url: str) -> None:
    other = Database.open(database_url)

    def order(number: int) -> None:
        chosen = store if number % 2 else other
        chosen.write(queues.pause, f"kind_{number}", "bulk", by="ann", note=None, now=NOON)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(order, range(20)))
    other.close()

    assert places(store) == {(f"kind_{number}", "bulk") for number in range(20)}
    assert store.read(queues.read_pauses).revision == int(NOON.timestamp() * 1e6) + 19


def test_a_queue_has_one_row_however_often_it_is_seen(store: Database) -> None:
    looks = [
        QueueObservation("jobs.check.bulk", "check", "bulk", ready, 2, NOON + timedelta(seconds=ready))
        for ready in range(3)
    ]
    for look in looks:
        store.write(queues.record_queues, [look])
    store.write(queues.record_queues, [])

    known = store.read(queues.circumstances, now=NOON)

    assert list(known.queues.values()) == looks[-1:]
    assert (known.last_seen_at, known.queue("check", "interactive")) == (NOON + timedelta(seconds=2), None)
