"""A batch as JUnit XML: what is counted is what is listed, and every text is XML."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from producer.api.junit import JUNIT_TAIL, Junit
from producer.records import BatchRecord, JobRecord, Rejected, ResultCounts
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.redaction import redact_url
from shared.retry import RetryPolicy
from shared.states import JobState
from tests.support.factories import NOON


def make_record(state: JobState = JobState.SUCCEEDED, **fields: Any) -> JobRecord:
    values: dict[str, Any] = {
        "id": new_id(),
        "kind": "check",
        "lane": Lane.BULK,
        "args": {"url": "https://example.com/"},
        "retry": RetryPolicy(),
        "host": "example.com",
        "labels": {},
        "batch_id": None,
        "schedule_id": None,
        "state": state,
        "run": 1,
        "attempt": 1,
        "reason": None,
        "explanation": None,
        "result": None,
        "due_at": None,
        "deadline_at": None,
        "created_at": NOON,
        "finished_at": None,
    }
    return JobRecord(**(values | fields), project="default")


def parse(
    records: list[JobRecord],
    counts: ResultCounts | None = None,
    *,
    also_failing: Sequence[str] = (),
    rejected: Sequence[Rejected] = (),
    **starts: Any,
) -> ET.Element:
    batch = BatchRecord(new_id(), "check", len(records), {}, {}, None, NOON, None, project="default")
    junit = Junit(also_failing)
    cases = junit.cases(records, starts.get("starts", {})) + junit.rejected_cases(rejected, kind="check")
    return ET.fromstring(junit.head(batch, counts or ResultCounts({})) + cases + JUNIT_TAIL)  # noqa: S314


def endings(suite: ET.Element) -> list[str | None]:
    return [next((each.tag for each in case if each.tag != "properties"), None) for case in suite]


def test_each_state_has_its_element() -> None:
    broken = {"verdict": "broken", "reason": "http_404", "explanation": "Gone & <lost>."}
    parked = {"reason": "http_503", "explanation": "Down."}
    records = [
        make_record(result={"verdict": "ok"}),
        make_record(result=broken),
        make_record(JobState.PARKED, result={"verdict": "down"}, **parked),
        make_record(JobState.CANCELLED, reason="cancelled"),
        make_record(JobState.QUEUED),
        make_record(kind="fetch", result={"data": 5}, host=""),
    ]

    suite = parse(records)

    said = [[(each.tag, dict(each.attrib)) for each in case] for case in suite]
    assert said[:3] == [
        [],
        [("failure", {"type": "http_404", "message": "Gone & <lost>."})],
        [("error", {"type": "http_503", "message": "Down."})],
    ]
    assert [[tag for tag, _ in ending] for ending in said[3:]] == [["skipped"], ["skipped"], []]
    assert suite[0].attrib == {"name": "https://example.com/", "classname": "check.example.com"}
    assert suite[5].attrib["classname"] == "fetch"


def test_a_case_that_nobody_can_judge_is_skipped_with_its_reason_unless_asked() -> None:
    blocked = {"verdict": "blocked", "reason": "bot_wall", "explanation": "Cloudflare answered."}
    records = [make_record(result=blocked), make_record(result={"verdict": "broken"})]

    suite, strict = parse(records), parse(records, also_failing=["blocked"])

    assert endings(suite) == ["skipped", "failure"]
    assert suite[0][0].attrib == {"type": "bot_wall", "message": "Cloudflare answered."}
    assert endings(strict) == ["failure", "failure"]


@pytest.mark.parametrize("also_failing", [[], ["blocked"], ["broken", "down"]])
def test_the_suite_counts_what_it_lists(also_failing: list[str]) -> None:
    verdicts = [None, "ok", "broken", "blocked", "down"]
    records = [
        make_record(state, result={"verdict": verdict} if verdict else None)
        for state in JobState
        for verdict in verdicts
    ]
    counts = ResultCounts({(state, verdict): 1 for state in JobState for verdict in verdicts}, rejected=2)
    rejected = [Rejected(7, "/lines/7/url", "No", "row 7", "htp:/x"), Rejected(9, "/lines/9", "No")]

    suite = parse(records, counts, also_failing=also_failing, rejected=rejected)

    listed = endings(suite)
    assert [int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")] == [
        len(listed),
        *(listed.count(ending) for ending in ("failure", "error", "skipped")),
    ]


def test_a_line_that_became_no_job_is_an_error_where_it_was_written() -> None:
    rejected = [Rejected(7, "/lines/7/url", "No <URL>", "row 7", "htp:/x"), Rejected(9, "/lines/9", "No")]

    suite = parse([make_record(line=3, ref='a "b"')], rejected=rejected)

    assert [case.get("name") for case in suite] == ["https://example.com/", "htp:/x", "/lines/9"]
    assert [case.get("line") for case in suite] == ["3", "7", "9"]
    assert [each.get("value") for each in suite.iter("property")] == ['a "b"', "row 7"]
    told = [(each.get("type"), each.get("message")) for each in suite.iter("error")]
    assert told == [("rejected", "/lines/7/url: No <URL>"), ("rejected", "/lines/9: No")]


def test_a_case_took_from_its_first_start_to_its_end() -> None:
    record = make_record(finished_at=NOON + timedelta(seconds=2.5))

    assert parse([record], starts={record.id: NOON})[0].attrib["time"] == "2.500"
    assert parse([record], starts={record.id: NOON + timedelta(hours=1)})[0].attrib["time"] == "0.000"


@pytest.mark.parametrize(
    "nasty", ["\0", "\x1b[0m", "\ud800", "\ufffe", "]]>", "\"'<&>", "a\r\nb\tc", "\N{PILE OF POO}"]
)
def test_no_text_breaks_the_document(nasty: str) -> None:
    fields = {"host": nasty, "reason": nasty, "explanation": nasty, "ref": nasty}
    record = make_record(JobState.PARKED, args={"url": nasty}, **fields)
    rejected = Rejected(2, nasty, nasty, nasty, nasty)

    case, line = parse([record], rejected=[rejected])

    kept = "".join("\ufffd" if char in "\0\x1b\ud800\ufffe" else char for char in nasty)
    assert (case.attrib["name"], case[0][0].attrib["value"], case[1].attrib["message"]) == (kept,) * 3
    assert (line.attrib["name"], line[1].attrib["message"]) == (kept, f"{kept}: {kept}")


@given(text=st.text(alphabet=st.characters(exclude_categories=()), min_size=1))
def test_any_text_is_carried_but_for_what_xml_has_no_place_for(text: str) -> None:
    # A mask has another length.
    assume(redact_url(text) == text)
    (case,) = parse([make_record(args={"url": text})])

    assert len(case.attrib["name"]) == len(text)
