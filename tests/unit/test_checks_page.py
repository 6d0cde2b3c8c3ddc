"""docs/checks.md says of each reason what the code says."""

import re
from pathlib import Path

from consumer.egress import AddressClass, EgressDenied
from consumer.http import failures
from consumer.http.failures import Failure, failure_of_status

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z0-9_]+)` \| (ok|broken|blocked|down) \|$", re.MULTILINE)
# These are about what `fetch` makes of a body, or about bodies that a check never sends.
OF_OTHER_KINDS = {
    "not_json",
    "extract_failed",
    "extract_limit",
    "redirect_with_body",
    "unexpected_type",
    "no_signing_secret",
}


def all_failures() -> list[Failure]:
    found = [value for value in vars(failures).values() if isinstance(value, Failure)]
    statuses = [
        failure_of_status(status) for status in (401, 403, 404, 408, 410, 425, 429, 451, 500, 503, 999)
    ]
    made = [
        failures.assertion_failed("contains", "x", others=0),
        failures.body_undecided("contains", "x", limit_bytes=1),
        failures.bot_wall(403, "x"),
        failures.egress_denied(EgressDenied(AddressClass.PRIVATE)),
        failures.redirect_invalid("x"),
        failures.secret_missing("x", "y", "z"),
        failures.timed_out(1),
        failures.too_many_redirects(1),
        failures.unsupported_encoding(["zstd"]),
    ]
    return [failure for failure in (*found, *statuses, *made) if failure is not None]


def test_every_reason_of_a_check_is_in_the_table_with_its_verdict() -> None:
    told = dict(ROW.findall(PAGE))
    verdicts = {each.reason: each.verdict for each in all_failures() if each.reason not in OF_OTHER_KINDS}

    assert told == {reason: str(verdict) for reason, verdict in verdicts.items() if verdict is not None}


def test_what_is_only_our_fault_is_named_without_a_verdict() -> None:
    ours = {failure.reason for failure in all_failures() if failure.is_ours} - OF_OTHER_KINDS

    assert [reason for reason in sorted(ours) if f"`{reason}`" not in PAGE] == []


def test_what_is_blocked_or_broken_is_never_tried_again() -> None:
    assert [each.reason for each in all_failures() if each.transient and each.is_blocking] == []
