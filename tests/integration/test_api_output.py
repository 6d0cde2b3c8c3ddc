"""Output over HTTP, on both stores: as a document, as plain text, unchanged, of jobs that have none."""

import uuid
from typing import Any
from uuid import UUID

import pytest

from producer.store import outbox, recording, submissions
from shared.clock import utc_now
from shared.kinds.command import OutputSnapshot, OutputText
from shared.states import JobState
from tests.support.api import RunningApi
from tests.support.factories import make_job, make_report

NOTHING = {"text": "", "tail": "", "bytes": 0, "omitted_bytes": 0}


def queued(api: RunningApi, kind: str = "command") -> UUID:
    job = make_job(kind=kind, args={"argv": ["make"]}, host="")
    api.store.write(submissions.insert_jobs, [job])
    api.store.write(outbox.mark_queued, [(job.id, 1)], now=utc_now())
    return job.id


def write(api: RunningApi, job_id: UUID, stdout: OutputText, *, sequence: int = 1) -> None:
    report = make_report(job_id, JobState.RUNNING, kind="command")
    output = OutputSnapshot(sequence=sequence, stdout=stdout)
    report = report.model_copy(update={"output": output})
    api.store.write(recording.record_reports, [report], now=utc_now())


def text(said: str) -> OutputText:
    return OutputText(text=said, bytes=len(said.encode()))


def test_a_job_that_has_written_nothing_has_an_empty_output(api: RunningApi) -> None:
    job_id = queued(api)

    answer = api.client.get(f"/jobs/{job_id}/output")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "job_id": str(job_id),
        "run": 1,
        "attempt": 0,
        "is_running": False,
        "updated_at": None,
        "stdout": NOTHING,
        "stderr": NOTHING,
    }
    assert api.client.get(f"/jobs/{job_id}/output?stream=stderr").text == ""


def test_a_client_that_asks_again_gets_what_is_new_and_else_nothing(api: RunningApi) -> None:
    job_id, url = queued(api), ""
    for sequence, said in enumerate(("one\n", "one\ntwo\n")):
        write(api, job_id, text(said), sequence=sequence)
        for url in (f"/jobs/{job_id}/output", f"/jobs/{job_id}/output?stream=stdout"):
            answer = api.client.get(url)
            again = api.client.get(url, headers={"If-None-Match": f'"other", {answer.headers["etag"]}'})

            shown = answer.text if "stream" in url else answer.json()["stdout"]["text"]
            assert shown == said
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == answer.headers["etag"]

    ended = {"exit_code": 0, "stdout": text("one\ntwo\nthree\n").model_dump()}
    report = make_report(job_id, JobState.SUCCEEDED, kind="command", result=ended)
    api.store.write(recording.record_reports, [report], now=utc_now())

    assert api.client.get(url).text == "one\ntwo\nthree\n"
    assert api.client.get(f"/jobs/{job_id}/output").json()["is_running"] is False


def test_one_stream_is_plain_text_that_no_browser_takes_for_anything_else(api: RunningApi) -> None:
    job_id = queued(api)
    said = "<script>alert(1)</script> \x1b[31mé\0\n"
    write(api, job_id, text(said))

    answer = api.client.get(f"/jobs/{job_id}/output?stream=stdout")

    assert answer.content == said.encode()
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["cache-control"] == "private, no-cache"
    # In JSON it is an escape.
    assert b"\\u001b[31m" in api.client.get(f"/jobs/{job_id}/output").content


def test_plain_text_says_where_something_is_left_out(api: RunningApi) -> None:
    job_id = queued(api)
    write(api, job_id, OutputText(text="begin", tail="end", bytes=1_234_575, omitted_bytes=1_234_567))

    answer = api.client.get(f"/jobs/{job_id}/output?stream=stdout")

    assert answer.text == "begin\n[1,234,567 bytes are left out here]\nend"


@pytest.mark.parametrize("stream", ["", "both", "STDOUT"])
def test_a_stream_that_no_program_has_is_refused_by_name(api: RunningApi, stream: str) -> None:
    answer = api.client.get(f"/jobs/{queued(api)}/output", params={"stream": stream})

    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"loc": "/query/stream", "msg": "It must be one of: stdout, stderr"}]


def test_a_job_of_a_kind_that_writes_nothing_says_so(api: RunningApi) -> None:
    answer = api.client.get(f"/jobs/{queued(api, 'check')}/output")

    assert (answer.status_code, answer.json()["type"]) == (404, "urn:retriever:output-not-found")
    assert answer.json()["detail"] == "Jobs of kind check write no output; see the job's result."


@pytest.mark.parametrize("job_id", ["01a203f7-7001-7400-922d-0a315fe2b95f", "nonsense"])
def test_an_unknown_job_has_no_output(api: RunningApi, job_id: str) -> None:
    answer = api.client.get(f"/jobs/{job_id}/output")

    assert (answer.status_code, answer.json()["type"]) == (404, "urn:retriever:job-not-found")


def test_head_says_what_get_would(api: RunningApi) -> None:
    job_id = queued(api)
    write(api, job_id, text("one\n"))

    answer = api.client.head(f"/jobs/{job_id}/output?stream=stdout")

    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "4")


def test_a_task_shows_what_its_agent_tells_while_it_works(api: RunningApi) -> None:
    queue = uuid.uuid4().hex
    task = api.client.post("/tasks", json={"queue": queue, "command": ["make"]}).json()
    url = f"/jobs/{task['id']}/output"
    (picked,) = api.client.post("/tasks/pick", json={"queue": queue, "agent": "a"}).json()["tasks"]
    token = {"token": picked["lease"]["token"]}

    shown: dict[str, Any] = {}
    for said in ("one\n", "one\ntwo\n"):
        extension = {**token, "output": {"stdout": said}}
        assert api.client.post(f"/tasks/{task['id']}/extend", json=extension).status_code == 200
        shown = api.client.get(url).json()
        assert (shown["stdout"]["text"], shown["is_running"], shown["attempt"]) == (said, True, 1)
    late = {"token": "somebody's", "output": {"stdout": "one\ntwo\nthree\n"}}
    assert api.client.post(f"/tasks/{task['id']}/extend", json=late).status_code == 409
    assert api.client.get(url).json() == shown
    ended = {**token, "exit_code": 0, "stdout": "one\ntwo\nthree\n"}
    assert api.client.post(f"/tasks/{task['id']}/finish", json=ended).status_code == 200

    shown = api.client.get(url).json()
    assert (shown["stdout"]["text"], shown["is_running"]) == ("one\ntwo\nthree\n", False)


def test_a_task_whose_agent_tells_no_output_at_the_end_keeps_what_it_told_before(api: RunningApi) -> None:
    queue = uuid.uuid4().hex
    task = api.client.post("/tasks", json={"queue": queue, "payload": 1}).json()
    (picked,) = api.client.post("/tasks/pick", json={"queue": queue, "agent": "a"}).json()["tasks"]
    token = {"token": picked["lease"]["token"]}

    api.client.post(f"/tasks/{task['id']}/extend", json={**token, "output": {"stderr": "half"}})
    api.client.post(f"/tasks/{task['id']}/finish", json={**token, "outcome": "succeeded"})

    shown = api.client.get(f"/jobs/{task['id']}/output").json()
    assert (shown["stderr"]["text"], shown["is_running"], shown["attempt"]) == ("half", False, 1)


def test_what_a_cancelled_task_had_written_is_kept_as_its_agent_says_at_the_end(api: RunningApi) -> None:
    queue = uuid.uuid4().hex
    task = api.client.post("/tasks", json={"queue": queue, "command": ["make"]}).json()
    (picked,) = api.client.post("/tasks/pick", json={"queue": queue, "agent": "a"}).json()["tasks"]
    assert api.client.post(f"/tasks/{task['id']}/abort").status_code == 202

    ended = {"token": picked["lease"]["token"], "outcome": "cancelled", "stdout": "half\nsorry\n"}
    assert api.client.post(f"/tasks/{task['id']}/finish", json=ended).status_code == 200

    found = api.client.get(f"/tasks/{task['id']}").json()
    assert (found["state"], found["stdout"]["text"]) == ("cancelled", "half\nsorry\n")
    assert api.client.get(f"/jobs/{task['id']}/output?stream=stdout").text == "half\nsorry\n"
