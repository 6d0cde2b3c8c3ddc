"""Documents and exports: the answer to a submission, told the same way twice, and safe cells."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from producer.api.batches import first_document
from producer.api.documents import JobSummary, accepted_document, job_document, job_summary, shown
from producer.api.exports import COLUMNS, csv_header, encode_csv, encode_rejected_csv
from producer.records import BatchRecord, Rejected
from producer.store.sql import encode_document
from producer.submission_models import BatchSubmission
from shared.identity import new_id
from shared.redaction import redact_args, redact_value
from shared.states import JobState
from tests.support.factories import make_job, make_record

NOW = datetime(2025, 1, 1, tzinfo=UTC)
RECORD = make_record(created_at=NOW)


def test_a_job_reads_the_same_when_it_is_accepted_and_when_it_is_looked_up() -> None:
    job = make_job(created_at=NOW, labels={"team": "docs"}, deadline_at=NOW + timedelta(days=1))
    record = replace(
        RECORD,
        id=job.id,
        lane=job.lane,
        args=job.args,
        labels=job.labels,
        deadline_at=job.deadline_at,
    )

    assert json.loads(accepted_document(job).model_dump_json()) == json.loads(job_document(record))


def test_a_summary_is_a_job_without_its_attempts() -> None:
    summary, job = json.loads(job_summary(RECORD)), json.loads(job_document(RECORD))

    assert summary == {name: job[name] for name in JobSummary.model_fields}


def test_the_first_answer_to_a_batch_does_not_depend_on_when_it_is_given() -> None:
    submission = BatchSubmission.model_validate(
        {"kind": "check", "items": [{}], "run_at": NOW + timedelta(minutes=1)}
    )
    stored = BatchRecord(
        new_id(), "check", 3, {}, {JobState.SCHEDULED: 3}, None, NOW, None, project="default"
    )
    ended = replace(
        stored, counts={JobState.SUCCEEDED: 2, JobState.PARKED: 1}, finished_at=NOW, cancelled_at=NOW
    )

    # The time to run has passed long ago by the clock of this test.
    assert first_document(ended, submission) == first_document(stored, submission)
    assert first_document(ended, submission).counts[JobState.SCHEDULED] == 3


def test_cells_are_no_formulas() -> None:
    result = {"verdict": "=HYPERLINK(1)", "status": 200, "title": "\n=1", "final_url": "＋1"}  # noqa: RUF001
    record = replace(
        RECORD,
        args={"url": "@SUM(1)"},
        reason="-1+1",
        result=result,
        attempt=3,
        finished_at=NOW,
        ref="=cmd|' /C calc'!A0",
    )

    [row] = csv.DictReader(io.StringIO((csv_header() + encode_csv([record])).decode()))

    assert tuple(row) == COLUMNS
    assert (row["url"], row["verdict"], row["reason"]) == ("'@SUM(1)", "'=HYPERLINK(1)", "'-1+1")
    assert (row["title"], row["final_url"]) == ("'\n=1", "'＋1")  # noqa: RUF001
    assert (row["ref"], row["given_url"]) == ("'=cmd|' /C calc'!A0", "'@SUM(1)")
    assert (row["status"], row["attempts"], row["finished_at"]) == ("200", "3", "2025-01-01T00:00:00+00:00")


def test_cells_of_a_rejected_line_are_no_formulas() -> None:
    line = Rejected(3, "/lines/3", "No", ref="-1", given="@SUM(1)")

    text = (csv_header() + encode_rejected_csv([line], kind="check")).decode()

    [row] = csv.DictReader(io.StringIO(text))
    assert {name: cell for name, cell in row.items() if cell} == {
        "kind": "check",
        "state": "rejected",
        "line": "3",
        "ref": "'-1",
        "given_url": "'@SUM(1)",
        "explanation": "/lines/3: No",
    }


def test_a_lone_surrogate_of_a_stranger_does_not_break_a_table_off() -> None:
    record = replace(RECORD, state=JobState.SUCCEEDED, result={"verdict": "ok", "title": "a\ud800"})

    assert b"a?" in encode_csv([record])


WORDS = st.sampled_from(
    [
        *(
            "https://a.example/x",
            "https://ann:pw@a.example/",
            "//u@h",
            "password",
            "api_key",
            "headers",
            "auth",
        ),
        *(
            "Authorization",
            "x-key",
            "%2F%2Fann%3Apw%40a",
            "\u00e9-token",
            "pass\\word",
            "plain",
            "url",
            "secret",
        ),
        *("https://ann:pw/", "a@b", '"@"', "\ud800@"),
    ]
) | st.text(max_size=4)
DOCUMENTS = st.dictionaries(
    WORDS,
    st.recursive(
        WORDS | st.integers(0, 3) | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(DOCUMENTS, st.sampled_from([redact_args, redact_value]))
def test_a_stored_document_is_masked_as_one_that_was_read(
    document: dict[str, Any], redact: Callable[[Any], Any]
) -> None:
    text = shown(encode_document(document), redact)

    assert json.loads(text) == json.loads(json.dumps(redact(json.loads(encode_document(document)))))
