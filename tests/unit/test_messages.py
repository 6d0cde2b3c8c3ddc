"""Messages of this version and of the one before."""

import base64
import gzip
import hashlib
import json
import uuid
from typing import Any

import pytest

from shared.errors import MessageUndecodable
from shared.messages import JobMessage, Report

REPORT = {
    "version": 1,
    "job_id": "01a203f7-2316-7400-922d-0a315fe2b95f",
    "kind": "fetch",
    "run": 1,
    "attempt": 1,
    "state": "succeeded",
    "worker": "w",
}
CONTENT = gzip.compress(bytes(range(256)))
BODY = {
    "content_type": "image/png",
    "size": 256,
    "sha256": hashlib.sha256(bytes(range(256))).hexdigest(),
    "content": base64.urlsafe_b64encode(CONTENT).decode(),
}


def report_with(body: dict[str, Any]) -> bytes:
    return json.dumps({**REPORT, "body": body}).encode()


def test_messages_of_the_version_before_are_understood() -> None:
    job = {"version": 1, "id": str(uuid.uuid4()), "kind": "fetch", "args": {}}

    assert Report.decode(json.dumps(REPORT).encode()).body is None
    assert JobMessage.decode(json.dumps(job).encode()).known is None
    assert "body" not in json.loads(Report.decode(json.dumps(REPORT).encode()).encode())


@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.b64encode])
def test_both_alphabets_of_base64_are_read(encode: Any) -> None:
    body = Report.decode(report_with({**BODY, "content": encode(CONTENT).decode()})).body

    assert body is not None and body.content == CONTENT


@pytest.mark.parametrize("ref", ["", "a\nb", "x" * 513, 7])
def test_a_job_whose_ref_cannot_be_kept_is_refused_by_name(ref: object) -> None:
    job = {"id": REPORT["job_id"], "kind": "check", "args": {}}

    with pytest.raises(MessageUndecodable, match=r"^ref: "):
        JobMessage.decode(json.dumps({**job, "ref": ref}).encode())
    assert JobMessage.decode(json.dumps({**job, "ref": "é" * 512}).encode()).ref == "é" * 512


@pytest.mark.parametrize(
    "said",
    [
        {"content": "***"},
        {"content": 7},
        {"size": -1},
        {"size": 1 << 40},
        {"sha256": '"onload="'},
        {"sha256": "A" * 64},
        {"content_type": "x" * 201},
        {"content": None},
    ],
)
def test_a_body_that_cannot_be_served_is_refused_at_the_border(said: dict[str, Any]) -> None:
    with pytest.raises(MessageUndecodable, match="body/"):
        Report.decode(report_with({**BODY, **said}))
