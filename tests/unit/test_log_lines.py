"""How a log line is written, whatever a stranger put into its values."""

import io
import json
import logging
import subprocess
import sys

import pytest

from shared.log_lines import MAX_VALUE_CHARACTERS, ConsoleFormatter, JsonLines, printable

UNSEEN = {
    "line feed": "\n",
    "carriage return": "\r",
    "escape": "\x1b[2J",
    "bell": "\x07",
    "nul": "\x00",
    "delete": "\x7f",
    "next line": "\x85",
    "csi": "\x9b31m",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "right to left": "\u202e",
    "isolate": "\u2066",
    "zero width": "\u200b",
    "lone surrogate": "\ud800",
}
FORMATTERS: dict[str, logging.Formatter] = {"console": ConsoleFormatter(), "json": JsonLines(process="test")}


def line_of(formatter: logging.Formatter, **facts: object) -> str:
    record = logging.makeLogRecord({"msg": "job_parked", "levelname": "INFO", "name": "here", **facts})
    return formatter.format(record)


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS.keys())
@pytest.mark.parametrize("character", UNSEEN.values(), ids=UNSEEN.keys())
def test_no_value_prints_what_nobody_sees(formatter: logging.Formatter, character: str) -> None:
    line = line_of(formatter, job_id=f"a{character}b", listed=[f"c{character}"], **{f"k{character}": 1})

    assert line.isprintable()
    assert character not in line
    assert "a\\" in line


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS.keys())
@pytest.mark.parametrize("character", UNSEEN.values(), ids=UNSEEN.keys())
def test_no_traceback_shows_more_lines_than_it_has(formatter: logging.Formatter, character: str) -> None:
    try:
        raise ValueError(f"one{character}12:00:00 INFO    job_succeeded")
    except ValueError:
        line = line_of(formatter, exc_info=sys.exc_info())

    first, *rest = line.split("\n")
    assert "job_parked" in first
    assert all(each.isprintable() for each in (first, *rest))
    assert all(each.startswith("    ") for each in rest)


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS.keys())
def test_a_long_value_is_not_logged_whole(formatter: logging.Formatter) -> None:
    line = line_of(formatter, job_id="x" * 1_000_000, listed=["y" * 1_000_000] * 1_000)

    assert len(line) < 110 * 2 * MAX_VALUE_CHARACTERS
    assert "(1,000,000 characters)" in line
    assert "x" * (MAX_VALUE_CHARACTERS + 1) not in line


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS.keys())
def test_an_error_with_a_long_message_is_not_logged_whole(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("\n" * 100_000 + "x" * 1_000_000 + " the end")
    except ValueError:
        line = line_of(formatter, exc_info=sys.exc_info())

    assert len(line) < 100_000
    assert "the end" in line


@pytest.mark.parametrize("formatter", FORMATTERS.values(), ids=FORMATTERS.keys())
def test_no_secret_is_logged(formatter: logging.Formatter) -> None:
    url = "https://user:marked@host.example/?sig=marked"
    try:
        # The traceback shows this line, with a name in braces.
        raise ValueError(f"cannot open {url}")
    except ValueError:
        line = line_of(
            formatter,
            url=url,
            password="marked",
            more={"api_key": "marked"},
            said="Bearer marked1234567890",
            exc_info=sys.exc_info(),
        )

    assert "marked" not in line


def test_json_keeps_numbers_and_nulls() -> None:
    line = json.loads(line_of(FORMATTERS["json"], attempt=3, seconds=0.5, reason=None, ok=True))

    assert (line["attempt"], line["seconds"], line["reason"], line["ok"]) == (3, 0.5, None, True)
    assert line["event"] == "job_parked"
    assert line["process"] == "test"


def test_a_text_without_anything_unseen_stays_as_it_is() -> None:
    assert printable("Prüfung 中文 → ok") == "Prüfung 中文 → ok"


PROGRAM = """
import logging, sys, threading, warnings
from shared.process import prepare_process
from shared.settings import Settings
prepare_process(Settings(log_level="DEBUG", log_format=sys.argv[1]), process="test")
logging.getLogger("somebody.else").debug("rows: marked")
logging.getLogger("shared.x").debug("ours")
warnings.warn("a\\x1b[2Jb\\nc")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start(); thread.join()
raise SystemError("d\\x1b[2Je https://u:marked@h.example/")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_nobody_catches_is_logged_as_all_else(log_format: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format], capture_output=True, check=False, text=True
    )

    assert ended.returncode == 1
    assert ended.stderr == ""
    assert "ours" in ended.stdout
    assert "process_crashed" in ended.stdout
    assert "thread_crashed" in ended.stdout
    assert "marked" not in ended.stdout
    assert all(line.isprintable() for line in io.StringIO(ended.stdout).read().split("\n"))


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_command_line_says_nothing_raw(side: str) -> None:
    command = {"producer": "migrate", "consumer": "worker"}[side]
    ended = subprocess.run(
        [sys.executable, "-m", side, command],
        capture_output=True,
        check=False,
        text=True,
        env={"PATH": "", "RETRIEVER_AMQP_URL_FILE": "/nowhere/\x1b[2J\u202e\nx"},
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("retriever: RETRIEVER_AMQP_URL_FILE")
    assert ended.stderr.removesuffix("\n").isprintable()
