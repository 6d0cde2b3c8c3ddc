"""Jobs that their hosts hold: put aside, released in turn, given back by whatever ends them."""

import random
import string
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from producer.flows import Flows
from producer.hosts import HORIZON_SECONDS, HostLimits, HostState
from producer.records import ClaimedJob, NewJob
from producer.store import endings, hosts, outbox, parking, queries, recording, submissions
from producer.store.database import Database
from producer.store.hosts import HostTurns
from producer.store.schema import jobs
from producer.store.sql import POSTGRESQL, read_in_order
from shared.hosts import HostLimit, NamedLimit
from shared.kinds.registry import Lane
from shared.messages import HostWord, Report
from shared.states import JobState
from tests.support.factories import NOON, make_batch, make_job, make_report

LEASE = timedelta(seconds=60)
TWO_AT_ONCE = HostLimit(2)


def make_turns(limit: HostLimit = TWO_AT_ONCE, *named: NamedLimit) -> HostTurns:
    return HostTurns(HostLimits(limit, named))


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def store_batch(
    store: Database, count: int, *, host: str = "a.example", lane: Lane = Lane.BULK
) -> list[NewJob]:
    batch = make_batch()
    new = [make_job(host=host, lane=lane, batch_id=batch.id) for _ in range(count)]
    store.write(submissions.insert_batch, batch, new)
    return new


def claim(store: Database, turns: HostTurns, *, at: datetime = NOON, limit: int = 100) -> list[ClaimedJob]:
    """Claim as a relay does: what is held first."""
    held = store.write(outbox.claim_held, turns, limit=limit, lease_seconds=60, now=at)
    ready = store.write(
        outbox.claim_accepted, limit=limit, lease_seconds=60, now=at, turns=turns, flows=Flows()
    )
    return [*held, *ready]


def ids(claimed: Sequence[ClaimedJob | NewJob]) -> list[UUID]:
    return [job.id for job in claimed]


def report(store: Database, *reports: Report, at: datetime = NOON) -> None:
    store.write(recording.record_reports, list(reports), now=at, failures_to_open=10)


def end(store: Database, *job_ids: UUID, at: datetime = NOON) -> None:
    report(store, *(make_report(job_id, JobState.SUCCEEDED) for job_id in job_ids), at=at)


def state_of(store: Database, name: str = "a.example") -> HostState:
    found = store.read(hosts.get_host, name)
    assert found is not None
    return found.state


def test_jobs_beyond_the_limit_of_their_host_are_held_and_released_in_their_order(store: Database) -> None:
    turns, new = make_turns(), store_batch(store, 5)

    first = claim(store, turns)
    assert ids(first) == ids(new[:2])
    assert (state_of(store).in_flight, state_of(store).waiting) == (2, 3)
    assert claim(store, turns) == []

    end(store, first[0].id)
    assert ids(claim(store, turns)) == ids(new[2:3])
    end(store, first[1].id, new[2].id)
    assert ids(claim(store, turns)) == ids(new[3:])
    assert (state_of(store).in_flight, state_of(store).waiting) == (2, 0)


def test_a_held_job_is_accepted_to_everybody_else(store: Database) -> None:
    new = store_batch(store, 5)
    claim(store, make_turns())

    held = store.read(queries.get_job, new[4].id, project=None)
    batch = store.read(queries.get_batch, new[4].batch_id or UUID(int=0), project=None)

    assert held.state is JobState.ACCEPTED
    assert batch.counts == {JobState.ACCEPTED: 5}


def test_a_host_that_is_asked_once_leaves_no_row(store: Database) -> None:
    turns = make_turns(HostLimit(8, 20))
    batch = make_batch()
    new = [make_job(host=f"h{number}.example", lane=Lane.BULK, batch_id=batch.id) for number in range(50)]
    store.write(submissions.insert_batch, batch, new)

    claimed = claim(store, turns)

    assert ids(claimed) == ids(new)
    assert store.read(hosts.list_hosts, after=None, limit=10) == []


def test_a_host_whose_jobs_come_on_several_pages_is_tracked_from_the_second_on(store: Database) -> None:
    turns = make_turns(HostLimit(4))
    store_batch(store, 1)
    claim(store, turns)
    assert store.read(hosts.list_hosts, after=None, limit=10) == []

    store_batch(store, 1)
    claim(store, turns, at=later(1))

    assert state_of(store).in_flight == 1


def test_callbacks_to_one_victim_are_released_at_its_rate_by_all_ledgers_together(store: Database) -> None:
    batch = make_batch()
    hook = "https://victim.example/hook"
    new = [
        make_job(host=f"h{number}.example", lane=Lane.BULK, batch_id=batch.id, callback_url=hook)
        for number in range(300)
    ]
    store.write(submissions.insert_batch, batch, new)
    end(store, *ids(new))
    ledgers = [make_turns(HostLimit(8, 20)) for _ in range(3)]

    starts = list[float]()
    for step in range(30):
        at = step / 10
        for turns in ledgers:
            calls = claim(store, turns, at=later(at))
            assert {job.kind for job in calls} <= {"webhook"}
            starts += (
                at if job.starts_at is None else (job.starts_at - NOON).total_seconds() for job in calls
            )
            end(store, *ids(calls), at=later(at))

    # One each before a host is tracked, and what is due within the horizon of the last look.
    assert 55 <= len(starts) <= 60 + len(ledgers) + 20 * HORIZON_SECONDS
    fullest = max(sum(start <= each < start + 1 for each in starts) for start in starts)
    assert fullest <= 20 + len(ledgers)


def test_a_host_that_is_longer_than_any_name_holds_up_no_page(store: Database) -> None:
    # Of letters at random, because PostgreSQL compresses what goes into an index.
    host = "".join(random.Random(7).choices(string.ascii_lowercase, k=6_000))
    new = [*store_batch(store, 3, host=host), *store_batch(store, 3)]

    claimed = claim(store, make_turns(HostLimit(1, 1)))

    assert set(ids(claimed)) == {*ids(new[:3]), new[3].id}


def test_a_limit_of_run_time_holds_however_a_url_writes_the_host(store: Database) -> None:
    store.write(hosts.set_limit, "a.example", TWO_AT_ONCE, by="ann", now=NOON)
    store_batch(store, 5, host="a.example.")

    assert len(claim(store, make_turns(HostLimit()))) == 2


def test_a_rate_spaces_what_one_page_releases(store: Database) -> None:
    turns, new = make_turns(HostLimit(100, 20)), store_batch(store, 20)

    first = claim(store, turns)
    second = claim(store, turns, at=later(0.15))

    assert [job.starts_at for job in first] == [
        None,
        *(later(number * 0.05 * 1.07) for number in range(1, 4)),
    ]
    assert ids(second) == ids(new[4 : 4 + len(second)])
    assert second[0].starts_at == later(4 * 0.05 * 1.07)


def test_a_port_is_a_host_of_its_own(store: Database) -> None:
    turns = make_turns(HostLimit(1))
    for port in (8081, 8082):
        args = {"url": f"http://a.example:{port}/"}
        store.write(submissions.insert_jobs, [make_job(args=args) for _ in range(2)])

    claimed = claim(store, turns)

    assert [job.args["url"] for job in claimed] == ["http://a.example:8081/", "http://a.example:8082/"]
    names = [host.state.name for host in store.read(hosts.list_hosts, after=None, limit=10)]
    assert names == ["a.example:8081", "a.example:8082"]


def test_other_hosts_of_the_batch_go_on(store: Database) -> None:
    batch = make_batch()
    new = [
        make_job(
            host="slow.example" if number % 2 else f"h{number}.example", lane=Lane.BULK, batch_id=batch.id
        )
        for number in range(20)
    ]
    store.write(submissions.insert_batch, batch, new)

    claimed = claim(store, make_turns())

    assert len(claimed) == 12


def test_batches_and_single_jobs_take_turns_on_one_host_and_a_person_goes_first(store: Database) -> None:
    turns = make_turns(HostLimit(1))
    large, small = store_batch(store, 6), store_batch(store, 2)
    single = make_job(host="a.example", lane=Lane.BULK)
    store.write(submissions.insert_jobs, [single])
    (running,) = claim(store, turns)
    person = make_job(host="a.example")
    store.write(submissions.insert_jobs, [person])
    claim(store, turns)
    order = []
    for second in range(1, 7):
        end(store, running.id, at=later(second))
        (running,) = claim(store, turns, at=later(second))
        order.append(running.id)

    assert order[0] == person.id
    assert set(order[1:4]) == {large[1].id, small[0].id, single.id}
    assert order[4:] == [large[2].id, small[1].id]


@pytest.mark.parametrize("way", ["cancelled", "parked", "batch", "expired lease"])
def test_whatever_ends_a_released_job_gives_its_place_back(store: Database, way: str) -> None:
    turns, new = make_turns(HostLimit(1)), store_batch(store, 3)
    (first,) = claim(store, turns)
    store.write(outbox.mark_queued, [(first.id, 1)], now=NOON)

    match way:
        case "cancelled":
            store.write(endings.cancel_job, first.id, project=None, now=NOON)
        case "parked":
            report(store, make_report(first.id, JobState.PARKED))
        case "batch":
            endings.cancel_batch(store, first.batch_id or UUID(int=0), project=None, now=NOON)
        case _:
            end(store, first.id)

    waiting = 0 if way == "batch" else 2
    assert (state_of(store).in_flight, state_of(store).waiting) == (0, waiting)
    assert len(claim(store, turns)) == bool(waiting)
    assert new


def test_a_job_that_is_claimed_again_after_a_ledger_died_is_counted_once(store: Database) -> None:
    turns, new = make_turns(), store_batch(store, 3)
    claim(store, turns)

    again = claim(store, turns, at=NOON + LEASE * 1.1)

    assert ids(again) == ids(new[:2])
    assert state_of(store).in_flight == 2


def test_a_retry_gives_its_place_back_until_its_time_is_near(store: Database) -> None:
    turns, new = make_turns(HostLimit(1)), store_batch(store, 3)
    (first,) = claim(store, turns)
    # It is due five seconds after its end, one second past noon.
    report(store, make_report(first.id, JobState.DELAYED), at=later(1))
    (second,) = claim(store, turns, at=later(1))
    assert second.id == new[1].id

    end(store, second.id, at=later(5.8))
    assert claim(store, turns, at=later(5.8)) == []
    report(store, make_report(first.id, JobState.SUCCEEDED, attempt=2), at=later(6.2))
    assert ids(claim(store, turns, at=later(6.2))) == [new[2].id]


def test_a_redriven_job_is_counted_anew(store: Database) -> None:
    turns = make_turns(HostLimit(1))
    first, _ = store_batch(store, 2)
    claim(store, turns)
    report(store, make_report(first.id, JobState.PARKED))
    store.write(parking.redrive, first.id, now=NOON, project=None)

    assert len(claim(store, turns)) == 1
    assert (state_of(store).in_flight, state_of(store).waiting) == (1, 1)


def test_a_pause_that_a_host_asks_for_holds_for_all_ledgers(store: Database) -> None:
    turns, new = make_turns(HostLimit(4)), store_batch(store, 9)
    first = claim(store, turns)
    limited = make_report(first[0].id, JobState.DELAYED, reason="http_429")
    word = HostWord(host="a.example", too_many=1, pause_seconds=30.0)
    report(store, limited.model_copy(update={"asked": (word,)}), at=later(1))
    end(store, *ids(first[1:]), at=later(1))

    other = make_turns(HostLimit(4))
    assert claim(store, other, at=later(30.5)) == []
    assert ids(claim(store, other, at=later(31.1)))[:1] == [new[4].id]


def test_what_an_unproven_report_says_of_hosts_is_not_believed(store: Database) -> None:
    (job,) = store_batch(store, 1)
    word = HostWord(host="victim.example", too_many=1, pause_seconds=300.0)
    stranger = make_report(job.id, JobState.RUNNING).model_copy(update={"asked": (word,)})
    ended = make_report(job.id, JobState.SUCCEEDED).model_copy(update={"asked": (word,)})

    store.write(recording.record_reports, [stranger, ended], now=NOON, unproven={0, 1})
    store.write(recording.record_reports, [stranger], now=NOON)

    assert store.read(hosts.get_host, "victim.example") is None


def test_a_redirect_is_charged_to_the_host_that_it_leads_to_if_that_is_tracked(store: Database) -> None:
    turns = make_turns(HostLimit(8, 10))
    store_batch(store, 9, host="b.example")
    (job,) = store_batch(store, 1)
    claim(store, turns)
    words = (HostWord(host="a.example", good=1), HostWord(host="b.example", requests=3, good=3))
    ended = make_report(job.id, JobState.SUCCEEDED).model_copy(update={"asked": words})

    report(store, ended)
    assert state_of(store, "b.example").owed == 3
    # Two were released for 0 and 0.107 s; what the redirect took comes before the third.
    assert claim(store, turns, at=later(0.25)) == []
    assert state_of(store, "b.example").next_at == later(0.25 + 3 * 0.107)


def test_a_limit_that_is_set_at_run_time_holds_at_once_and_is_audited(store: Database) -> None:
    turns = make_turns(HostLimit())
    new = store_batch(store, 5)

    store.write(hosts.set_limit, "a.example", HostLimit(1, 0.5), by="ann", now=NOON)
    assert ids(claim(store, turns)) == ids(new[:1])

    store.write(hosts.set_limit, "a.example", None, by="ann", now=NOON)
    assert ids(claim(store, turns)) == ids(new[1:])


def test_a_host_without_work_is_forgotten_after_a_while(store: Database) -> None:
    turns = make_turns()
    store_batch(store, 2)
    claimed = claim(store, turns)
    assert store.write(hosts.forget_idle, now=later(120)) == 0

    end(store, *ids(claimed))

    assert store.write(hosts.forget_idle, now=later(30)) == 0
    assert store.write(hosts.forget_idle, now=later(120)) == 1


def test_places_that_nobody_gave_back_are_found_when_a_host_is_silent(store: Database) -> None:
    turns = make_turns()
    store_batch(store, 5)
    first, second = claim(store, turns)
    store.write(outbox.mark_queued, [(first.id, 1), (second.id, 1)], now=NOON)
    # As code that knows nothing of hosts does.
    with store.writing() as connection:
        connection.execute(jobs.update().where(jobs.c.id == first.id).values(state=JobState.SUCCEEDED))

    assert store.write(hosts.recount_stuck, now=later(30)) == []
    assert store.write(hosts.recount_stuck, now=later(120)) == ["a.example"]
    assert (state_of(store).in_flight, state_of(store).waiting) == (1, 3)
    assert len(claim(store, turns, at=later(121))) == 1


def test_a_claim_with_many_held_jobs_reads_none_of_them(store: Database) -> None:
    turns = make_turns(HostLimit(1))
    store_batch(store, 3_000)
    for _ in range(4):
        claim(store, turns, limit=1_000)
    statements: list[tuple[str, object]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.startswith("SELECT jobs."):
            statements.append((statement, parameters))

    end(store, store_batch(store, 1, host="b.example")[0].id)
    sa.event.listen(store._writer, "before_cursor_execute", note)
    claim(store, turns)
    sa.event.remove(store._writer, "before_cursor_execute", note)

    with store.writing() as connection:
        read_in_order(connection)
        explain = "EXPLAIN" if connection.dialect.name == POSTGRESQL else "EXPLAIN QUERY PLAN"
        plans = [
            str(connection.exec_driver_sql(f"{explain} {sql}", values).all())  # type: ignore[arg-type]
            for sql, values in statements
        ]
    assert plans
    assert not any("ix_jobs_state_id_kind" in plan or "Seq Scan on jobs" in plan for plan in plans)
    held = store.read(_count_held)
    assert held == state_of(store).waiting == 2_999


def _count_held(connection: sa.Connection) -> int:
    return connection.scalar(sa.select(sa.func.count()).where(jobs.c.held_for.is_not(None))) or 0
