"""The pure parts of the dashboard: its search language, JSON as it is shown, sessions, times of attempts."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.dashboard.alarms import alarms
from producer.dashboard.drawing import show_seconds, show_time
from producer.dashboard.json_view import MOST_CHARACTERS, SHORT_CHARACTERS, show_json
from producer.dashboard.kept import Kept
from producer.dashboard.mount import is_own_path
from producer.dashboard.overview import draw
from producer.dashboard.plots import plot_durations, plot_ends
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
from producer.figures import DelayDepth, HeldHost, JobCount, Overview, Span
from producer.pausing import Pause, QueueObservation
from producer.records import AttemptRecord
from shared.errors import StoreUnavailable
from shared.identity import made_at, new_id
from shared.kinds.registry import Lane
from shared.outcomes import OutcomeName
from shared.states import JobState

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
        (60, "1 min"),
        (3_600, "1 h"),
        (3_661, "1 h 1 min"),
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


def queue(kind: str, lane: Lane, ready: int, consumers: int, *, at: datetime = NOW) -> QueueObservation:
    return QueueObservation(f"jobs.{kind}.{lane}", kind, lane, ready, consumers, at)


def count(state: JobState, jobs: int, *, age_seconds: float = 0, **said: object) -> JobCount:
    facts: dict[str, object] = {"project": "default", "kind": "check", "lane": "bulk", "is_held": False}
    facts |= said
    return JobCount(state=state, jobs=jobs, oldest_at=NOW - timedelta(seconds=age_seconds), **facts)  # type: ignore[arg-type]


LEADS = NOW + timedelta(seconds=10)


def said(seen: Overview, *, is_operator: bool = True) -> list[tuple[str, bool]]:
    return [(alarm.text, alarm.is_mild) for alarm in alarms(seen, now=NOW, is_operator=is_operator)]


def test_nothing_is_said_of_a_service_that_is_well() -> None:
    seen = Overview(
        jobs=[count(JobState.QUEUED, 9, age_seconds=900), count(JobState.ACCEPTED, 2, age_seconds=30)],
        queues=[queue("check", Lane.BULK, 9, 2)],
        counted_at=NOW,
        leads_until=LEADS,
    )

    assert said(seen) == []


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (Overview(), "No ledger leads"),
        (Overview(leads_until=NOW - timedelta(minutes=5)), "No ledger leads"),
        (
            Overview(leads_until=LEADS, counted_at=NOW - timedelta(minutes=5)),
            "The figures on this",
        ),
        (
            Overview(
                leads_until=LEADS, queues=[queue("check", Lane.BULK, 9, 0, at=NOW - timedelta(minutes=5))]
            ),
            "No ledger has reached the broker",
        ),
        (
            Overview(
                leads_until=LEADS,
                queues=[queue("check", Lane.BULK, 1_234, 0)],
                jobs=[count(JobState.QUEUED, 1_234)],
            ),
            "No worker takes check in lane bulk: 1,234 messages wait, the oldest job since",
        ),
        (
            Overview(leads_until=LEADS, jobs=[count(JobState.ACCEPTED, 1, age_seconds=90)]),
            "1 job waits to be published to the broker",
        ),
    ],
)
def test_what_stands_still_is_said_in_words(seen: Overview, text: str) -> None:
    ((words, is_mild),) = said(seen)

    assert words.startswith(text)
    assert not is_mild


def test_what_people_and_hosts_want_is_mild_and_comes_last() -> None:
    seen = Overview(
        leads_until=LEADS,
        jobs=[
            count(JobState.PARKED, 1_000),
            count(JobState.ACCEPTED, 5, age_seconds=900, is_held=True),
            count(JobState.ACCEPTED, 5, age_seconds=900, kind="fetch"),
            count(JobState.ACCEPTED, 5, age_seconds=900, kind="command"),
        ],
        queues=[queue("fetch", Lane.BULK, 5, 0)],
        pauses=[Pause("fetch", "*", NOW, "ann", "deploy")],
        hosts=[HeldHost("a.example", 4, 1, None, is_open=False)],
    )

    assert said(seen) == [
        ("5 jobs wait to be published to the broker, the oldest since", False),
        ("1,000 jobs are parked: somebody has to decide", True),
        ("Kind fetch is paused by ann: deploy", True),
        ("a.example holds back 4 jobs", True),
    ]


def test_a_project_hears_nothing_of_processes() -> None:
    assert said(Overview(), is_operator=False) == []


def spans(*ended: dict[JobState, int], buckets: dict[int, int] | None = None) -> list[Span]:
    return [
        Span(NOW + timedelta(minutes=place), each, buckets or {4: sum(each.values())} if each else {})
        for place, each in enumerate(ended)
    ]


def test_bars_are_stacked_to_scale_and_what_there_is_is_seen() -> None:
    plot = plot_ends(spans({JobState.SUCCEEDED: 800, JobState.PARKED: 1}, {}, {JobState.SUCCEEDED: 400}))
    full, empty, half = plot.bars

    assert [part.state for part in full.parts] == [JobState.SUCCEEDED, JobState.PARKED]
    assert empty.parts == []
    assert full.parts[0].height == pytest.approx(2 * half.parts[0].height, rel=0.01)
    assert full.parts[1].height >= 1
    assert full.parts[1].y < full.parts[0].y
    assert [tick.text for tick in plot.scale] == ["0", "500", "1,000"]
    assert all(part.y >= 0 for bar in plot.bars for part in bar.parts)


def test_a_line_has_a_gap_where_nothing_ended() -> None:
    some = {JobState.SUCCEEDED: 2}
    plot = plot_durations(spans(some, {}, some, some))

    for line in plot.lines:
        assert [len(points.split()) for points in line.stretches] == [2, 4]


def test_nothing_is_plotted_of_nothing() -> None:
    assert plot_ends([]).bars == []
    assert plot_ends(spans({}, {})).bars[0].parts == []
    assert plot_durations([]).lines[0].stretches == []


def test_a_lane_shows_what_waits_and_since_when() -> None:
    picture = draw(
        Overview(
            jobs=[
                count(JobState.ACCEPTED, 4, is_held=True, age_seconds=50),
                count(JobState.ACCEPTED, 3, age_seconds=5),
                count(JobState.QUEUED, 2, age_seconds=9),
                count(JobState.DELAYED, 1, age_seconds=900),
            ],
            queues=[queue("check", Lane.BULK, 2, 7)],
            pauses=[Pause("*", "bulk", NOW, "ann")],
            delays=[DelayDepth(5, 10), DelayDepth(30, 40)],
        ),
        now=NOW,
        is_operator=True,
    )

    row = next(row for row in picture.lanes if (row.kind, row.lane) == ("check", "bulk"))
    assert (row.held, row.accepted, row.queued, row.delayed, row.workers) == (4, 3, 2, 1, 7)
    assert row.oldest_at == NOW - timedelta(seconds=50)
    assert row.pause is not None
    assert picture.delays == [(5, 10, 0.25), (30, 40, 1.0)]


def test_a_picture_has_another_version_when_something_has_changed() -> None:
    one, same, other = (
        draw(Overview(jobs=[count(JobState.PARKED, number)], counted_at=at), now=NOW, is_operator=False)
        for number, at in ((1, NOW), (1, NOW + timedelta(seconds=9)), (2, NOW))
    )

    assert one.version == same.version != other.version


def test_all_who_look_within_a_second_share_one_look() -> None:
    looks: list[float] = []
    now = [0.0]
    kept = Kept[int](1.0, clock=lambda: now[0])

    def look() -> int:
        looks.append(now[0])
        return len(looks)

    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(lambda _: kept.get("ours", look), range(100)))
    now[0] = 0.9
    later = kept.get("ours", look)
    now[0] = 1.1
    after = kept.get("ours", look)

    assert set(at_once) == {1}
    assert (later, after) == (1, 2)
    assert kept.get("theirs", look) == 3


def test_a_look_that_fails_is_made_again() -> None:
    kept = Kept[int](1.0)

    def fail() -> int:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        kept.get("x", fail)
    assert kept.get("x", lambda: 7) == 7
