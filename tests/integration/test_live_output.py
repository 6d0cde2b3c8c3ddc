"""Output of a running attempt on its way: from the worker, over RabbitMQ, to the store; on both stores."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from consumer.live_output import LiveOutput
from consumer.settlement import report_message
from producer.records import JobOutput
from producer.store import outbox, outputs, submissions
from producer.store.database import Database
from shared.kinds.command import MAX_OUTPUT_BYTES, OutputSnapshot, OutputText
from shared.messages import JobMessage
from shared.outcomes import Cancelled, Failed, Outcome, Succeeded
from shared.states import JobState
from tests.support.factories import NOON, TOKENS, make_job, make_report
from tests.support.recording_ledger import Ledger, open_ledger
from tests.support.waiting import eventually


@pytest.fixture
async def ledger(store: Database, vhost_url: str) -> AsyncIterator[Ledger]:
    """Yield a ledger whose recorder runs."""
    async with open_ledger(store, vhost_url) as opened, opened.recording():
        yield opened


@pytest.fixture
def live(ledger: Ledger) -> LiveOutput:
    return LiveOutput(ledger.publisher, worker="w")


def queued(ledger: Ledger) -> JobMessage:
    """Store a command that is queued, and return the message that the relay has published."""
    job = make_job(kind="command", args={"argv": ["make"]}, host="")
    ledger.store.write(submissions.insert_jobs, [job])
    ledger.store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    return JobMessage(id=job.id, kind=job.kind, args=dict(job.args), token=TOKENS.of(job.id, 1))


def snapshot(said: str) -> OutputSnapshot:
    return OutputSnapshot(sequence=0, stdout=OutputText(text=said, bytes=len(said)))


def output(ledger: Ledger, job_id: UUID) -> JobOutput:
    return ledger.store.read(outputs.find_output, job_id)


async def written(ledger: Ledger, job_id: UUID, said: str) -> JobOutput:
    """Return the output of a job once its standard output is this."""

    async def look() -> JobOutput | None:
        found = output(ledger, job_id)
        return found if found.stdout.text == said else None

    return await eventually(look)


async def test_what_a_command_writes_is_seen_while_it_runs_and_the_end_has_all_of_it(
    ledger: Ledger, live: LiveOutput
) -> None:
    job = queued(ledger)

    with live.of(job) as on_output:
        for said in ("one\n", "one\ntwo\n"):
            on_output(snapshot(said))
            found = await written(ledger, job.id, said)
            assert (found.run, found.attempt, found.is_running) == (1, 1, True)
            running = ledger.job(job.id)
            assert (running.state, [each.worker for each in running.attempts]) == ("running", ["w"])
    whole = OutputText(text="one\ntwo\nthree\n", bytes=14)
    await ledger.settle(job, Succeeded({"exit_code": 0, "stdout": whole.model_dump()}))

    found = await written(ledger, job.id, whole.text)
    assert (found.is_running, ledger.job(job.id).state) == (False, JobState.SUCCEEDED)


async def test_a_large_snapshot_arrives_and_changes_nothing_behind_the_end(
    ledger: Ledger, live: LiveOutput
) -> None:
    job = queued(ledger)
    large = OutputText(text="x" * MAX_OUTPUT_BYTES, bytes=MAX_OUTPUT_BYTES)
    with live.of(job) as on_output:
        on_output(OutputSnapshot(sequence=0, stdout=large, stderr=large))
        assert (await written(ledger, job.id, large.text)).stderr == large
    await ledger.settle(job, Succeeded({"stdout": {"text": "done"}}))
    await written(ledger, job.id, "done")

    with live.of(job) as on_output:
        on_output(OutputSnapshot(sequence=0, stdout=large, stderr=large))
        on_output(snapshot("late"))
    await ledger.all_recorded()

    assert output(ledger, job.id).stdout.text == "done"


@pytest.mark.parametrize("outcome", [Cancelled(), Failed("worker_crashed", "It died.", transient=True)])
async def test_what_was_written_before_an_end_without_a_result_is_kept(
    ledger: Ledger, live: LiveOutput, outcome: Outcome
) -> None:
    job = queued(ledger)
    with live.of(job) as on_output:
        on_output(snapshot("half"))
        await written(ledger, job.id, "half")

    await ledger.settle(job, outcome)
    await ledger.job_in(job.id, JobState.CANCELLED, JobState.DELAYED)

    found = output(ledger, job.id)
    assert (found.stdout.text, found.attempt, found.is_running) == ("half", 1, False)


async def test_the_output_of_an_attempt_that_is_made_again_is_seen_anew(
    ledger: Ledger, live: LiveOutput
) -> None:
    job = queued(ledger)
    with live.of(job) as on_output:
        on_output(snapshot("of the worker that died"))
        await written(ledger, job.id, "of the worker that died")

    # The broker delivers the same attempt to another worker.
    with live.of(job) as on_output:
        on_output(snapshot("anew"))
        await written(ledger, job.id, "anew")


async def test_a_stranger_without_the_token_changes_no_output(ledger: Ledger, live: LiveOutput) -> None:
    job = queued(ledger)
    with live.of(job) as on_output:
        on_output(snapshot("ours"))
        await written(ledger, job.id, "ours")

    report = make_report(job.id, JobState.RUNNING, kind="command")
    forged = report.model_copy(update={"output": OutputSnapshot(sequence=2**53)})
    await ledger.publisher.publish(report_message(job.model_copy(update={"token": None}), forged))
    await ledger.have_put_aside(1, reason="token")

    assert output(ledger, job.id).stdout.text == "ours"
