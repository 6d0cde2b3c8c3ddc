"""The dashboard in a browser: one service, one browser, several walks; `tests/browser/walk.py` walks them."""

import asyncio
import fcntl
import json
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import UUID

import pytest

from deploy.local.packages import require, run_installer
from producer.ledger.figures import FigureKeeper
from producer.records import JobFilter
from producer.store import queries, recording
from producer.store.database import Database, RetryingStore
from shared.clock import utc_now
from shared.settings import Settings
from shared.states import JobState
from tests.support.api import RunningApi, running_api
from tests.support.documents import ROOT
from tests.support.factories import make_report

INSTALL_SECONDS = 300
WALK_SECONDS = 180
WALK = Path(__file__).parents[1] / "browser" / "walk.py"
NAMES = re.findall(r"^@walk\ndef (\w+)", WALK.read_text(), re.MULTILINE)
EVIL = "\"'><script>window.hit=1</script><img src=x onerror=window.hit=1>"
TICK_SECONDS = 0.2


@pytest.fixture(scope="module")
def python() -> Path:
    """Return the Python of the environment that has Playwright; it is made if it is not there."""
    environment = ROOT / ".run" / "browser"
    ready, lock = environment / ".synced", ROOT / "tests" / "browser" / "Pipfile.lock"
    environment.parent.mkdir(exist_ok=True)
    with (environment.parent / "browser.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not ready.exists() or ready.stat().st_mtime < lock.stat().st_mtime:
            command = [str(ROOT / "deploy/local/setup-beside"), "tests/browser", ".run/browser"]
            run_installer(command, timeout_seconds=INSTALL_SECONDS)
    return environment / "bin" / "python"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Yield an API with some jobs, and something that works on those that are handed in."""
    database = tmp_path_factory.mktemp("browser") / "retriever.db"
    with running_api(Settings(database_url=f"sqlite:///{database}")) as running:
        _fill(running)
        stop = threading.Event()
        worker = threading.Thread(target=_work, args=(running.store, stop))
        worker.start()
        yield running
        stop.set()
        worker.join()


@pytest.fixture(scope="module")
def walked(api: RunningApi, python: Path) -> Mapping[str, str | None]:
    """Return what was wrong in each walk."""
    chromium = require("chromium", "chromium", places=["/usr/bin", "/usr/local/bin"])
    command = [str(python), "-m", "tests.browser.walk", f"http://127.0.0.1:{api.port}", str(chromium)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=WALK_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {each["name"]: each["wrong"] for each in told}


@pytest.mark.parametrize("name", NAMES)
def test_walk(walked: Mapping[str, str | None], name: str) -> None:
    assert name in walked
    assert walked[name] is None, walked[name]


def _fill(api: RunningApi) -> None:
    def submit(url: str, **fields: object) -> UUID:
        document = {"kind": "check", "args": {"url": url}, **fields}
        answer = api.client.post("/jobs", json=document)
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["id"])

    evil = submit(f"https://evil.example/{EVIL}", ref=EVIL, labels={"evil": EVIL[:60]})
    hop = {"method": EVIL, "url": EVIL, "status": 503, "seconds": 1.0, "ip": EVIL, "location": EVIL}
    result = {"verdict": EVIL, "explanation": EVIL, "hops": [hop], EVIL: EVIL}
    reports = [
        make_report(
            evil,
            JobState.PARKED,
            started_at=utc_now(),
            reason=EVIL,
            explanation=EVIL,
            result=result,
            worker=EVIL,
        )
    ]
    for place in range(5):
        many = submit(f"https://many.example/{place}")
        reports.append(make_report(many, JobState.PARKED, started_at=utc_now(), reason="timeout"))
    api.store.write(recording.record_reports, reports, now=utc_now())
    headers = {"Retriever-Actor": EVIL}
    job = {"kind": "check", "args": {"url": "https://example.com/"}}
    schedule = {"name": "nightly", "cron": "0 3 * * *", "job": job}
    for path, document in (
        ("/kinds/command/pause", {"note": EVIL}),
        ("/schedules", schedule),
        ("/batches", {"kind": "check", "items": [{"url": f"https://batch.example/{EVIL}"}, {"url": EVIL}]}),
    ):
        answer = api.client.post(path, json=document, headers=headers)
        assert answer.is_success, answer.text


def _work(store: Database, stop: threading.Event) -> None:
    """Do what ledger and worker do: count, and end some jobs, of one host when the walk says so."""
    keeper = FigureKeeper(store=RetryingStore(store), depths=dict)
    while not stop.wait(TICK_SECONDS):
        waiting = {
            host: _waiting(store, host) for host in ("finish.example", "hold.example", "release.example")
        }
        done = waiting["finish.example"]
        if waiting["release.example"]:
            done += waiting["hold.example"]
        hop = {"method": "GET", "url": "https://finish.example/me", "status": 200, "seconds": 0.1}
        result = {"verdict": "ok", "hops": [hop]}
        reports = [
            make_report(each, JobState.SUCCEEDED, started_at=utc_now(), result=result) for each in done
        ]
        store.write(recording.record_reports, reports, now=utc_now())
        asyncio.run(keeper.count())


def _waiting(store: Database, host: str) -> list[UUID]:
    asked = JobFilter(state=JobState.ACCEPTED, host=host)
    found = store.read(queries.search_jobs, asked, project=None, limit=10, after=None)
    return [job.id for job in found.records]
