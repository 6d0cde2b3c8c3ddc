"""A wall clock that is set back holds up nothing that a dead ledger has leased."""

from datetime import timedelta

from producer.parking import NewOperation, OperationAction, ParkedFilter
from producer.store import bulk_actions, events, leader, outbox, recording, submissions
from producer.store.database import Database
from shared.identity import new_id
from shared.states import JobState
from tests.support.factories import NOON, make_job, make_report

AN_HOUR_AGO = NOON - timedelta(hours=1)
# The clocks of two machines differ by this much.
A_LITTLE_BEHIND = NOON - timedelta(seconds=20)


def test_a_job_that_was_claimed_before_a_step_back_is_claimed_again(store: Database) -> None:
    store.write(submissions.insert_jobs, [make_job(created_at=AN_HOUR_AGO)])
    store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=NOON)

    by_another_clock = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=A_LITTLE_BEHIND)
    after_the_step = store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=AN_HOUR_AGO)

    assert (len(by_another_clock), len(after_the_step)) == (0, 1)


def test_a_job_that_was_put_off_before_a_step_back_is_claimed(store: Database) -> None:
    job = make_job(created_at=AN_HOUR_AGO)
    store.write(submissions.insert_jobs, [job])
    store.write(outbox.release_claims, [job.id], retry_at=NOON + timedelta(seconds=1))

    assert len(store.write(outbox.claim_accepted, limit=10, lease_seconds=60, now=AN_HOUR_AGO)) == 1


def test_an_event_that_was_claimed_before_a_step_back_is_claimed_again(store: Database) -> None:
    job = make_job()
    store.write(submissions.insert_jobs, [job])
    store.write(recording.record_reports, [make_report(job.id, JobState.SUCCEEDED)], now=NOON)
    store.write(events.claim_events, limit=10, lease_seconds=60, now=NOON)

    by_another_clock = store.write(events.claim_events, limit=10, lease_seconds=60, now=A_LITTLE_BEHIND)
    after_the_step = store.write(events.claim_events, limit=10, lease_seconds=60, now=AN_HOUR_AGO)

    assert (len(by_another_clock), len(after_the_step)) == (0, 1)


def test_a_turn_that_was_taken_before_a_step_back_is_free(store: Database) -> None:
    def take(holder: str, now: timedelta) -> bool:
        return store.write(leader.hold_lease, "walk", holder=holder, seconds=60, now=NOON + now)

    assert take("dead", timedelta())
    assert not take("alive", timedelta(seconds=-20))
    assert take("alive", timedelta(hours=-1))
    # Who took it keeps it by the new clock.
    assert not take("third", timedelta(hours=-1, seconds=10))
    assert take("third", timedelta(hours=-1, seconds=61))


def test_an_operation_goes_on_after_a_step_back_at_its_rate(store: Database) -> None:
    jobs = [make_job() for _ in range(3)]
    store.write(submissions.insert_jobs, jobs)
    store.write(
        recording.record_reports, [make_report(job.id, JobState.PARKED) for job in jobs], now=AN_HOUR_AGO
    )
    new = NewOperation(new_id(), OperationAction.REDRIVE, {}, 1, "ann", NOON, project=None)
    store.write(bulk_actions.start_operation, new, ParkedFilter())
    store.write(bulk_actions.make_page, now=NOON)

    due_at = store.read(bulk_actions.next_page_at, now=AN_HOUR_AGO)
    made = store.write(bulk_actions.make_page, now=AN_HOUR_AGO)
    too_early = store.write(bulk_actions.make_page, now=AN_HOUR_AGO)
    following_at = store.read(bulk_actions.next_page_at, now=AN_HOUR_AGO)

    assert due_at == AN_HOUR_AGO
    assert made is not None and made.operation.done == 2
    assert (too_early, following_at) == (None, AN_HOUR_AGO + timedelta(seconds=1))
