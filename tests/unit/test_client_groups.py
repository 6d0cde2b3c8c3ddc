"""The groups of the command line, on a service in memory: what they do, ask before they do, and print."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from retriever_client import ConnectionFailed, Unavailable
from retriever_client.cli.commands import bulk, doctor
from retriever_client.cli.main import retriever
from retriever_client.cli.output import Output
from retriever_client.cli.session import LONGEST_SUMMARY
from retriever_client.errors import Problem
from retriever_client.testing import FakeRetriever, parked, succeeded

BAD = "https://example.com/bad"
GOOD = "https://example.com/"
HOUR = 3_600


@pytest.fixture
def client() -> Iterator[FakeRetriever]:
    with FakeRetriever() as made:
        made.service.answers[BAD] = parked("http_503")
        yield made


def run(client: FakeRetriever, *arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(retriever, arguments, obj=client, input=given)


def read(client: FakeRetriever, *arguments: str) -> list[dict[str, str]]:
    result = run(client, *arguments, "-o", "csv")
    assert result.exit_code == 0, result.stderr
    return [*csv.DictReader(io.StringIO(result.stdout))]


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return the answers that a person gives, the next one first."""
    answers: list[bool] = []

    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    monkeypatch.setattr(bulk, "sys", SimpleNamespace(stdin=Terminal, stderr=Terminal))
    monkeypatch.setattr(bulk, "say", lambda _words: None)
    monkeypatch.setattr(click, "confirm", lambda *_words, **_how: answers.pop(0))
    return answers


def walk(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from walk(command, *names, name)


@pytest.mark.parametrize("names", [names for names, _ in walk(retriever)], ids=" ".join)
def test_every_command_says_what_it_does_and_takes_the_options_of_the_output(
    client: FakeRetriever, names: tuple[str, ...]
) -> None:
    help_text = run(client, *names, "--help")

    assert help_text.exit_code == 0
    assert help_text.stdout.count("\n") > 4
    command = dict(walk(retriever))[names]
    assert re.search(r"[^.]\.$", command.get_short_help_str(LONGEST_SUMMARY))
    has_options = "--output" in help_text.stdout or "--to" in help_text.stdout
    assert has_options or isinstance(command, click.Group) or names == ("completion",)


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "redrive", "--host", "example.com"),
        ("jobs", "discard", "--reason", "http_503"),
        ("parked", "redrive", "--host", "example.com"),
        ("parked", "discard", "--every"),
    ],
    ids=" ".join,
)
def test_what_touches_many_jobs_shows_them_and_does_nothing_unless_it_is_told_to(
    client: FakeRetriever, command: tuple[str, ...]
) -> None:
    jobs = [client.check(BAD), client.check(BAD)]

    counted = run(client, *command, "--dry-run")
    asked = run(client, *command)
    assert counted.stdout == "matching  2\n"
    assert (asked.exit_code, asked.stdout) == (2, "")
    assert "2 jobs match" in asked.stderr
    assert "--yes" in asked.stderr
    assert "http_503" in asked.stderr
    assert {client.jobs.get(job).run for job in jobs} == {1}
    assert [*client.operations.list()] == []

    done = run(client, *command, "--yes", "-o", "json")
    assert json.loads(done.stdout)["total"] == 2
    assert "retriever operations watch" in done.stderr
    assert {client.jobs.get(job).run for job in jobs} == {2}


def test_jobs_that_match_are_cancelled_and_others_are_not(client: FakeRetriever) -> None:
    waiting = client.check(GOOD, wait=0, delay_seconds=HOUR, labels={"team": "docs"})
    other = client.check(GOOD, wait=0, delay_seconds=HOUR)

    done = run(client, "jobs", "cancel", "--label", "team=docs", "--yes")

    assert done.exit_code == 0, done.stderr
    assert waiting.id in done.stderr
    assert client.jobs.get(waiting).state == "cancelled"
    assert client.jobs.get(other).state == "scheduled"
    nothing = run(client, "jobs", "cancel", "--label", "team=docs", "--yes")
    assert (nothing.exit_code, "nothing was done" in nothing.stderr) == (0, True)


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "cancel"),
        ("jobs", "cancel", "0199", "--host", "example.com"),
        ("parked", "discard"),
        ("parked", "redrive", "--every", "--host", "example.com"),
        ("jobs", "list", "--label", "team"),
        ("tasks", "submit"),
        ("tasks", "submit", "--payload", "{"),
        ("hosts", "limit", "example.com"),
        ("hosts", "limit", "example.com", "--at-once", "1", "--clear"),
        ("limits", "set", "docs", "schedules"),
        ("limits", "set", "docs", "nothing=1"),
        ("kinds", "show", "nothing"),
        ("kinds", "pause", "nothing"),
        ("schedules", "create", "check", "--args", "{", "--every", "60"),
        ("secrets", "create", "crm", "--origin", "https://a.example"),
        ("open", "nothing"),
        ("jobs", "list", "--query", "[["),
        ("jobs", "list", "-o", "json", "--query", "sum(@)"),
        ("completion", "tcsh"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_refused_in_words(client: FakeRetriever, command: tuple[str, ...]) -> None:
    client.check(GOOD)
    before = client.service.requests.copy()

    refused = run(client, *command)

    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "rror" in refused.stderr or refused.stderr.startswith("retriever: 4")
    changes = [each for each in client.service.requests[len(before) :] if each[0] not in {"GET", "PUT"}]
    assert [each for each in changes if not each[1].startswith("/kinds/nothing")] == []


def test_a_person_is_asked_and_may_say_no(client: FakeRetriever, at_a_terminal: list[bool]) -> None:
    at_a_terminal += [False, True]
    with pytest.raises(click.exceptions.Exit) as raised:
        bulk.confirm("Discard all 2?", yes=False)
    assert raised.value.exit_code == 2
    bulk.confirm("Discard all 2?", yes=False)
    bulk.confirm("Discard all 2?", yes=True)
    assert at_a_terminal == []


def test_a_batch_is_cancelled_when_somebody_agrees_and_its_rejected_lines_are_shown(
    client: FakeRetriever,
) -> None:
    batch = client.batches.submit("check", [GOOD, "nothing"], delay_seconds=HOUR)

    (line,) = read(client, "batches", "rejected", batch.id)
    assert (line["number"], "scheme" in line["msg"]) == ("2", True)
    assert read(client, "batches", "cancel", batch.id, "--dry-run")[0]["ended"] == "0"
    refused = run(client, "batches", "cancel", batch.id)
    assert (refused.exit_code, "Cancel 1 jobs" in refused.stderr) == (2, True)
    assert client.batches.get(batch).cancelled_at is None
    assert read(client, "batches", "cancel", batch.id, "--yes")[0]["ended"] == "1"


def test_operations_are_listed_watched_and_cancelled(client: FakeRetriever) -> None:
    client.check(BAD)
    run(client, "parked", "discard", "--every", "--yes")
    (listed,) = read(client, "operations", "list")

    watched = run(client, "operations", "watch", listed["id"])
    assert (watched.exit_code, watched.stderr) == (0, "1 of 1 done, 0 skipped\n")
    assert "done" in run(client, "operations", "show", listed["id"]).stdout
    assert "operation-finished" in run(client, "operations", "cancel", listed["id"]).stderr


def test_a_schedule_is_made_changed_and_deleted(client: FakeRetriever) -> None:
    run(client, "schedules", "create", "check", "--url", GOOD, "--cron", "0 3 * * *", "--name", "nightly")
    (listed,) = read(client, "schedules", "list")
    one = listed["id"]

    assert (listed["name"], listed["next_run"] != "", listed["paused"]) == ("nightly", True, "no")
    assert read(client, "schedules", "pause", one)[0]["paused"] == "yes"
    assert read(client, "schedules", "resume", one)[0]["paused"] == "no"
    assert read(client, "schedules", "run", one)[0]["runs"] == "1"
    assert [job.url for job in client.jobs.list(schedule=one)] == [GOOD]
    refused = run(client, "schedules", "delete", one)
    assert (refused.exit_code, "nightly, after 1 runs?" in refused.stderr) == (2, True)
    assert run(client, "schedules", "delete", one, "--yes").exit_code == 0
    assert read(client, "schedules", "list") == []


def test_tasks_are_handed_in_listed_and_aborted(client: FakeRetriever) -> None:
    run(client, "tasks", "submit", "--queue", "films", "--payload", '{"film": 7}', "--label", "a=b")
    (listed,) = read(client, "tasks", "list", "--queue", "films")

    assert client.tasks.get(listed["id"]).payload == {"film": 7}
    assert client.tasks.get(listed["id"]).labels == {"a": "b"}
    assert "queued" in run(client, "tasks", "show", listed["id"]).stdout
    assert read(client, "tasks", "abort", listed["id"])[0]["state"] == "cancelled"


def test_what_a_program_wrote_is_printed_and_does_not_draw(client: FakeRetriever) -> None:
    client.tasks.submit(payload=1)
    (task,) = client.tasks.pick(agent="ann")
    stream = {"text": "begin\n\x1b[2J", "tail": "end\n", "bytes": 5_000, "omitted_bytes": 4_980}
    client.tasks.finish(task, stdout=stream)

    written = run(client, "jobs", "output", task.id).stdout

    assert written == "begin\n\\x1b[2J\n... 4,980 bytes are left out ...\nend\n"
    assert run(client, "jobs", "output", task.id, "--stderr").stdout == ""


def test_a_body_is_written_as_it_is(client: FakeRetriever, tmp_path: Path) -> None:
    client.service.bodies[GOOD] = b"\x00\xff\x1b"
    client.service.answers[GOOD] = succeeded(status=200)
    job = client.fetch(GOOD)

    assert run(client, "jobs", "body", job.id).stdout_bytes == b"\x00\xff\x1b"
    run(client, "jobs", "body", job.id, "--to", str(tmp_path / "body"))
    assert (tmp_path / "body").read_bytes() == b"\x00\xff\x1b"


def test_kinds_and_lanes_are_paused_and_resumed(client: FakeRetriever) -> None:
    (paused,) = read(client, "kinds", "pause", "fetch", "--lane", "bulk", "--note", "Repairs")

    assert (paused["lane"], paused["note"], paused["since"] != "") == ("bulk", "Repairs", True)
    assert sum(each["since"] != "" for each in read(client, "kinds", "list")) == 1
    assert read(client, "kinds", "resume", "fetch")[0]["since"] == ""
    assert {each["since"] != "" for each in read(client, "lanes", "pause", "bulk")} == {True}
    assert {each["since"] for each in read(client, "lanes", "resume", "bulk")} == {""}
    assert "max_attempts" in run(client, "kinds", "show", "fetch").stdout


def test_a_host_is_limited_and_is_not_any_more(client: FakeRetriever) -> None:
    run(client, "hosts", "limit", "example.com", "--at-once", "4", "--per-second", "10")
    (listed,) = read(client, "hosts", "list")

    assert (listed["host"], listed["at_once"], listed["per_second"]) == ("example.com", "4", "10")
    assert read(client, "hosts", "limit", "example.com", "--clear")[0]["is_set"] == "no"
    assert run(client, "hosts", "show", "example.com").exit_code == 0


def test_limits_that_are_not_named_stay(client: FakeRetriever) -> None:
    run(client, "limits", "set", "docs", "schedules=3", "labels=5")
    run(client, "limits", "set", "docs", "labels=none")

    values = {each["name"]: each["value"] for each in read(client, "limits", "show", "docs") if each["value"]}
    assert values == {"schedules": "3"}


def test_a_key_is_made_for_a_file_rotated_and_revoked(client: FakeRetriever, tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = run(client, "keys", "create", "ci", "--scope", "jobs:read", "--to", str(path))
    (listed,) = read(client, "keys", "list")

    text = path.read_text().strip()
    assert text.startswith(listed["starts"])
    assert text not in made.output
    assert path.stat().st_mode & 0o777 == 0o600
    again = run(client, "keys", "rotate", listed["id"], "--to", str(path))
    assert (again.exit_code, path.read_text().strip()) == (2, text)
    assert len(client.keys.get(listed["id"]).starts) == 1
    rotated = run(client, "keys", "rotate", listed["id"], "-o", "plain", "--query", "key").stdout.strip()
    assert rotated.startswith(client.keys.get(listed["id"]).starts[0])
    refused = run(client, "keys", "revoke", listed["id"])
    assert (refused.exit_code, "Revoke the key ci?" in refused.stderr) == (2, True)
    assert read(client, "keys", "revoke", listed["id"], "--yes")[0]["state"] == "revoked"


def test_a_secret_comes_from_stdin_or_is_made(client: FakeRetriever) -> None:
    asked = ("secrets", "create", "crm", "--origin", "https://a.example", "--value-file", "-")
    assert run(client, *asked, given="s3cret\n").exit_code == 0
    made = run(
        client, "secrets", "create", "hook", "--origin", "https://b.example", "--use", "webhook", "--make"
    )
    hook, crm = read(client, "secrets", "list")

    assert "whsec_" in made.stdout
    assert crm["name"] == "crm"
    assert run(client, "secrets", "replace", hook["id"], "--make").exit_code == 0
    assert run(client, "secrets", "show", hook["id"]).exit_code == 0
    assert run(client, "secrets", "delete", crm["id"]).exit_code == 2
    assert run(client, "secrets", "delete", crm["id"], "--yes").exit_code == 0
    assert [each.name for each in client.secrets.list()] == ["hook"]


@pytest.mark.parametrize("option", ["--key", "--value", "--token", "--password"])
def test_nothing_secret_is_an_option(option: str) -> None:
    assert [
        names for names, command in walk(retriever) for each in command.params if option in each.opts
    ] == []


def test_what_was_done_is_shown(client: FakeRetriever) -> None:
    job = client.check(BAD)
    client.jobs.discard(job)

    (entry,) = read(client, "audit", "--target", f"job/{job.id}")
    stats = run(client, "stats").stdout

    assert entry["action"] == "job_discarded"
    assert re.search(r"^ended_last_minute +cancelled=1$", stats, re.MULTILINE)


def test_what_ends_is_told_until_ctrl_c(client: FakeRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
    job = client.check(BAD)
    told = read(client, "tail", "--after", "0", "--no-follow", "--state", "parked")
    lines = run(client, "tail", "--after", "0", "--no-follow", "-o", "ndjson", "--query", "job.reason")

    assert [(each["type"], each["thing"], each["reason"]) for each in told] == [
        ("job.parked", job.id, "http_503")
    ]
    assert lines.stdout == '"http_503"\n'

    events = client.events

    def interrupted(**_which: object) -> Iterator[object]:
        yield from events(after="0", follow=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "events", interrupted)
    stopped = run(client, "tail", "-o", "plain")
    assert (stopped.exit_code, stopped.stdout.count("\n")) == (130, 1)


def test_the_page_of_a_thing_is_found_by_its_id(client: FakeRetriever) -> None:
    job, batch = client.check(GOOD), client.batches.submit("check", [GOOD])

    assert run(client, "open", job.id).stdout == f"{client.url}/jobs/{job.id}\n"
    assert run(client, "open", batch.id).stdout == f"{client.url}/batches/{batch.id}\n"


def test_a_doctor_who_finds_nothing_says_so(client: FakeRetriever) -> None:
    found = run(client, "doctor", "-o", "csv")

    rows = [*csv.DictReader(io.StringIO(found.stdout))]
    assert {each["check"]: each["state"] for each in rows} == dict.fromkeys(
        ("api", "clock", "store", "versions", "ledger", "work", "hosts"), "ok"
    )
    assert found.exit_code == 0


def unready() -> bool:
    raise Unavailable(Problem("urn:x", "Unavailable", 503, "The store did not answer within 3 s."))


def away(*_what: object, **_more: object) -> object:
    raise ConnectionFailed("No answer from http://service.test in 4 tries: refused")


def test_a_doctor_says_what_to_do(client: FakeRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
    client.check(BAD)
    client.kinds.pause("fetch", lane="bulk", note="Repairs")
    client.service.operators.hosts["busy.example"] = {
        **client.hosts.set_limit("busy.example", concurrency=1).raw,
        "breaker": "open",
    }
    queues = client.service.operators._queues

    def idle(_self: object, kind: str) -> list[dict[str, object]]:
        return [{**each, "consumers": 0, "ready": 7} if kind == "check" else each for each in queues(kind)]

    monkeypatch.setattr(type(client.service.operators), "_queues", idle)
    monkeypatch.setattr(client, "is_ready", unready)
    found = run(client, "doctor", "-o", "csv")

    rows = [
        (each["check"], each["state"], each["todo"]) for each in csv.DictReader(io.StringIO(found.stdout))
    ]
    assert found.exit_code == 1
    assert ("workers", "bad", "python -m consumer worker --kinds check") in rows
    assert ("parked", "note", "retriever parked list") in rows
    assert ("hosts", "note", "retriever hosts show busy.example") in rows
    assert ("paused", "note", "retriever kinds resume fetch, or lanes resume bulk") in rows
    assert [state for name, state, todo in rows if name == "store" and "migrate" in todo] == ["bad"]


def test_a_doctor_sees_a_ledger_that_sees_nothing(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Later":
            return cls.fromtimestamp((datetime.now(UTC) + timedelta(hours=1)).timestamp(), UTC)

    monkeypatch.setattr(doctor, "datetime", Later)
    found = run(client, "doctor", "-o", "plain")

    bad = [line.split("\t")[0] for line in found.stdout.splitlines() if "\tbad\t" in line]
    assert (bad, found.exit_code) == (["clock", "ledger"], 1)


def test_a_doctor_without_an_answer_is_unreachable(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "request", away)

    found = run(client, "doctor")

    assert (found.exit_code, found.stdout.count("\n")) == (3, 2)
    assert "Is the API running there?" in found.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(client: FakeRetriever, shell: str) -> None:
    script = run(client, "completion", shell)

    assert (script.exit_code, "_RETRIEVER_COMPLETE" in script.stdout) == (0, True)


def test_a_shell_is_told_the_commands() -> None:
    environment = {
        **os.environ,
        "_RETRIEVER_COMPLETE": "bash_complete",
        "COMP_WORDS": "retriever parked ",
        "COMP_CWORD": "2",
    }
    command = [sys.executable, "-c", "from retriever_client.cli.main import main; main()"]
    said = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd="client/src"
    )

    assert sorted(said.stdout.splitlines()) == ["plain,discard", "plain,list", "plain,redrive"]


def printed(print_it: Callable[[Output], object], format_: str) -> str:
    @click.command()
    def command() -> None:
        print_it(Output(format_))

    return CliRunner().invoke(command, color=True).stdout


ROWS = [
    {"id": "1", "state": "parked", "url": "a\x1b]0;x\x07\u202eb\tc\nd", "labels": {"a": "b"}},
    {"id": "22", "state": "ok", "url": "日本", "labels": {}},
]


@pytest.mark.parametrize("format_", ["table", "plain", "csv", "json", "ndjson"])
def test_nothing_of_a_stranger_reaches_the_terminal_as_it_is(format_: str) -> None:
    text = printed(lambda output: output.many(ROWS, ("id", "url")), format_)

    assert not set(text) & {"\x1b", "\x07", "\u202e"} or format_ == "table"
    assert not set(text.replace("\x1b[1m", "").replace("\x1b[0m", "")) & {"\x1b", "\x07", "\u202e"}
    assert "\\x1b" in text or "\\u001b" in text
    rows = {"table": 3, "plain": 2, "csv": 3, "ndjson": 2}
    assert format_ == "json" or len(text.splitlines()) == rows[format_]


def test_columns_of_a_table_stand_below_each_other_in_any_script() -> None:
    rows = [ROWS[1], {"id": "3", "url": "abcd"}]

    lines = printed(lambda output: output.many(rows, ("url", "id")), "table").splitlines()

    assert lines == ["\x1b[1mURL   ID\x1b[0m", "日本  22", "abcd  3"]


def test_states_have_colours_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, client: FakeRetriever
) -> None:
    client.check(BAD)

    def listed(*arguments: str) -> str:
        runner = CliRunner()
        return runner.invoke(retriever, [*arguments, "jobs", "list"], obj=client, color=True).stdout

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31mparked\x1b[0m" in listed()
    assert "\x1b" not in run(client, "jobs", "list").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in listed()
    assert "\x1b[31mparked" in listed("--color", "always")


def test_a_list_is_printed_as_it_is_read() -> None:
    given: list[int] = []

    def rows() -> Iterator[dict[str, int]]:
        for number in range(1_000):
            given.append(number)
            yield {"id": number}

    for format_, most in (("ndjson", 1), ("plain", 1), ("csv", 1), ("json", 1), ("table", 200)):
        given.clear()
        ahead: list[int] = []

        def noted(text: str, *, ahead: list[int] = ahead, **_how: object) -> None:
            ahead.append(len(given))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(click, "echo", noted)
            printed(lambda output: output.many(rows(), ("id",)), format_)
        assert ahead[0] <= most, format_
        assert ahead[400] <= 401, format_
        assert len(given) == 1_000


@pytest.mark.parametrize(
    ("query", "format_", "text"),
    [
        ("[].id", "plain", "1\n22\n"),
        ("[].{i: id}", "csv", "i\n1\n22\n"),
        ("[].[id, state]", "plain", "1\tparked\n22\tok\n"),
        ("length(@)", "plain", "2\n"),
        ("[0]", "plain", None),
        ("[?state=='ok'].id", "json", '[\n  "22"\n]\n'),
        ("id", "ndjson", '"1"\n"22"\n'),
    ],
)
def test_a_query_takes_what_it_says(query: str, format_: str, text: str | None) -> None:
    def show(output: Output) -> None:
        output.set_query(query)
        output.many(ROWS, ("id",))

    found = printed(show, format_)

    assert found == text or (text is None and found.startswith("id\t1\n"))
