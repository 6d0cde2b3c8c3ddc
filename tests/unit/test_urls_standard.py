"""The data of the web-platform-tests for URLs, through submission, redirects and links, none left out.

Each case comes to what the data says, or to a refusal that `REFUSALS` names.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from consumer.http.failures import Failure
from consumer.http.target import redirect_target, target_of
from shared.kinds.check import CheckArgs
from shared.urls import InvalidReference, join_url, normalize_url, without_credentials

Case = dict[str, Any]

FILE = Path(__file__).resolve().parents[1] / "data" / "wpt" / "urltestdata.json"
# Between the cases stand comments.
CASES: list[Case] = [case for case in json.loads(FILE.read_text(encoding="utf-8")) if isinstance(case, dict)]

HTTP = re.compile("https?:")
HAS_SCHEME = re.compile("[\x00-\x20]*[a-z][a-z0-9+.\t\r\n-]*:", re.IGNORECASE)
CONTROL = re.compile("[\x00-\x1f]")
SURROGATE = re.compile("[\ud800-\udfff]")

SAME = "the same"
INVALID = "no URL for the Standard either"
OTHER_SCHEME = "another scheme"
CONTROLS = "tabs, CR, LF or other control characters in what is handed in"
NOT_TEXT = "half a surrogate pair, which JSON and UTF-8 do not have"
OTHER_BASE = "a relative reference without a base, or with one that is not http"
REFUSALS = {INVALID, OTHER_SCHEME, CONTROLS, NOT_TEXT}
JOINED = {SAME: 219, INVALID: 254, OTHER_SCHEME: 237, NOT_TEXT: 1, OTHER_BASE: 109}


def submitted(case: Case) -> str | None:
    try:
        return CheckArgs.model_validate({"url": case["input"]}).url
    except ValidationError:
        return None


def linked(case: Case) -> str | None:
    try:
        return join_url(case["input"], base=normalize_url(base_of(case)))
    except InvalidReference:
        return None


def redirected(case: Case) -> str | None:
    current = target_of(without_credentials(normalize_url(base_of(case))))
    following = redirect_target(current, case["input"])
    return None if isinstance(following, Failure) else following.url


def base_of(case: Case) -> str:
    """Return the base of a case; for one without, one of another scheme, which leaves nothing of itself."""
    if HTTP.match(case["base"] or ""):
        return str(case["base"])
    is_https = case["input"].strip().lower().startswith("https")
    return "http://other.example/" if is_https else "https://other.example/"


def right_url(case: Case) -> str | None:
    return None if case.get("failure") else str(case["href"])


def why_refused(case: Case) -> str:
    """Return why a case may be refused although it may be a URL for the Standard."""
    if SURROGATE.search(case["input"]):
        return NOT_TEXT
    if case.get("failure"):
        return INVALID
    return SAME if HTTP.match(case["href"]) else OTHER_SCHEME


def stands_alone(case: Case) -> bool:
    """Return whether the base of a case does not matter, or is one of ours."""
    return HTTP.match(case["base"] or "") is not None or HAS_SCHEME.match(case["input"]) is not None


def test_a_url_is_taken_as_the_standard_reads_it() -> None:
    seen: Counter[str] = Counter()
    for case in (case for case in CASES if case["base"] is None):
        why = CONTROLS if CONTROL.search(case["input"].strip(" \t\r\n\f")) else why_refused(case)
        seen[why] += 1
        assert submitted(case) == (None if why in REFUSALS else right_url(case)), case

    assert seen == {SAME: 102, INVALID: 181, OTHER_SCHEME: 166, CONTROLS: 54, NOT_TEXT: 1}


def test_a_link_to_the_next_page_is_joined_as_the_standard_joins() -> None:
    seen: Counter[str] = Counter()
    for case in CASES:
        why = why_refused(case) if stands_alone(case) else OTHER_BASE
        seen[why] += 1
        if why != OTHER_BASE:
            assert linked(case) == (None if why in REFUSALS else right_url(case)), case

    assert seen == JOINED


def test_a_redirect_is_joined_as_the_standard_joins() -> None:
    seen: Counter[str] = Counter()
    for case in CASES:
        why = why_refused(case) if stands_alone(case) else OTHER_BASE
        seen[why] += 1
        if why == SAME:
            # Credentials of a redirect go nowhere, and a fragment is inherited.
            url = without_credentials(case["href"])
            fragment = "" if "#" in url else "".join(base_of(case).partition("#")[1:])
            assert redirected(case) == url + fragment, case
        elif why != OTHER_BASE:
            assert redirected(case) is None, case

    assert seen == JOINED


@pytest.mark.parametrize(
    "case", [case for case in CASES if HTTP.match(case.get("href", ""))], ids=lambda case: str(case["href"])
)
def test_what_is_asked_of_whom_is_the_serialization(case: Case) -> None:
    wire = target_of(without_credentials(case["href"])).wire

    empty_query = "?" if not case["search"] and "?" in case["href"].partition("#")[0] else ""
    assert wire.raw_path_qs == case["pathname"] + case["search"] + empty_query
    assert (wire.host_subcomponent, wire.port) == (
        case["hostname"],
        int(case["port"] or {"http:": 80, "https:": 443}[case["protocol"]]),
    )
