"""The pure parts of the dashboard: its search language, JSON as it is shown, sessions, times of attempts."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.dashboard.drawing import show_seconds, show_time
from producer.dashboard.json_view import MOST_CHARACTERS, SHORT_CHARACTERS, show_json
from producer.dashboard.mount import is_own_path
from producer.dashboard.search import (
    Filter,
    SearchInvalid,
    as_command,
    as_text,
    looked_for_id,
    read_search,
)
from producer.dashboard.sessions import Session, SessionCookies
from producer.dashboard.timeline import answers_in, timeline
from producer.records import AttemptRecord
from shared.identity import made_at, new_id
from shared.outcomes import OutcomeName

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def pairs(text: str) -> list[tuple[str, str]]:
    return [(each.name, each.value) for each in read_search(text, now=NOW)]


def test_words_are_the_filters_of_the_api_and_all_else_is_looked_for_in_urls() -> None:
    found = pairs('state:parked host:example.com label:env:prod batch:1 docs "a b" ref:"my ""file"""')

    assert found == [
        ("state", "parked"),
        ("host", "example.com"),
        ("label", "env:prod"),
        ("batch_id", "1"),
        ("url", "docs"),
        ("url", "a b"),
        ("ref", 'my "file"'),
    ]


@pytest.mark.parametrize("text", ["https://a.example/x?y=1", "localhost:8080/x", "example.com:443"])
def test_a_url_or_a_host_with_a_port_is_no_word(text: str) -> None:
    if text.startswith("localhost"):
        with pytest.raises(SearchInvalid, match=r"no such word.*localhost"):
            pairs(text)
        assert pairs(f'"{text}"') == [("url", text)]
    else:
        assert pairs(text) == [("url", text)]


def test_times_are_said_as_ages_days_or_times() -> None:
    assert pairs("after:2h") == [("created_after", "2026-01-02T10:00:00+00:00")]
    assert pairs("before:2026-01-02") == [("created_before", "2026-01-02T00:00:00Z")]
    assert pairs("after:2026-01-02T03:04:05+01:00") == [("created_after", "2026-01-02T03:04:05+01:00")]


@pytest.mark.parametrize("text", ["stat:parked", "state:", "after:yesterday", "after:999999d", "x" * 5_000])
def test_a_search_that_cannot_be_read_says_why(text: str) -> None:
    with pytest.raises(SearchInvalid, match=r"[a-z]"):
        pairs(text)


@given(
    st.lists(
        st.builds(
            Filter,
            st.sampled_from(["url", "host", "ref", "reason", "label", "state", "batch_id"]),
            st.text(min_size=1, max_size=30).filter(lambda text: "=" not in text and not text.isspace()),
        ),
        max_size=5,
    )
)
def test_what_a_search_box_shows_asks_for_the_same_again(filters: list[Filter]) -> None:
    assert read_search(as_text(filters), now=NOW) == filters


def test_a_list_is_said_as_a_command_where_the_command_line_has_its_filters() -> None:
    asked = [Filter("state", "parked"), Filter("label", "env:prod"), Filter("batch_id", "7")]

    assert as_command(asked)[3:] == ["--state", "parked", "--label", "env=prod", "--batch", "7"]
    assert as_command([Filter("created_after", "2026-01-02T00:00:00Z")]) == []


def test_an_id_alone_is_looked_up() -> None:
    found = new_id()

    assert looked_for_id(f" {found} ") == found
    assert looked_for_id(f"{{{found}}}") is None
    assert looked_for_id("parked") is None


def test_json_is_indented_and_no_number_is_read() -> None:
    text = '{"big":9223372036854775808,"exact":1.10,"list":[1,{"a":"x, {y}: \\"z\\""}],"none":[],"o":{}}'

    assert show_json(text).short == (
        '{\n  "big": 9223372036854775808,\n  "exact": 1.10,\n  "list": [\n    1,\n    {\n'
        '      "a": "x, {y}: \\"z\\""\n    }\n  ],\n  "none": [],\n  "o": {}\n}'
    )


def test_large_json_is_shown_in_part_and_says_so() -> None:
    medium = show_json("[" + ",".join(["1"] * 1_500) + "]")
    large = show_json('"' + "x" * 10_000_000 + '"')

    assert len(medium.short) <= SHORT_CHARACTERS
    assert (medium.short + medium.more).split() == ["[", *["1,"] * 1_499, "1", "]"]
    assert not medium.is_cut
    assert large.is_cut
    assert len(large.short) + len(large.more) <= MOST_CHARACTERS


def test_deep_json_is_shown_in_part() -> None:
    shown = show_json("[" * 50_000)

    assert len(shown.short) + len(shown.more) <= MOST_CHARACTERS


def test_a_session_is_read_from_its_cookie_alone() -> None:
    cookies, others = SessionCookies(b"k" * 32), SessionCookies(b"o" * 32)
    session = Session.new("abcdefgh")
    header = cookies.write(session, is_secure=True)
    sent = header.partition(";")[0]

    assert header.partition(";")[2] == " Path=/dashboard/; HttpOnly; SameSite=Lax; Secure"
    assert cookies.read(f"other=1; {sent}") == session
    assert cookies.read(sent, max_age_seconds=-1) is None
    assert cookies.read(sent[:-1]) is None
    assert others.read(sent) is None
    assert cookies.read("retriever_session=") is None
    assert "Secure" not in cookies.write(session, is_secure=False)


def test_the_token_of_a_form_is_of_its_session_alone() -> None:
    cookies, session = SessionCookies(b"k" * 32), Session.new()
    token = cookies.form_token(session)

    assert cookies.is_form_token(session, token)
    assert not cookies.is_form_token(Session.new(), token)
    assert not cookies.is_form_token(session, "")


@pytest.mark.parametrize(
    "path", ["https://evil.example/", "//evil.example", "/dashboard/\\evil", "/jobs", "/dashboard/a\nb", ""]
)
def test_a_sign_in_leads_nowhere_else(path: str) -> None:
    assert not is_own_path(path)
    assert is_own_path("/dashboard/jobs?state=parked")


def attempt(number: int, started: float, ended: float | None) -> AttemptRecord:
    ended_at = None if ended is None else NOW + timedelta(seconds=ended)
    outcome = None if ended is None else OutcomeName.SUCCEEDED
    return AttemptRecord(1, number, NOW + timedelta(seconds=started), ended_at, outcome, None, None)


def test_attempts_are_drawn_where_they_were_made() -> None:
    drawn = timeline(
        NOW,
        NOW + timedelta(seconds=100),
        [attempt(1, 10, 20), attempt(2, 90, 100)],
        now=NOW + timedelta(hours=1),
    )

    assert drawn is not None
    assert [(bar.x, bar.width) for bar in drawn.bars] == [(100, 100), (900, 100)]
    assert timeline(NOW, None, [], now=NOW) is None


def test_clocks_that_differ_draw_nothing_outside() -> None:
    drawn = timeline(NOW, None, [attempt(1, -50, -60), attempt(2, 10, None)], now=NOW)

    assert drawn is not None
    assert all(bar.x >= 0 and bar.x + bar.width <= 1_000 for bar in drawn.bars)
    assert drawn.seconds >= 0


@pytest.mark.parametrize(
    "result", [None, {}, {"hops": "x"}, {"hops": [1], "certificate": 7}, {"hops": [{"status": "<b>"}]}]
)
def test_a_result_of_strangers_tells_of_no_requests(result: dict[str, object] | None) -> None:
    assert answers_in(result).hops == ()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (-1, "-"),
        (float("nan"), "-"),
        (0.0123, "12 ms"),
        (3.14159, "3.14 s"),
        (59.4, "59 s"),
        (61, "1 min 1 s"),
        (3_600, "1 h 0 min"),
        (90_061, "1 d 1 h"),
    ],
)
def test_a_duration_is_said_in_its_largest_units(seconds: object, words: str) -> None:
    assert show_seconds(seconds) == words


def test_a_time_is_escaped_and_in_utc() -> None:
    assert show_time("2026-01-02T13:00:00+01:00") == (
        '<time datetime="2026-01-02T12:00:00+00:00">2026-01-02 12:00:00 UTC</time>'
    )
    assert show_time("<script>") == "&lt;script&gt;"


def test_an_id_tells_when_it_was_made_if_it_can() -> None:
    made = made_at(UUID("0199aa40-0000-7aaa-8bbb-0123456789ab"))

    assert made is not None
    assert made.year == 2025
    assert made_at(UUID("0199aa40-0000-4aaa-8bbb-0123456789ab")) is None
    assert made_at(UUID("ffffffff-ffff-7aaa-8bbb-0123456789ab")) is None
