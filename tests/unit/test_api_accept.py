"""Which format of an export an `Accept` header gets."""

import pytest

from producer.api.exports import ExportFormat, accepted_format
from producer.api.problems import HttpProblem

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
NDJSON, CSV, JUNIT = ExportFormat.NDJSON, ExportFormat.CSV, ExportFormat.JUNIT


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", NDJSON),
        (",,", NDJSON),
        ("*/*", NDJSON),
        (CHROME, NDJSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", NDJSON),
        ("*/*;q=0.1, text/html", NDJSON),
        ("text/html, text/csv;q=0.5, */*;q=0.1", CSV),
        ("text/html, application/xml;q=0.9", JUNIT),
        ("application/json, text/plain, */*", NDJSON),
        ("text/csv", CSV),
        ("TEXT/CSV", CSV),
        ("text/csv; charset=utf-8", CSV),
        ("text/csv;header=present;q=0.5", CSV),
        ("text/csv, */*", CSV),
        ("*/*, text/csv", CSV),
        ("text/*", CSV),
        ("text/csv;q=0.4, application/x-ndjson;q=0.5", NDJSON),
        ("text/csv;q=0.5, application/x-ndjson;q=0.4", CSV),
        ("*/*, application/x-ndjson;q=0, application/jsonl;q=0", CSV),
        ("application/xml", JUNIT),
        ("text/xml", JUNIT),
        ("application/xml, application/x-ndjson;q=0.9", JUNIT),
        ("application/xml;q=0.9, application/x-ndjson", NDJSON),
        ("application/jsonl", NDJSON),
        ("application/*", NDJSON),
        ("text/csv;q=0.001", CSV),
    ],
)
def test_the_format_with_the_highest_weight_is_sent(header: str, expected: ExportFormat) -> None:
    assert accepted_format(header) is expected


@pytest.mark.parametrize(
    "header", ["text/html", "application/json", "text/csv;q=0", "image/*", "text/csvx", "*/*;q=0"]
)
def test_a_header_that_takes_no_format_gets_a_list_of_them(header: str) -> None:
    with pytest.raises(HttpProblem) as caught:
        accepted_format(header)

    assert caught.value.status == 406
    assert all(
        name in caught.value.detail for name in ("application/x-ndjson", "text/csv", "application/xml")
    )
