"""A client that openapi-python-client generates of the contract, against the running API, on both stores."""

import importlib
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from producer.api.contract import load_contract
from producer.store import recording
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import NOON, make_report

PACKAGE = "generated_client"
URL = "https://example.com/"
# What it does not know by itself, it takes for bytes: streams of lines, and fetched bodies.
STREAMS = (
    "*/*",
    "application/x-ndjson",
    "application/jsonl",
    "text/csv",
    "text/tab-separated-values",
    "text/plain",
)
LIMIT_SECONDS = 300

Use = Callable[[str], Any]


@pytest.fixture(scope="module")
def use(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Use]:
    """Yield what imports a module of the client: `models`, `api.jobs.get_job`."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(load_contract()))
    config = {"post_hooks": [], "content_type_overrides": dict.fromkeys(STREAMS, "application/octet-stream")}
    (folder / "config.json").write_text(json.dumps(config))
    options = [
        "--path",
        "openapi.json",
        "--config",
        "config.json",
        "--meta",
        "none",
        "--output-path",
        PACKAGE,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", *options, "--fail-on-warning"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def client(api: RunningApi, use: Use) -> Iterator[Any]:
    with use("client").Client(base_url=str(api.client.base_url), raise_on_unexpected_status=True) as made:
        yield made


def submission(use: Use, url: str = URL) -> Any:
    models = use("models")
    return models.CheckJobSubmission(
        kind=models.CheckJobSubmissionKind.CHECK,
        args=models.CheckArgs(url=url),
        retry=models.RetryOverride(max_attempts=2),
        labels=models.CheckJobSubmissionLabels.from_dict({"team": "docs"}),
    )


def test_a_job_is_submitted_read_and_listed(client: Any, use: Use) -> None:
    submitted = use("api.jobs.submit_job").sync(client=client, body=submission(use), idempotency_key="one")
    again = use("api.jobs.submit_job").sync_detailed(
        client=client, body=submission(use), idempotency_key="one"
    )
    read = use("api.jobs.get_job").sync(submitted.id, client=client)
    listed = use("api.jobs.list_jobs").sync(client=client, label=["team:docs"], state=read.state)

    assert again.parsed.id == submitted.id
    assert (read.args.to_dict()["url"], read.labels.to_dict(), read.result) == (URL, {"team": "docs"}, None)
    assert [job.id for job in listed.items] == [submitted.id]


def test_a_batch_is_submitted_and_counted(client: Any, use: Use) -> None:
    models = use("models")
    body = models.CheckBatchSubmission(
        kind=models.CheckBatchSubmissionKind.CHECK,
        defaults=models.CheckArgsPartial(timeout_seconds=5.0),
        items=[models.CheckArgsPartial(url=URL), models.CheckArgsPartial(url="no URL")],
    )

    batch = use("api.batches.submit_batch").sync(client=client, body=body)
    read = use("api.batches.get_batch").sync(batch.id, client=client)

    assert (read.total, read.counts["accepted"], read.rejected.count) == (1, 1, 1)


def test_a_parked_job_is_redriven_and_a_running_one_is_not(api: RunningApi, client: Any, use: Use) -> None:
    job = use("api.jobs.submit_job").sync(client=client, body=submission(use))
    parked = make_report(job.id, JobState.PARKED)
    api.store.write(recording.record_reports, [parked], now=NOON)
    redrive = use("api.parking_lot.redrive_job").sync

    groups = use("api.parking_lot.list_parked").sync(client=client)
    redriven = redrive(job.id, client=client)
    refused = redrive(job.id, client=client)

    assert [(group.reason, group.count) for group in groups.items] == [("http_503", 1)]
    assert (redriven.run, redriven.state.value) == (2, "accepted")
    assert [(attempt.outcome.value, attempt.reason) for attempt in redriven.attempts] == [
        ("failed_permanent", "http_503")
    ]
    assert isinstance(refused, use("models").Problem)
    assert refused.status == 409


def test_an_error_is_a_problem_with_the_field_at_fault(client: Any, use: Use) -> None:
    wrong = use("api.jobs.submit_job").sync(client=client, body=submission(use, url="ftp://example.com/"))
    unknown = use("api.jobs.get_job").sync(uuid.uuid4(), client=client)

    assert (wrong.status, [field.loc for field in wrong.errors]) == (400, ["/args/url"])
    assert unknown.status == 404
