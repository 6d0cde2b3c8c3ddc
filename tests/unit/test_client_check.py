"""`retriever check` on a service in memory: which links are asked about, what is said, and how it ends."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from click.testing import CliRunner, Result

from retriever_client import ConnectionFailed, NotAllowed, RetrieverError, Unavailable
from retriever_client._fake_answers import invalid
from retriever_client.cli import watching
from retriever_client.cli.commands import check as check_module
from retriever_client.cli.commands.check import WRITERS
from retriever_client.cli.exit_codes import ExitCode
from retriever_client.cli.main import retriever
from retriever_client.errors import Problem
from retriever_client.testing import Ended, FakeRetriever, FakeService, broken, parked

OK, BAD, DOWN = "https://example.com/ok", "https://example.com/bad", "https://example.com/down"
MOVED, WALLED, DENIED = "https://example.com/moved", "https://example.com/walled", "http://10.0.0.1/"
HOPS: list[dict[str, Any]] = [
    {"status": 301, "location": "https://example.com/new"},
    {"status": 200, "location": None},
]
ANSWERS = {
    BAD: broken("http_404"),
    DOWN: Ended("parked", {"verdict": "down", "reason": "http_429"}, "http_429", "It asks us to wait."),
    MOVED: Ended(
        result={
            "verdict": "ok",
            "reason": "ok",
            "status": 200,
            "final_url": HOPS[0]["location"],
            "hops": HOPS,
        }
    ),
    WALLED: Ended(result={"verdict": "blocked", "reason": "http_403", "explanation": "It lets us not in."}),
    DENIED: parked("egress_denied", "Its address is not public."),
}
FOUND = ["check", "a.md"]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRetriever]:
    """Yield a client of a service that knows good URLs and bad ones, in a folder with a document of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    (tmp_path / "good.md").write_text(f"[a]({OK})\n")
    (tmp_path / "a.md").write_text(f"# A\n\n[a]({OK}) [b]({BAD}#x)\n![c]({DOWN})\n[d]({MOVED})\n")
    (tmp_path / "b.html").write_text(f'<p>\n<a href="{BAD}">\n<a href="a.md#a"><a href="gone.md">\n')
    with FakeRetriever() as made:
        made.service.answers.update(ANSWERS)
        yield made


def run(client: FakeRetriever, *arguments: str, given: str | None = None) -> Result:
    result = CliRunner().invoke(retriever, arguments, obj=client, input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def links(client: FakeRetriever, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(client, *arguments, "-o", "json").stdout)["links"]
    return found


def places(found: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(each["file"], each["line"], each["column"], each["outcome"]) for each in found]


def asked(client: FakeRetriever) -> Counter[str]:
    return Counter(job["args"]["url"] for job in client.service.jobs.values())


def test_each_url_is_asked_once_and_reported_wherever_it_is_written(client: FakeRetriever) -> None:
    found = links(client, "check", "a.md", "b.html")

    assert places(found) == [
        ("a.md", 3, 5, "ok"),
        ("a.md", 3, 33, "broken"),
        ("a.md", 4, 6, "down"),
        ("a.md", 5, 5, "ok"),
        ("b.html", 2, 10, "broken"),
        ("b.html", 3, 10, "ok"),
        ("b.html", 3, 27, "broken"),
    ]
    assert asked(client) == Counter({OK: 1, BAD: 1, DOWN: 1, MOVED: 1})
    assert [each["reason"] for each in found if each["failure"]] == [
        "http_404",
        "http_429",
        "http_404",
        "file_missing",
    ]


@pytest.mark.parametrize("output", list(WRITERS))
def test_the_exit_code_is_the_same_whatever_is_printed(client: FakeRetriever, output: str) -> None:
    assert run(client, *FOUND, "-o", output).exit_code == 1
    assert run(client, "check", "good.md", "-o", output).exit_code == 0
    assert run(client, *FOUND, "--report", f"{output}=report").exit_code == 1
    assert run(client, *FOUND, "-o", output, "--fail-on", "blocked").exit_code == 0


def problem(status: int) -> Problem:
    return Problem("about:blank", "No", status, "It is so.")


# The arguments, and what the service raises, that must end so.
ENDINGS: dict[ExitCode, tuple[list[str], BaseException | None]] = {
    ExitCode.GOOD: (["good.md"], None),
    ExitCode.FOUND: (["a.md"], None),
    ExitCode.USAGE: (["empty.md"], None),
    ExitCode.UNREACHABLE: (["good.md"], ConnectionFailed("No answer")),
    ExitCode.NOT_ALLOWED: (["good.md"], NotAllowed(problem(403))),
    ExitCode.UNFINISHED: (["good.md", "--wait", "0"], None),
    ExitCode.INTERRUPTED: (["good.md"], KeyboardInterrupt()),
}


@pytest.mark.parametrize("code", [code for code in ExitCode if code is not ExitCode.FAULT])
def test_every_exit_code_has_its_reason(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch, code: ExitCode
) -> None:
    arguments, error = ENDINGS[code]
    Path("empty.md").write_text("# Nothing\n")
    if error is not None:
        monkeypatch.setattr(client.batches, "submit", fail(error))
    if code is ExitCode.UNFINISHED:
        never_ends(monkeypatch)

    result = run(client, "check", *arguments)

    assert result.exit_code == code
    assert "Traceback" not in result.output


def fail(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


def never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs wait: the service has them, and does nothing."""
    monkeypatch.setattr(FakeService, "_run", lambda _service, _job: None)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.md", "--colour"],
        ["a.md", "--fail-on", "broken,brokn"],
        ["a.md", "--exclude", "("],
        ["a.md", "--max-age", "soon"],
        ["a.md", "--max-age", "0"],
        ["a.md", "--report", "junit"],
        ["a.md", "--report", "junit=no/such/folder.xml"],
        ["a.md", "--report", "pdf=x"],
        ["a.md", "--update-baseline"],
        ["a.md", "--baseline", "none.json"],
        ["a.md", "--baseline", "a.md"],
        ["a.md", "--query", "links[?"],
        ["a.md", "--query", "links", "-o", "csv"],
        ["a.md", "--attach", "1"],
        ["a.md", "--offline", "--detach"],
        ["a.md", "--local", "--detach"],
        ["a.md", "--header", "no colon"],
        ["a.md", "--changed-since", "HEAD"],
        ["none.md"],
        ["*.none"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_said_before_anybody_is_asked(
    client: FakeRetriever, arguments: list[str]
) -> None:
    result = run(client, "check", *arguments)

    assert (result.exit_code, result.stdout) == (ExitCode.USAGE, "")
    assert result.stderr
    assert client.service.requests == []


def test_one_run_gives_every_report_and_they_agree(client: FakeRetriever) -> None:
    Path("c.md").write_text(f"[a]({WALLED}) [b]({DENIED}) [c](http://[::1/) [d](mailto:x@example.com)\n")
    reports = [f"--report={name}=report.{name}" for name in WRITERS]

    result = run(client, "check", "a.md", "b.html", "c.md", "--redirects", "warn", *reports)

    expected = {"broken": 3, "down": 1, "rejected": 1, "unanswered": 1, "blocked": 1, "redirect": 1}
    assert {name: count_in(name, Path(f"report.{name}").read_text()) for name in WRITERS} == dict.fromkeys(
        WRITERS, expected
    )
    assert len(client.service.batches) == 1
    assert result.stdout == Path("report.table").read_text()
    assert result.exit_code == 1


def count_in(name: str, report: str) -> dict[str, int]:
    """Return how many links ended how, by a report in its own words."""
    match name:
        case "table" | "plain" | "markdown" | "github":
            # Each line of a link has its outcome as a word of its own; the figures have a number before it.
            patterns = {
                "table": r"^  \d+:\d+ +(\w+) ",
                "plain": r"^[^\t]+\t(\w+)\t",
                "markdown": r"^\| `[^`]+` \| (\w+) \|",
                "github": r"^::\w+ .*,title=(\w+) link::",
            }
            words = re.findall(patterns[name], report, re.MULTILINE)
        case "json":
            words = [each["outcome"] for each in json.loads(report)["links"]]
            assert json.loads(report)["summary"]["outcomes"] == {
                **dict.fromkeys(("unread", "unfinished"), 0),
                **Counter(words),
            }
        case "ndjson":
            words = [json.loads(line)["outcome"] for line in report.splitlines()]
        case "csv":
            words = [row["outcome"] for row in csv.DictReader(io.StringIO(report))]
        case "junit":
            words = junit_outcomes(report)
        case _:
            words = [each["ruleId"] for each in json.loads(report)["runs"][0]["results"]]
    return {word: count for word, count in Counter(words).items() if word != "ok"}


def junit_outcomes(report: str) -> list[str]:
    suite = ET.fromstring(report)[0]  # noqa: S314 - our own
    endings = [each for case in suite for each in case]
    figures = {tag: sum(each.tag == tag for each in endings) for tag in ("failure", "error", "skipped")}
    assert [int(suite.get(name, "")) for name in ("tests", "failures", "errors", "skipped")] == [
        len(suite),
        *figures.values(),
    ]
    # A redirect passes; it has no element of its own.
    passed = ["redirect" for case in suite if str(case.get("name", "")).endswith(MOVED)]
    return passed + [str(each.get("type")).partition(".")[0] for each in endings]


@pytest.mark.parametrize(
    ("redirects", "code", "outcome"), [("allow", 0, "ok"), ("warn", 0, "redirect"), ("error", 1, "redirect")]
)
def test_a_redirect_is_never_broken(client: FakeRetriever, redirects: str, code: int, outcome: str) -> None:
    Path("m.md").write_text(f"<{MOVED}>\n")

    result = run(client, "check", "m.md", "--redirects", redirects, "-o", "json")

    (link,) = json.loads(result.stdout)["links"]
    assert (result.exit_code, link["outcome"], link["final_url"]) == (
        code,
        outcome,
        "https://example.com/new",
    )
    assert json.loads(result.stdout)["summary"]["outcomes"]["broken"] == 0


def test_a_baseline_fails_only_on_what_is_new(client: FakeRetriever) -> None:
    written = run(client, *FOUND, "--baseline", "known.json", "--update-baseline")
    again = run(client, *FOUND, "--baseline", "known.json")
    # Two lines down, and a new one; the other is mended.
    Path("a.md").write_text(f"\n\n[b]({BAD}#x) [gone](gone.md)\n")
    moved = run(client, *FOUND, "--baseline", "known.json", "-o", "plain")

    assert (written.exit_code, again.exit_code, moved.exit_code) == (0, 0, 1)
    assert [line.split("\t")[:2] for line in moved.stdout.splitlines()] == [["a.md:3:39", "broken"]]
    assert "1 known by the baseline, 1 new" in moved.stderr
    assert "1 of the baseline fail no more" in moved.stderr
    assert run(client, *FOUND, "--baseline", "known.json", "--update-baseline").exit_code == 0
    assert [each["url"] for each in json.loads(Path("known.json").read_text())["links"]] == [
        "gone.md",
        f"{BAD}#x",
    ]


def test_a_baseline_is_not_written_by_a_run_that_is_not_over(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_ends(monkeypatch)

    assert run(client, *FOUND, "--baseline", "new.json", "--update-baseline", "--wait", "0").exit_code == 5
    assert not Path("new.json").exists()


def test_fragments_are_looked_for_when_they_are_wanted(client: FakeRetriever) -> None:
    def answer(job: Any) -> Ended:
        found = {
            each: {"passed": {"here": True, "gone": False}.get(each)} for each in job["args"]["fragments"]
        }
        return Ended(result={"verdict": "ok", "reason": "ok", "fragments": found})

    client.service.answers[f"{OK}/page"] = answer
    Path("f.md").write_text(
        f"[a]({OK}/page#here) [b]({OK}/page#gone) [c]({OK}/page#pdf) [d]({OK}/page#top)\n"
    )

    found = links(client, "check", "f.md", "--fragments")

    assert [each["outcome"] for each in found] == ["ok", "broken", "ok", "ok"]
    assert [each["reason"] for each in found] == [None, "fragment_missing", None, None]
    (job,) = client.service.jobs.values()
    assert job["args"]["fragments"] == ["gone", "here", "pdf"]
    assert "1 fragment could not be looked for" in run(client, "check", "f.md", "--fragments").stdout


def test_what_is_handed_in_and_left_is_collected_by_its_batch(client: FakeRetriever) -> None:
    left = run(client, "check", "a.md", "b.html", "--detach", "--redirects", "warn")
    batch_id = left.stdout.strip()
    # Elsewhere, without the documents.
    Path("a.md").unlink()
    attached = run(client, "check", "--attach", batch_id, "-o", "json", "--redirects", "warn")

    assert (left.exit_code, attached.exit_code) == (1, 1)
    assert f"--attach {batch_id}" in left.stderr
    assert places(json.loads(attached.stdout)["links"]) == [
        ("a.md", 3, 5, "ok"),
        ("a.md", 3, 33, "broken"),
        ("a.md", 4, 6, "down"),
        ("a.md", 5, 5, "redirect"),
        ("b.html", 2, 10, "broken"),
    ]
    assert run(client, "check", "good.md", "--detach").exit_code == 0


def test_a_ref_that_is_full_says_where_the_url_is_written_first(client: FakeRetriever) -> None:
    Path("many.md").write_text(f"<{OK}>\n" * 100)

    assert len(links(client, "check", "many.md")) == 100
    (job,) = client.service.jobs.values()
    assert job["ref"].startswith("many.md:1:2 many.md:2:2 ")
    assert len(job["ref"]) <= 512


def test_what_the_service_refuses_is_rejected_and_the_rest_runs(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = "https://example.com/refused"

    def check_args(_service: FakeService, _kind: str, args: dict[str, Any], at: str) -> None:
        if args["url"].startswith(refuse):
            raise invalid(f"{at}/url", "It is too long")

    monkeypatch.setattr(FakeService, "_check_args", check_args)
    Path("r.md").write_text(f"[a]({OK}) [b]({refuse}) [c]({BAD})\n")
    Path("s.md").write_text(f"[b]({refuse}) [c]({refuse}/2)\n")

    some, none = links(client, "check", "r.md"), links(client, "check", "s.md")

    assert [each["outcome"] for each in some] == ["ok", "rejected", "broken"]
    assert some[1]["explanation"] == "It is too long"
    assert [each["outcome"] for each in none] == ["rejected", "rejected"]


def test_more_urls_than_a_batch_takes_go_in_several(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module, "_BATCH_URLS", 2)
    Path("n.md").write_text("".join(f"<https://example.com/{n}>\n" for n in range(5)) + f"<{BAD}>\n<{OK}>\n")

    found = links(client, "check", "n.md")

    assert [batch["total"] for batch in map(client.service._shown_batch, client.service.batches)] == [
        2,
        2,
        2,
        1,
    ]
    assert [each["outcome"] for each in found] == ["ok"] * 5 + ["broken", "ok"]


def test_a_document_that_cannot_be_read_fails_the_run(client: FakeRetriever) -> None:
    Path("binary.md").write_bytes(b"\0\1\2")

    result = run(client, "check", "good.md", "binary.md", "-o", "json")

    assert result.exit_code == 1
    assert places(json.loads(result.stdout)["links"])[0] == ("binary.md", 1, 1, "unread")
    assert run(client, "check", "good.md", "binary.md", "--fail-on", "broken").exit_code == 0


def test_offline_needs_no_service(client: FakeRetriever) -> None:
    result = run(client, "check", "a.md", "b.html", "--offline", "-o", "json")

    assert result.exit_code == 1
    assert [each["url"] for each in json.loads(result.stdout)["links"]] == ["a.md#a", "gone.md"]
    assert json.loads(result.stdout)["summary"]["skipped"] == {"offline": 5}
    assert client.service.requests == []


def test_no_link_is_an_error_unless_that_may_be(client: FakeRetriever) -> None:
    Path("empty.md").write_text("[a](mailto:x@example.com)\n")

    assert run(client, "check", "empty.md").exit_code == 2
    assert run(client, "check", "empty.md", "--allow-empty", "-o", "junit").exit_code == 0
    assert client.service.requests == []


def test_what_is_asked_can_be_chosen(client: FakeRetriever) -> None:
    run(client, "check", "a.md", "--include", "example", "--exclude", "/(bad|down)(#x)?$")

    assert asked(client) == Counter({OK: 1, MOVED: 1})


def test_what_is_sent_along(client: FakeRetriever) -> None:
    arguments = [
        "--max-age",
        "1d",
        "--attempts",
        "2",
        "--retry-delay",
        "3s",
        "--label",
        "team=docs",
        "--lane",
        "bulk",
    ]
    sent: dict[str, Any] = {}
    submit = client.batches.submit

    def watched(kind: str, items: Any, **more: Any) -> Any:
        sent.update(more)
        return submit(kind, items, **more)

    client.batches.submit = watched  # type: ignore[method-assign]
    run(client, "check", "good.md", *arguments, "--status", "200-299", "--status", "401", "--header", "A: b")

    assert sent == {
        "defaults": {"statuses": ["200-299", 401], "headers": {"A": "b"}},
        "lane": "bulk",
        "labels": {"team": "docs"},
        "retry": {"max_attempts": 2, "first_delay_seconds": 3.0},
        "reuse_within_seconds": 86_400.0,
    }


def test_inputs_of_every_sort_are_read(client: FakeRetriever) -> None:
    Path("list.txt").write_text("# ours\ngood.md\n")
    Path("sitemap.xml").write_text(
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url><loc>{OK}</loc></url></urlset>'
    )

    listed = links(client, "check", "--files-from", "list.txt")
    mapped = links(client, "check", "--sitemap", "sitemap.xml")
    given = json.loads(run(client, "check", "-", "-o", "json", given=f"see {BAD}\n").stdout)["links"]

    assert places(listed) == [("good.md", 1, 5, "ok")]
    assert [(each["file"], each["kind"]) for each in mapped] == [("sitemap.xml", "page")]
    assert places(given) == [("-", 1, 5, "broken")]


def test_files_are_called_by_their_way_from_here(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    Path("a.md").write_text("[g](good.md)\n")

    here = links(client, "check", str(tmp_path / "a.md"), "--offline")
    monkeypatch.chdir(tmp_path / "below")
    below = links(client, "check", "../a.md", "--offline")

    assert [(each["file"], each["url"]) for each in here] == [("a.md", "good.md")]
    assert [(each["file"], each["url"]) for each in below] == [
        (f"{tmp_path}/a.md", f"{tmp_path}/good.md"),
    ]


def test_ignore_comments_hold_and_a_word_that_means_nothing_is_told(client: FakeRetriever) -> None:
    Path("i.md").write_text(f"[b]({BAD}) <!-- retriever: ignore -->\n[o]({OK}) <!-- retriever: ignroe -->\n")

    result = run(client, "check", "i.md", "-o", "json")

    assert result.exit_code == 0
    assert places(json.loads(result.stdout)["links"]) == [("i.md", 2, 5, "ok")]
    assert json.loads(result.stdout)["summary"]["ignored"] == 1
    assert "i.md:2:" in result.stderr and "ignroe" in result.stderr


def test_the_batch_is_named_at_once_also_in_a_pipe(client: FakeRetriever) -> None:
    result = run(client, *FOUND, "-o", "json")

    (batch_id,) = client.service.batches
    assert f"Batch {batch_id} at {client.url}: 4 URLs." in result.stderr
    assert "4 links in 1 document: 1 broken, 1 down, 2 ok." in result.stderr
    assert json.loads(result.stdout)["summary"]["batches"] == [batch_id]


def test_a_query_picks_out_of_the_document(client: FakeRetriever) -> None:
    result = run(client, *FOUND, "--query", "links[?failure].[line, url]")

    assert json.loads(result.stdout) == [[3, f"{BAD}#x"], [4, DOWN]]
    assert result.exit_code == 1


def test_a_sarif_log_has_what_the_standard_allows(client: FakeRetriever) -> None:
    Path("c [x].md").write_text(f"[c](http://[::1/) [b]({BAD})\n")
    run(client, "check", "c [x].md", "--baseline", "known.json", "--update-baseline")
    arguments = (
        "check",
        "a.md",
        "c [x].md",
        "--redirects",
        "warn",
        "--baseline",
        "known.json",
        "-o",
        "sarif",
    )

    log = json.loads(run(client, *arguments).stdout)

    jsonschema.validate(log, SARIF, format_checker=jsonschema.FormatChecker())
    results = log["runs"][0]["results"]
    assert [each["baselineState"] for each in results] == ["new", "new", "new", "unchanged", "unchanged"]
    assert [each["level"] for each in results] == ["error", "error", "note", "warning", "warning"]
    place = results[3]["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]) == (
        "c%20%5Bx%5D.md",
        {"startLine": 1, "startColumn": 5},
    )
    assert results[3]["message"]["text"].startswith(r"http://\[::1/")
    assert {each["ruleId"] for each in results} <= {
        rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]
    }


def closed(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


TEXT = {"type": "string", "minLength": 1}
COUNTED = {"type": "integer", "minimum": 1}
BAG = {"type": "object"}
MESSAGE = closed("text", text=TEXT)
# What of SARIF 2.1.0 (sections 3.13 to 3.49) we write, and nothing else.
SARIF = closed(
    "version runs",
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"enum": ["2.1.0"]},
    runs={
        "type": "array",
        "items": closed(
            "tool results",
            tool=closed(
                "driver",
                driver=closed(
                    "name",
                    name=TEXT,
                    semanticVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
                    rules={
                        "type": "array",
                        "items": closed("id", id=TEXT, name=TEXT, shortDescription=MESSAGE),
                    },
                ),
            ),
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            properties=BAG,
            results={
                "type": "array",
                "items": closed(
                    "message ruleId",
                    ruleId=TEXT,
                    level={"enum": ["none", "note", "warning", "error"]},
                    message=MESSAGE,
                    baselineState={"enum": ["new", "unchanged", "updated", "absent"]},
                    locations={
                        "type": "array",
                        "items": closed(
                            "physicalLocation",
                            physicalLocation=closed(
                                "artifactLocation region",
                                artifactLocation=closed(
                                    "uri", uri={"type": "string", "format": "uri-reference"}
                                ),
                                region=closed("startLine", startLine=COUNTED, startColumn=COUNTED),
                            ),
                        ),
                    },
                    partialFingerprints={"type": "object", "additionalProperties": TEXT},
                    properties=BAG,
                ),
            },
        ),
    },
)


def test_what_strangers_write_does_not_break_out_of_a_report(client: FakeRetriever) -> None:
    Path("evil,%\x1b[31m.md").write_text(
        f"[a]({BAD}/`x`|y|%0a::error::) [b](x\u202e::warning::.md) [c](no|`.md)\n"
    )
    client.service.answers[f"{BAD}/`x`|y|%0a::error::"] = parked("odd", "\x1b[2J\r\n::error::owned\x00 <b>|`")

    report = {name: run(client, "check", ".", "-o", name).stdout for name in WRITERS}

    for name in ("table", "plain", "markdown", "github"):
        assert not set("\x1b\x00\r\u202e") & set(report[name]), name
    commands = [line for line in report["github"].splitlines() if line.startswith("::")]
    assert len(commands) == len(report["github"].splitlines())
    assert r"file=evil%2C%25\x1b[31m.md,line=1" in report["github"]
    rows = [line for line in report["markdown"].splitlines() if "evil" in line]
    assert {re.sub(r"\\\|", "", row).count("|") for row in rows} == {5}
    assert ET.fromstring(report["junit"]) is not None  # noqa: S314 - our own


def test_github_gets_annotations_and_a_summary(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))

    result = run(client, *FOUND, "-o", "github", "--redirects", "warn")

    assert result.stdout.splitlines() == [
        f"::error file=a.md,line=3,col=33,title=broken link::http_404 {BAD}#x",
        f"::error file=a.md,line=4,col=6,title=down link::http_429 {DOWN}",
        f"::notice file=a.md,line=5,col=5,title=redirect link::http_301 {MOVED} -> https://example.com/new",
    ]
    assert (tmp_path / "summary.md").read_text().startswith("## Links: 2 failures\n")


def test_a_long_markdown_report_says_what_it_leaves_out(client: FakeRetriever) -> None:
    Path("long.md").write_text("[x](gone.md)\n" * 300)

    report = run(client, "check", "long.md", "-o", "markdown").stdout

    assert report.count("| `long.md:") == 250
    assert "50 more are not listed." in report


def test_colours_are_for_terminals_that_want_them(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured = CliRunner().invoke(retriever, FOUND, obj=client, color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = CliRunner().invoke(retriever, FOUND, obj=client, color=True)

    assert "\x1b[31m" in coloured.stdout
    assert "\x1b" not in plain.stdout


class Interruptions:
    """A wait that is interrupted, so often."""

    def __init__(self, client: FakeRetriever, monkeypatch: pytest.MonkeyPatch, *, times: int = 1) -> None:
        self._client, self._wait, self._times = client, client.batches.wait, times
        monkeypatch.setattr(client.batches, "wait", self._interrupted)

    def _interrupted(self, *arguments: Any, **more: Any) -> Any:
        if self._times:
            self._times -= 1
            raise KeyboardInterrupt
        return self._wait(*arguments, **more)

    @property
    def is_cancelled(self) -> bool:
        return any(path.endswith("/cancel") for _, path in self._client.service.requests)


@pytest.mark.parametrize(
    ("arguments", "is_cancelled"), [([], True), (["--detach-on-interrupt"], False)], ids=["cancels", "leaves"]
)
def test_ctrl_c_where_nobody_can_be_asked(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch, arguments: list[str], is_cancelled: bool
) -> None:
    never_ends(monkeypatch)
    interruptions = Interruptions(client, monkeypatch)

    result = run(client, *FOUND, *arguments)

    assert (result.exit_code, interruptions.is_cancelled, result.stdout) == (130, is_cancelled, "")
    assert ("--attach" in result.stderr) is not is_cancelled


@pytest.mark.parametrize(
    ("answer", "code", "is_cancelled"),
    [("d\n", 130, False), ("c\n", 130, True), ("g\n", 1, False), ("", 130, False)],
)
def test_ctrl_c_asks_on_a_terminal(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, is_cancelled: bool
) -> None:
    monkeypatch.setattr(watching, "is_terminal", lambda: True)
    interruptions = Interruptions(client, monkeypatch)

    result = run(client, *FOUND, given=answer)

    assert (result.exit_code, interruptions.is_cancelled) == (code, is_cancelled)
    assert "go on waiting" in result.stderr


def test_a_second_ctrl_c_leaves_at_once(client: FakeRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
    Interruptions(client, monkeypatch)
    monkeypatch.setattr(client.batches, "cancel", fail(KeyboardInterrupt()))

    result = run(client, *FOUND)

    assert result.exit_code == 130
    assert "Left at once" in result.stderr and "--attach" in result.stderr


def test_a_service_that_goes_away_leaves_the_way_back(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.batches, "wait", fail(Unavailable(problem(503))))

    result = run(client, *FOUND)

    assert result.exit_code == 3
    assert "--attach" in result.stderr


def test_progress_is_a_line_now_and_then_in_a_pipe(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_LINE_SECONDS", 0.0)
    never_ends(monkeypatch)

    assert "0 of 4 URLs: 4 to do" in run(client, *FOUND, "--wait", "0").stderr
    assert "URLs:" not in run(client, *FOUND, "--wait", "0", "--progress", "none").stderr
    assert run(client, *FOUND, "--wait", "0", "--progress", "bar").exit_code == 5


def test_what_is_unfinished_is_counted_for_people_and_listed_for_programs(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_ends(monkeypatch)
    reports = [f"--report={name}=report.{name}" for name in WRITERS]

    run(client, *FOUND, "--wait", "0", *reports)
    said = {name: Path(f"report.{name}").read_text() for name in WRITERS}

    assert said["table"] == "4 links in 1 document: 4 unfinished.\n"
    assert said["github"] == ""
    assert "| `" not in said["markdown"]
    assert {name: len(count) for name in ("plain", "ndjson") if (count := said[name].splitlines())} == {
        "plain": 4,
        "ndjson": 4,
    }
    assert len(json.loads(said["sarif"])["runs"][0]["results"]) == 4


def test_links_are_shown_and_nobody_is_asked(client: FakeRetriever) -> None:
    table = run(client, "links", "a.md")
    as_csv = list(csv.DictReader(io.StringIO(run(client, "links", "a.md", "b.html", "-o", "csv").stdout)))
    as_json = json.loads(run(client, "links", "a.md", "b.html", "-o", "json").stdout)
    lines = [
        json.loads(line)
        for line in run(client, "-o", "ndjson", "links", "a.md", "b.html").stdout.splitlines()
    ]

    assert table.stdout.splitlines()[1] == f"a.md:3:33  {BAD}#x"
    assert as_json == lines
    assert [row["url"] for row in as_csv] == [each["url"] for each in as_json]
    assert run(client, "links", "good.md", "-o", "plain").stdout == f"good.md:1:5\tlink\t{OK}\t-\n"
    assert client.service.requests == []
    assert [run(client, "links", *each).exit_code for each in (["b.html"], [], ["none.md"])] == [0, 2, 1]


def test_help_names_every_command(client: FakeRetriever) -> None:
    said = run(client, "--help").stdout

    assert all(
        f"\n  {name} " in said for name in ("check", "links", "fetch", "run", "jobs", "batches", "api")
    )


def test_an_error_of_the_client_is_words(client: FakeRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.batches, "submit", fail(RetrieverError("It is so.")))

    result = run(client, *FOUND)

    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, "retriever: It is so.")


def test_a_program_that_ran_is_printed_and_judged(client: FakeRetriever) -> None:
    written = {"text": "out\n", "tail": "", "bytes": 4, "omitted_bytes": 0}
    cut = {"text": "begin", "tail": "end\n", "bytes": 1_000, "omitted_bytes": 991}
    # A command has no URL.
    client.service.answers[""] = Ended(result={"exit_code": 0, "stdout": written, "stderr": cut})

    good = run(
        client, "run", "--stdin", "-", "--limit", "5m", "--env", "A=1", "--", "sort", "-u", given="b\na\n"
    )

    (job,) = client.service.jobs.values()
    assert (good.exit_code, good.stdout) == (0, "out\n")
    assert "begin\n[991 bytes are not kept]\nend\n" in good.stderr
    assert job["args"] == {
        "argv": ["sort", "-u"],
        "stdin": "b\na\n",
        "env": {"A": "1"},
        "timeout_seconds": 300.0,
    }
    client.service.answers[""] = Ended("parked", {"exit_code": 3, "stdout": written}, "exit_3", "It failed.")
    bad = run(client, "run", "--shell", "exit 3", "--attempts", "1")
    assert (bad.exit_code, bad.stdout) == (1, "out\n")
    assert "exit_3" in bad.stderr and "jobs redrive" in bad.stderr


def test_values_are_sent_as_they_are_and_fields_without_the_blanks_around(client: FakeRetriever) -> None:
    run(client, "run", "--detach", "--env", "A= two = b ", "--", "env")
    run(client, "fetch", "--detach", "--header", "X-Kind:  a b ", OK)

    command, fetched = client.service.jobs.values()
    assert command["args"]["env"] == {"A": " two = b "}
    assert fetched["args"]["headers"] == {"X-Kind": "a b"}


@pytest.mark.parametrize("command", [["fetch", OK], ["run", "true"]], ids=["fetch", "run"])
def test_one_job_is_left_waited_for_and_interrupted_as_a_batch_is(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    never_ends(monkeypatch)
    name, *rest = command
    left = run(client, name, "--detach", *rest)
    late = run(client, name, "--wait", "0", *rest)
    monkeypatch.setattr(client.jobs, "wait", fail(KeyboardInterrupt()))
    stopped = run(client, name, *rest)

    assert (left.exit_code, left.stdout.strip()) == (0, next(iter(client.service.jobs)))
    assert (late.exit_code, late.stdout) == (5, "")
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert [job["state"] for job in client.service.jobs.values()] == ["accepted", "accepted", "cancelled"]
    assert all("jobs watch" in each.stderr for each in (left, late))


def test_arguments_of_a_kind_are_json_or_text(client: FakeRetriever) -> None:
    run(
        client,
        "fetch",
        OK,
        "--arg",
        'pages={"by": "page"}',
        "--arg",
        "method=GET",
        "--detach",
        "--header",
        "A: b",
    )

    (job,) = client.service.jobs.values()
    assert job["args"] == {"url": OK, "pages": {"by": "page"}, "method": "GET", "headers": {"A": "b"}}
