"""Commands in their sandbox: what they are given, how they end, what is left."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from consumer.commands.descendants import Process, descendants, glimpse_descendants, list_processes
from tests.support.command_host import USERS, CommandHost, command_host, folder_for_all
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def place() -> Iterator[Path]:
    with folder_for_all() as folder:
        yield folder / "folders"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=USERS, ids=str)
async def host(request: pytest.FixtureRequest) -> AsyncIterator[CommandHost]:
    with folder_for_all() as folder:
        settings = {"command_env": "COLOR"}
        async with command_host(folder / "folders", user=request.param, **settings) as running:
            yield running


def make_script(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o755)


async def test_a_command_succeeds_with_what_it_wrote(host: CommandHost) -> None:
    ended = await host.run("printf", "hi")

    assert ended["reason"] is None
    assert ended["result"]["exit_code"] == 0
    assert ended["result"]["stdout"] == {"text": "hi", "tail": "", "bytes": 2, "omitted_bytes": 0}
    await host.expect_nothing_left()


async def test_an_exit_code_is_the_reason_of_a_failure(host: CommandHost) -> None:
    ended = await host.run(line="echo no >&2; exit 3")

    assert (ended["reason"], ended["transient"]) == ("exit_3", False)
    assert ended["result"]["stderr"]["text"] == "no\n"


async def test_a_command_is_given_input_variables_and_an_empty_folder_of_its_own(host: CommandHost) -> None:
    ended = await host.run(
        line='cat; echo "$COLOR"; ls -A | wc -l; [ "$PWD" = "$HOME" ] && touch "$TMPDIR/x" && stat -c %a .',
        stdin="größer\n",
        env={"COLOR": "red"},
    )

    assert ended["result"]["stdout"]["text"] == "größer\nred\n0\n700\n"


async def test_the_devices_that_scripts_write_to_can_be_opened(host: CommandHost) -> None:
    ended = await host.run(
        line="echo a > /dev/stdout; echo b > /dev/stderr; cat /dev/stdin; : > /dev/null", stdin="c"
    )

    assert ended["reason"] is None
    assert (ended["result"]["stdout"]["text"], ended["result"]["stderr"]["text"]) == ("a\nc", "b\n")


async def test_a_program_that_is_not_there_is_named(host: CommandHost) -> None:
    ended = await host.run("no-such-program")

    assert (ended["reason"], ended["transient"]) == ("program_missing", False)
    assert "no-such-program" in ended["explanation"]


async def test_a_program_that_the_system_cannot_run_fails_for_good(host: CommandHost) -> None:
    ended = await host.run("/etc/passwd")
    assert (ended["reason"], ended["transient"]) == ("program_missing", False)

    ended = await host.run("printf", *["x" * 32_000] * 100)
    assert (ended["reason"], ended["transient"]) == ("program_unfit", False)
    assert "Argument list too long" in ended["explanation"]


async def test_a_command_is_ended_by_a_signal_of_its_own(host: CommandHost) -> None:
    ended = await host.run(line="kill -SEGV $$")

    assert (ended["reason"], ended["result"]["signal"]) == ("killed_by_sigsegv", "SIGSEGV")


async def test_a_program_of_the_operators_can_be_run_and_its_neighbour_not_be_read(place: Path) -> None:
    tools, other = place.with_name("tools"), place.with_name("other")
    for folder in (tools, other):
        make_script(folder / "run", f"#!/bin/sh\ncat {tools}/run {other}/run >/dev/null; echo $?\n")
    settings = {"command_programs": str(tools / "run"), "command_read": str(tools), "command_shell": "false"}

    async with command_host(place, user=USERS[-1], **settings) as host:
        ended = await host.run(str(tools / "run"))
        refused = await host.run(str(other / "run"))

    assert ended["result"]["stdout"]["text"] == "1\n"
    assert ended["result"]["stderr"]["text"] == f"cat: {other}/run: Permission denied\n"
    assert (refused["reason"], refused["transient"]) == ("not_allowed", False)


async def test_a_script_without_its_interpreter_fails_for_good(place: Path) -> None:
    script = place.with_name("tools") / "run"
    make_script(script, "#!/no/such/interpreter\n")

    async with command_host(place) as host:
        ended = await host.run(str(script))

    assert (ended["reason"], ended["transient"]) == ("program_unfit", False)
    assert ended["explanation"] == f"The system does not run {script}: No such file or directory."


async def test_sockets_are_denied_unless_the_operator_allows_them(host: CommandHost, place: Path) -> None:
    script = "import socket; socket.socketpair(); socket.socket({0})"
    for family in (
        "socket.AF_INET",
        "socket.AF_INET, socket.SOCK_DGRAM",
        "socket.AF_INET6",
        "socket.AF_UNIX",
    ):
        ended = await host.run("/usr/bin/python3", "-c", script.format(family))
        assert "PermissionError" in ended["result"]["stderr"]["text"]

    async with command_host(place.with_name("open"), command_network="true") as open_host:
        ended = await open_host.run("/usr/bin/python3", "-c", script.format("socket.AF_INET"))
    assert ended["reason"] is None


async def test_output_is_shown_while_a_command_runs(host: CommandHost) -> None:
    host.start(line="echo one; read line; echo two", stdin="")
    assert (await host.ended())["result"]["stdout"]["text"] == "one\ntwo\n"

    host.start(line="echo one; sleep 600", timeout_seconds=1_000)

    assert (await host.snapshot())["stdout"]["text"] == "one\n"
    host.cancel()
    assert "cancelled" in await host.ended()


async def test_what_a_cancelled_command_wrote_last_is_shown(host: CommandHost) -> None:
    shown: list[str] = []
    # It has a second for its last words, too little on a machine that is busy, for once or twice.
    while len(shown) < 3 and shown[-1:] != ["hi\nbye\n"]:
        host.start(line="trap 'echo bye; exit' TERM; echo hi; while :; do sleep 0.05; done")
        assert (await host.snapshot())["stdout"]["text"] == "hi\n"

        host.cancel()

        said = await host.hear()
        shown.append(said["snapshot"]["stdout"]["text"] if "snapshot" in said else "")
        assert "cancelled" in (await host.ended() if "snapshot" in said else said)
    assert shown[-1] == "hi\nbye\n"


async def test_several_commands_at_once_end_each_by_itself(host: CommandHost) -> None:
    for number in range(4):
        host.start(line=f"exit {number + 10}")

    ended = [await host.ended() for _ in range(4)]

    assert sorted(end["reason"] for end in ended) == ["exit_10", "exit_11", "exit_12", "exit_13"]
    assert not host.left()


async def test_a_folder_that_a_crash_left_over_is_removed_by_the_next_start(place: Path) -> None:
    left_over, in_use = place / "old", place / "new"
    left_over.mkdir(parents=True)
    (left_over / "file").touch()
    in_use.mkdir()
    hour_ago = time.time() - 3_600
    os.utime(left_over, (hour_ago, hour_ago))

    async with command_host(place):
        assert os.listdir(place) == ["new"]  # noqa: PTH208


async def test_a_folder_of_somebody_else_is_not_taken(place: Path) -> None:
    os.symlink("/etc", place)  # noqa: PTH211

    with pytest.raises(AssertionError, match="died"):
        async with command_host(place):
            pass


async def test_a_signal_to_every_process_of_the_service_ends_no_command(host: CommandHost) -> None:
    host.start("sleep", "600")
    supervisor = await host.supervisor()

    os.kill(supervisor, signal.SIGTERM)
    os.kill(supervisor, signal.SIGINT)

    host.cancel()
    assert "cancelled" in await host.ended()
    await host.expect_nothing_left()


async def test_a_glimpse_at_the_descendants_of_a_process_shows_all_that_keep_still() -> None:
    line = "(sleep 600 & wait) & sleep 600; :"
    shell = await asyncio.create_subprocess_exec("sh", "-c", line, start_new_session=True)

    async def are_three() -> list[Process] | None:
        below = descendants([shell.pid], list_processes())
        return below if len(below) == 3 else None

    try:
        below = await eventually(are_three)
        seen = {process.pid for process in glimpse_descendants(os.getpid())}
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        await shell.wait()

    assert seen >= {shell.pid, *(process.pid for process in below)}
