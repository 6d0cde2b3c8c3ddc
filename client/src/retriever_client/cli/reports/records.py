"""Reports for programs: JSON, JSON lines, CSV."""

import csv
import json
from typing import Final, TextIO

from retriever_client.cli.reports.run import Run, document_of_link, document_of_summary

COLUMNS: Final = (
    "file",
    "line",
    "column",
    "kind",
    "url",
    "outcome",
    "reason",
    "status",
    "final_url",
    "failure",
    "known",
    "job_id",
    "explanation",
)


def write_json(run: Run, out: TextIO) -> None:
    """Write one document: the figures, and every link."""
    out.write(f'{{"summary": {json.dumps(document_of_summary(run))},\n "links": [')
    separator = "\n  "
    for link in run.links():
        out.write(separator + json.dumps(document_of_link(link)))
        separator = ",\n  "
    out.write("]}\n")


def write_ndjson(run: Run, out: TextIO) -> None:
    """Write a document for every link, a line each."""
    for link in run.links():
        out.write(json.dumps(document_of_link(link)) + "\n")


def write_csv(run: Run, out: TextIO) -> None:
    """Write a record for every link (RFC 4180, with line feeds)."""
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for link in run.links():
        writer.writerow({name: _cell(value) for name, value in document_of_link(link).items()})


def _cell(value: object) -> object:
    return ("false", "true")[value] if isinstance(value, bool) else value
