"""Output while it runs, on the worker's side: what is told of it, when, and that nobody waits for it."""

import asyncio
import uuid

import pytest

from consumer import live_output
from consumer.live_output import LiveOutput
from shared.broker.outgoing import Outgoing
from shared.broker.topology import LARGE_REPORT_BYTES, LARGE_RESULTS, RESULTS
from shared.errors import BrokerUnavailable, MessageTooLarge
from shared.kinds.command import MAX_OUTPUT_BYTES, OutputSnapshot, OutputText
from shared.messages import JobMessage, Report


class FakePublisher:
    """Keeps what is sent, with the confirm that each waits for; may have no connection."""

    def __init__(self) -> None:
        self.sent: list[tuple[Outgoing, asyncio.Future[None]]] = []
        self.is_away = False

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        if self.is_away:
            raise BrokerUnavailable("away")
        answer = asyncio.get_running_loop().create_future()
        self.sent.append((message, answer))
        return answer

    @property
    def reports(self) -> list[Report]:
        return [Report.decode(message.body) for message, _ in self.sent]

    @property
    def texts(self) -> list[str]:
        return [report.output.stdout.text for report in self.reports if report.output]

    async def answer(self, error: Exception | None = None) -> None:
        """Let the broker answer what was sent last, and hear what follows from that."""
        _, answer = self.sent[-1]
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
        # The pause behind a short message is over in a moment.
        await asyncio.sleep(0.02)


JOB = JobMessage(id=uuid.uuid4(), kind="command", args={"argv": ["ls"]}, run=2, attempt=3, token="of-run-2")


def snapshot(text: str) -> OutputSnapshot:
    return OutputSnapshot(sequence=1, stdout=OutputText(text=text, bytes=len(text)))


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> FakePublisher:
    monkeypatch.setattr(live_output, "_RETRY_SECONDS", 0.01)
    return FakePublisher()


@pytest.fixture
def live(publisher: FakePublisher) -> LiveOutput:
    return LiveOutput(publisher, worker="w")  # type: ignore[arg-type]


async def test_a_snapshot_goes_with_a_report_that_the_attempt_runs_and_the_token_of_its_run(
    publisher: FakePublisher, live: LiveOutput
) -> None:
    with live.of(JOB) as on_output:
        on_output(snapshot("half"))

    [report] = publisher.reports
    assert (report.job_id, report.run, report.attempt, report.state, report.worker) == (
        JOB.id,
        2,
        3,
        "running",
        "w",
    )
    assert report.started_at is not None and report.ended_at is None
    assert report.output is not None and report.output.stdout == OutputText(text="half", bytes=4)
    assert report.job is not None and (report.job.token, report.job.args) == ("of-run-2", JOB.args)
    assert publisher.sent[0][0].routing_key == "command.interactive.running"


async def test_of_the_snapshots_that_come_before_a_confirm_only_the_newest_follows(
    publisher: FakePublisher, live: LiveOutput
) -> None:
    with live.of(JOB) as on_output:
        for text in ("a", "ab", "abc", "abcd"):
            on_output(snapshot(text))
        assert publisher.texts == ["a"]
        await publisher.answer()
        assert publisher.texts == ["a", "abcd"]
        await publisher.answer()
        assert publisher.texts == ["a", "abcd"]
        on_output(snapshot("abcde"))

    assert publisher.texts == ["a", "abcd", "abcde"]


async def test_the_larger_a_report_is_the_longer_the_next_one_waits(
    publisher: FakePublisher, live: LiveOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = JOB.model_copy(update={"args": {"argv": ["cat"], "stdin": "x" * 200_000}})
    monkeypatch.setattr(live_output, "_BYTES_PER_SECOND", 1_000)
    with live.of(large) as on_output:
        on_output(snapshot("a"))
        await publisher.answer()
        on_output(snapshot("ab"))
        await asyncio.sleep(0.05)
        assert publisher.texts == ["a"]

    # At the end it comes all the same.
    assert publisher.texts == ["a", "ab"]


async def test_the_last_snapshot_is_told_when_the_attempt_ends_and_nothing_after_it(
    publisher: FakePublisher, live: LiveOutput
) -> None:
    with live.of(JOB) as on_output:
        on_output(snapshot("a"))
        on_output(snapshot("ab"))
        on_output(snapshot("abc"))
    on_output(snapshot("abcd"))
    assert publisher.texts == ["a", "abc"]
    await publisher.answer(BrokerUnavailable("lost"))
    publisher.sent.pop()
    await publisher.answer(BrokerUnavailable("lost"))
    await asyncio.sleep(0.03)

    assert publisher.texts == ["a"]


async def test_an_attempt_that_ends_while_the_broker_is_away_tells_nothing_later(
    publisher: FakePublisher, live: LiveOutput
) -> None:
    publisher.is_away = True
    with live.of(JOB) as on_output:
        on_output(snapshot("a"))
    publisher.is_away = False
    await asyncio.sleep(0.03)

    assert publisher.texts == []


async def test_what_a_broker_that_was_away_did_not_take_is_told_when_it_is_back(
    publisher: FakePublisher, live: LiveOutput
) -> None:
    publisher.is_away = True
    with live.of(JOB) as on_output:
        on_output(snapshot("a"))
        on_output(snapshot("ab"))
        publisher.is_away = False
        async with asyncio.timeout(5):
            while not publisher.sent:
                await asyncio.sleep(0.005)
        await publisher.answer(BrokerUnavailable("no confirm"))
        async with asyncio.timeout(5):
            while len(publisher.sent) < 2:
                await asyncio.sleep(0.005)

    assert publisher.texts == ["ab", "ab"]


async def test_what_the_broker_will_never_take_is_told_no_more(
    publisher: FakePublisher, live: LiveOutput
) -> None:
    with live.of(JOB) as on_output:
        on_output(snapshot("large"))
        await publisher.answer(MessageTooLarge("no"))
        await asyncio.sleep(0.03)
        assert publisher.texts == ["large"]
        on_output(snapshot("small"))

    assert publisher.texts == ["large", "small"]


async def test_each_snapshot_is_later_than_those_of_a_worker_that_died_with_the_attempt(
    publisher: FakePublisher, live: LiveOutput
) -> None:
    for _ in range(2):
        with live.of(JOB) as on_output:
            for _ in range(3):
                on_output(snapshot("a"))
                await publisher.answer()

    sequences = [report.output.sequence for report in publisher.reports if report.output]
    first, second = sequences[:3], sequences[3:]
    assert first == sorted(set(first)) and second == sorted(set(second))
    # The clock of the second goes on from that of the first.
    assert second[0] >= first[0]


@pytest.mark.parametrize("char", ["x", "\x01", "é"])
async def test_the_longest_output_travels_as_large_reports_do(
    publisher: FakePublisher, live: LiveOutput, char: str
) -> None:
    half = char * (MAX_OUTPUT_BYTES // 2)
    stream = OutputText(text=half, tail=half, bytes=10**9, omitted_bytes=10**8)
    with live.of(JOB) as on_output:
        on_output(snapshot("short"))
        await publisher.answer()
        on_output(OutputSnapshot(sequence=1, stdout=stream, stderr=stream))

    (short, _), (long, _) = publisher.sent
    assert (short.exchange, long.exchange) == (RESULTS, LARGE_RESULTS)
    assert len(short.body) < LARGE_REPORT_BYTES < len(long.body) < 2_000_000
