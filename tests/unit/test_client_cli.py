"""The command line, on a service in memory: what it prints, where, and how it exits."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from retriever_client import ConnectionFailed
from retriever_client.cli.configuration import ConfigurationInvalid, find_configuration
from retriever_client.cli.main import retriever
from retriever_client.testing import FakeRetriever, parked

BAD = "https://example.com/bad"


@pytest.fixture
def client() -> Iterator[FakeRetriever]:
    with FakeRetriever() as made:
        made.service.answers[BAD] = parked("http_503")
        yield made


def run(client: FakeRetriever, *arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(retriever, arguments, obj=client, input=given)


def test_jobs_are_listed_in_every_format(client: FakeRetriever) -> None:
    job = client.check("https://example.com/", labels={"team": "docs"})
    client.check(BAD)

    table = run(client, "jobs", "list", "--label", "team=docs")
    plain = run(client, "-o", "plain", "jobs", "list")
    as_json = json.loads(run(client, "-o", "json", "jobs", "list").stdout)
    lines = [json.loads(line) for line in run(client, "-o", "ndjson", "jobs", "list").stdout.splitlines()]

    assert table.stdout.splitlines()[0].split()[:3] == ["ID", "KIND", "STATE"]
    assert [line.split()[:4] for line in table.stdout.splitlines()[1:]] == [
        [job.id, "check", "succeeded", "ok"]
    ]
    assert [line.split("\t")[2] for line in plain.stdout.splitlines()] == ["parked", "succeeded"]
    assert as_json == lines
    assert [each["state"] for each in lines] == ["parked", "succeeded"]


def test_a_list_that_is_cut_says_so_on_stderr(client: FakeRetriever) -> None:
    for _ in range(3):
        client.check("https://example.com/")

    cut = run(client, "-o", "plain", "jobs", "list", "--limit", "2")

    assert len(cut.stdout.splitlines()) == 2
    assert "--limit" in cut.stderr


def test_a_parked_job_is_shown_sent_back_and_discarded(client: FakeRetriever) -> None:
    job = client.check(BAD)

    assert "http_503" in run(client, "jobs", "show", job.id).stdout
    assert run(client, "jobs", "redrive", job.id).exit_code == 0
    assert run(client, "jobs", "discard", job.id).exit_code == 0
    assert client.jobs.get(job).reason == "discarded"
    again = run(client, "jobs", "discard", job.id)
    assert (again.exit_code, again.stdout.splitlines()[1:]) == (2, [])
    assert "not-parked" in again.stderr


def test_a_batch_is_watched_and_its_results_are_read(client: FakeRetriever) -> None:
    batch = client.batches.submit("check", ["https://example.com/", BAD])

    watched = run(client, "batches", "watch", batch.id)
    results = run(client, "-o", "plain", "batches", "results", batch.id, "--follow")
    sent_back = run(client, "batches", "redrive", batch.id)

    assert watched.stderr.startswith("2 of 2 ended")
    assert "total        2" in watched.stdout
    assert [line.split("\t")[2] for line in results.stdout.splitlines()] == ["succeeded", "parked"]
    assert sent_back.stdout.splitlines()[1].split()[1:4] == ["redrive", "done", "1"]
    assert batch.id in run(client, "batches", "list").stdout
    assert run(client, "batches", "cancel", batch.id).exit_code == 0
    assert run(client, "batches", "show", batch.id).exit_code == 0


def test_any_request_can_be_sent(client: FakeRetriever) -> None:
    body = json.dumps({"kind": "check", "args": {"url": "https://example.com/"}})
    made = json.loads(run(client, "api", "post", "jobs", "--input", "-", given=body).stdout)
    listed = json.loads(run(client, "api", "GET", "/jobs", "-f", "limit=1").stdout)

    assert made["id"] == listed["items"][0]["id"]
    assert run(client, "api", "POST", "/jobs", "--input", "-", given="{").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["jobs", "show", "unknown"], 2),
        (["jobs", "list", "--colour"], 2),
        (["sing"], 2),
        (["api", "POST", "/jobs", "--input", "-"], 2),
        (["--help"], 0),
        (["config", "path"], 2),
        (["config", "show"], 0),
    ],
)
def test_the_exit_code_says_what_went_wrong(client: FakeRetriever, arguments: list[str], code: int) -> None:
    result = run(client, *arguments, given='{"kind": "unknown"}')

    assert result.exit_code == code
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("error", "code"), [(ConnectionFailed("No answer"), 3), (KeyboardInterrupt(), 130)])
def test_what_is_away_and_what_is_interrupted_have_codes_of_their_own(
    client: FakeRetriever, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(_job: str) -> None:
        raise error

    monkeypatch.setattr(client.jobs, "get", fail)

    assert run(client, "jobs", "show", "1").exit_code == code


def test_a_wait_that_is_over_has_a_code_of_its_own(client: FakeRetriever) -> None:
    job = client.check("https://example.com/", wait=0, delay_seconds=3_600)

    assert run(client, "jobs", "watch", job.id, "--wait", "0").exit_code == 5


def test_what_strangers_say_does_not_reach_the_terminal(client: FakeRetriever) -> None:
    client.service.answers[BAD] = parked("http_503", "\x1b[31mred\x1b[0m\u202egnp")
    job = client.check(BAD)

    shown = run(client, "jobs", "show", job.id).stdout

    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "red" in shown


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.retriever]\nurl = "http://far"\n')
    assert find_configuration(below).url == "http://far"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\n")
    (tmp_path / "a" / "retriever.toml").write_text('url = "http://near"\ntimeout_seconds = 5\n')

    found = find_configuration(below)

    assert (found.url, found.timeout_seconds, found.path) == (
        "http://near",
        5,
        tmp_path / "a" / "retriever.toml",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('urll = "x"', "did you mean url?"),
        ('key = "rtv_secret"', "no setting 'key'"),
        ("url = 5", "url cannot be 5"),
        ("timeout_seconds = true", "timeout_seconds cannot be True"),
        ("url = ", "retriever.toml"),
    ],
)
def test_a_file_with_what_is_not_known_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "retriever.toml").write_text(text)

    with pytest.raises(ConfigurationInvalid, match=words.replace("?", r"\?")):
        find_configuration(tmp_path)


def test_a_file_has_options_of_check_and_settings_of_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: FakeRetriever
) -> None:
    (tmp_path / "retriever.toml").write_text(
        '[check]\nfail-on = "down"\nexclude = ["/private/"]\n'
        '[hosts."www.Example.com"]\nstatuses = [403, "500-599"]\n'
        'headers = { Authorization = { secret = "crm" } }\n'
        '[hosts."slow.example:8080"]\nskip = true\n'
    )
    (tmp_path / "a.md").write_text(
        "<https://WWW.example.com:443/a> <https://example.com/private/b>\n<http://slow.example:8080/c> <https://b.example/>\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("retriever_client.Retriever", lambda *_where, **_how: client)

    checked = CliRunner().invoke(retriever, ["check", "a.md"])
    shown = CliRunner().invoke(retriever, ["config", "show"])

    assert checked.exit_code == 0, checked.output
    args = [job["args"] for job in client.service.jobs.values()]
    assert sorted((each.get("statuses"), each.get("headers")) for each in args if "statuses" in each) == [
        ([403, "500-599"], {"Authorization": {"secret": "crm"}})
    ]
    assert sorted(each["url"].lower() for each in args)[0] == "https://b.example/"
    assert len(args) == 2
    assert 'hosts."www.example.com"' in shown.stdout
    assert "check.fail-on" in shown.stdout
    assert str(tmp_path / "retriever.toml") in shown.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[check]\nfail_on = "down"', "did you mean fail-on?"),
        ("check = 5", "check cannot be 5"),
        ('[hosts."a.example"]\nstatus = [1]', "hosts.\"a.example\".'status'; did you mean statuses?"),
        ('[hosts."a.example"]\nskip = 1', "skip cannot be 1"),
        ("[hosts]\na = 1", 'hosts."a" is no table'),
        ('[check]\nlane = "fast"', "'fast' is not one of"),
    ],
)
def test_what_a_file_cannot_say_of_check_and_hosts_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    (tmp_path / "retriever.toml").write_text(text)
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(retriever, ["check", "a.md"])

    assert result.exit_code == 2
    assert words in result.stderr


def test_what_is_in_force_is_shown_with_who_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "retriever.toml").write_text('url = "http://far.example"\ntimeout_seconds = 5\n')
    monkeypatch.chdir(tmp_path)
    for name in ("RETRIEVER_URL", "RETRIEVER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RETRIEVER_KEY", "rtv_abcdefgh_secret")

    def told(*arguments: str) -> dict[str, list[str]]:
        shown = CliRunner().invoke(retriever, [*arguments, "config", "show", "-o", "plain"])
        assert shown.exit_code == 0, shown.output
        assert "secret" not in shown.output
        return {line.split("\t")[0]: line.split("\t")[1:] for line in shown.stdout.splitlines()}

    file = str(tmp_path / "retriever.toml")
    assert told()["url"] == ["http://far.example", file]
    assert told()["timeout_seconds"] == ["5", file]
    assert told()["key"] == ["rtv_abcd...", "RETRIEVER_KEY"]
    monkeypatch.setenv("RETRIEVER_URL", "http://near.example")
    assert told()["url"] == ["http://near.example", "RETRIEVER_URL"]
    assert told("--url", "http://here.example")["url"] == ["http://here.example", "--url"]
