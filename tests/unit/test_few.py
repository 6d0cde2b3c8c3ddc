"""A megabyte of names or items that are all wrong is one fault, and fills no memory."""

import tracemalloc
from typing import Any

import orjson
import pytest

from producer.api.requests import read_document
from producer.submission import new_job
from producer.submission_models import BatchSubmission, JobSubmission
from shared.clock import utc_now
from shared.errors import JobInvalid
from shared.identity import new_id

MEBIBYTE = 1_048_576
CHECK: dict[str, Any] = {"kind": "check", "args": {"url": "http://a.example/"}}
COMMAND: dict[str, Any] = {"kind": "command", "args": {"argv": ["true"]}}
NAMES = {f"{number}!": 0 for number in range(50_000)}


def with_args(job: dict[str, Any], **args: object) -> dict[str, Any]:
    return {**job, "args": {**job["args"], **args}}


@pytest.mark.parametrize(
    ("document", "loc"),
    [
        ({**CHECK, "labels": NAMES}, "/labels"),
        ({**CHECK, **NAMES}, ""),
        (with_args(CHECK, **NAMES), "/args"),
        (with_args(CHECK, headers=NAMES), "/args/headers"),
        (with_args(COMMAND, env=NAMES), "/args/env"),
        (with_args(COMMAND, exit_codes=NAMES), "/args/exit_codes"),
        (with_args({**CHECK, "kind": "fetch"}, accept=[0] * 100_000), "/args/accept"),
        (
            {**CHECK, "callback_url": "http://a.example/", "callback_events": [0] * 100_000},
            "/callback_events",
        ),
    ],
    ids=["labels", "fields", "args", "headers", "env", "exit_codes", "accept", "events"],
)
def test_what_has_too_many_names_or_items_is_one_fault(document: dict[str, Any], loc: str) -> None:
    body = orjson.dumps(document)
    tracemalloc.start()
    try:
        with pytest.raises(JobInvalid) as caught:
            new_job(read_document(JobSubmission, body), job_id=new_id(), now=utc_now(), project="default")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [error.loc for error in caught.value.errors] == [loc]
    assert peak_bytes < 40 * MEBIBYTE


def test_the_words_are_those_of_a_length() -> None:
    labels = {f"name{number}": "" for number in range(21)}
    with pytest.raises(JobInvalid) as caught:
        read_document(BatchSubmission, orjson.dumps({"kind": "check", "items": [1], "labels": labels}))

    assert "at most 20 items after validation, not 21" in caught.value.errors[0].msg
