"""Output of a running attempt on its way: from the worker, over RabbitMQ, to the store; on both stores."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from consumer.live_output import LiveOutput
from consumer.settlement import report_message
from producer.records import JobOutput
from producer.store import outbox, outputs, submissions
from producer.store.database import Database
from shared.broker.outgoing import Outgoing
from shared.broker.topology import CANCELLED_STREAM, DEFAULT, JOBS, stored_key
from shared.events import Cancellation
from shared.kinds.command import MAX_OUTPUT_BYTES, OutputSnapshot, OutputText
from shared.kinds.registry import Lane
from shared.messages import JOB_TYPE, JobMessage
from shared.outcomes import Cancelled, Failed, Outcome, Succeeded
from shared.states import JobState
from tests.support.environment import clean_environment
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


@contextmanager
def worker_of_commands(amqp_url: str, port: int, log: Path) -> Iterator[None]:
    """Run a worker in a process of its own while inside."""
    environment = {
        **clean_environment(),
        "RETRIEVER_AMQP_URL": amqp_url,
        "RETRIEVER_HEALTH_PORT": str(port),
        "RETRIEVER_COMMAND_SHELL": "true",
        "RETRIEVER_WORKER_GRACE_SECONDS": "0",
    }
    command = [sys.executable, "-m", "consumer", "worker", "--kinds", "command"]
    with log.open("wb") as file, subprocess.Popen(command, env=environment, stderr=file) as worker:
        try:
            yield
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)


def queued(ledger: Ledger, *, shell: str = "make") -> JobMessage:
    """Store a command that is queued, and return the message that the relay has published."""
    job = make_job(kind="command", args={"shell": shell}, host="")
    ledger.store.write(submissions.insert_jobs, [job])
    ledger.store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    return JobMessage(id=job.id, kind=job.kind, args=dict(job.args), token=TOKENS.of(job.id, 1))


def snapshot(said: str) -> OutputSnapshot:
    return OutputSnapshot(sequence=0, stdout=OutputText(text=said, bytes=len(said)))


def output(ledger: Ledger, job_id: UUID) -> JobOutput:
    return ledger.store.read(outputs.find_output, job_id, project=None)


async def written(ledger: Ledger, job_id: UUID, said: str) -> JobOutput:
    """Return the output of a job once its standard output is this."""

    async def look() -> JobOutput | None:
        found = output(ledger, job_id)
        return found if found.stdout.text == said else None

    # A worker has to start, beside all else that this machine does.
    return await eventually(look, deadline_seconds=60.0)


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


async def test_a_worker_tells_of_a_command_while_it_runs_and_of_its_last_words_when_it_is_cancelled(
    ledger: Ledger, vhost_url: str, unused_port: int, tmp_path: Path
) -> None:
    shell = "trap 'echo sorry; exit 1' TERM; echo one; while :; do sleep 0.1; done"
    job = queued(ledger, shell=shell)
    key = stored_key("command", Lane.INTERACTIVE)
    await ledger.publisher.publish(Outgoing(JOBS, key, job.encode(), JOB_TYPE, str(job.id)))

    with worker_of_commands(vhost_url, unused_port, tmp_path / "worker.log"):
        assert (await written(ledger, job.id, "one\n")).is_running
        order = Cancellation(job_id=job.id, run=1).encode()
        await ledger.publisher.publish(Outgoing(DEFAULT, CANCELLED_STREAM, order, "cancellation"))
        await ledger.job_in(job.id, JobState.CANCELLED)

    found = output(ledger, job.id)
    assert (found.stdout.text, found.is_running) == ("one\nsorry\n", False)


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
