"""Commands that do harm: each has the right end, nothing of it is left, and the next command runs as ever."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from consumer.commands.descendants import list_processes
from tests.support.command_host import SECRET, USERS, CommandHost, command_host, folder_for_all
from tests.support.waiting import eventually

PYTHON = "/usr/bin/python3"
MIB = 1_048_576

# Forks twice, leaves session, folder and streams, and takes another name.
DAEMON = """
import ctypes, os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"innocent", 0, 0, 0)
        os.chdir("/")
        os.closerange(0, 256)
        time.sleep(600)
    os._exit(0)
os.wait()
"""


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=USERS, ids=str)
async def running_host(request: pytest.FixtureRequest) -> AsyncIterator[CommandHost]:
    with folder_for_all() as folder:
        async with command_host(folder / "folders", user=request.param) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="module")
async def host(running_host: CommandHost) -> AsyncIterator[CommandHost]:
    """A host that, after each test, has nothing left, and runs the next command."""
    yield running_host
    await running_host.expect_nothing_left()
    assert (await running_host.run("printf", "next"))["result"]["stdout"]["text"] == "next"


async def run_python(host: CommandHost, script: str, **args: Any) -> dict[str, Any]:
    return await host.run(PYTHON, "-c", script, **args)


async def test_one_that_sleeps_past_its_limit_ends_with_its_children(host: CommandHost) -> None:
    ended = await host.run(line="sleep 600 & sleep 600 & (sleep 600); echo late", timeout_seconds=0.3)

    assert (ended["reason"], ended["transient"], ended["result"]["timed_out"]) == ("timeout", False, True)
    assert ended["result"]["stdout"]["text"] == ""


async def test_one_that_ignores_sigterm_is_killed(host: CommandHost) -> None:
    line = "trap '' TERM INT HUP; while :; do sleep 600; done"

    ended = await host.run(line=line, timeout_seconds=0.3)

    assert (ended["reason"], ended["result"]["signal"]) == ("timeout", "SIGKILL")


async def test_a_fork_bomb_is_ended(host: CommandHost) -> None:
    script = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    ended = await run_python(host, script, limits={"processes": 20}, timeout_seconds=60)

    assert (ended["reason"], ended["result"]["limit"]) == ("limit_processes", "processes")


async def test_a_gigabyte_of_output_is_read_and_not_held(host: CommandHost) -> None:
    await host.run("true")
    before_bytes = host.peak_bytes()

    ended = await host.run("head", "-c", "1000000000", "/dev/zero", timeout_seconds=120)

    assert ended["reason"] is None
    stdout = ended["result"]["stdout"]
    assert stdout["bytes"] == 1_000_000_000
    assert len(stdout["text"]) == len(stdout["tail"]) == 32_768
    assert host.peak_bytes() - before_bytes < 20 * MIB


async def test_one_that_daemonizes_succeeds_and_its_daemon_ends(host: CommandHost) -> None:
    ended = await run_python(host, DAEMON)

    assert ended["reason"] is None


async def test_many_files_are_too_much_for_the_folder(host: CommandHost) -> None:
    line = "i=0; while :; do i=$((i+1)); head -c 1000000 /dev/zero > $i; done"

    ended = await host.run(line=line, limits={"file_bytes": 20 * MIB}, timeout_seconds=60)

    assert (ended["reason"], ended["result"]["limit"]) == ("limit_file_bytes", "file_bytes")


async def test_files_in_a_closed_folder_count(host: CommandHost) -> None:
    line = "mkdir d; cd d; chmod 300 .; i=0; while :; do i=$((i+1)); head -c 1000000 /dev/zero > $i; done"

    ended = await host.run(line=line, limits={"file_bytes": 20 * MIB}, timeout_seconds=60)

    assert ended["reason"] == "limit_file_bytes"


async def test_files_that_are_removed_while_they_are_open_count(host: CommandHost) -> None:
    script = """
import os, time
files = []
for number in range(20):
    files.append(open("file", "wb"))
    os.unlink("file")
    files[-1].write(bytes(10_000_000))
    files[-1].flush()
time.sleep(600)
"""
    ended = await run_python(host, script, limits={"file_bytes": 100 * MIB}, timeout_seconds=60)

    assert (ended["reason"], ended["result"]["limit"]) == ("limit_file_bytes", "file_bytes")


async def test_one_file_is_too_large(host: CommandHost) -> None:
    ended = await host.run(
        "dd", "if=/dev/zero", "of=file", "bs=1M", "count=100", limits={"file_bytes": 10 * MIB}
    )

    assert (ended["reason"], ended["result"]["signal"]) == ("limit_file_bytes", "SIGXFSZ")


async def test_more_memory_than_allowed_cannot_be_had(host: CommandHost) -> None:
    ended = await run_python(host, "x = bytearray(10**9)", limits={"memory_bytes": 200 * MIB})

    assert ended["reason"] == "exit_1"
    assert "MemoryError" in ended["result"]["stderr"]["text"]


async def test_the_memory_of_all_processes_together_is_limited(host: CommandHost) -> None:
    script = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        x = b"x" * (60 << 20)
        time.sleep(600)
time.sleep(600)
"""
    ended = await run_python(host, script, limits={"memory_bytes": 200 * MIB}, timeout_seconds=60)

    assert (ended["reason"], ended["result"]["limit"]) == ("limit_memory_bytes", "memory_bytes")


async def test_the_processor_time_of_all_processes_together_is_limited(host: CommandHost) -> None:
    line = "for i in 1 2 3 4; do (while :; do :; done) & done; wait"

    ended = await host.run(line=line, limits={"cpu_seconds": 1}, timeout_seconds=120)

    assert (ended["reason"], ended["result"]["limit"]) == ("limit_cpu_seconds", "cpu_seconds")


async def test_a_folder_is_removed_however_it_was_left(host: CommandHost) -> None:
    script = """
import os
os.makedirs("a/b/c")
open("a/b/c/file", "w").close()
os.symlink("/etc", "a/link")
os.mkfifo("pipe")
for folder in ("a/b/c", "a/b", "a", "."):
    os.chmod(folder, 0)
"""
    assert (await run_python(host, script))["reason"] is None


async def test_a_folder_is_removed_however_deep_it_is(host: CommandHost) -> None:
    script = """
import os
for _ in range(1200):
    os.mkdir("folder")
    os.chdir("folder")
"""
    ended = await run_python(host, script, timeout_seconds=60)

    # What is too deep to be looked at may be seen before it ends.
    assert ended["reason"] in {None, "limit_file_bytes"}


async def test_no_secret_of_the_worker_can_be_read(host: CommandHost) -> None:
    secret_file = host.folder.with_name("secret")
    await asyncio.to_thread(secret_file.write_text, SECRET)
    secret_file.chmod(0o644)
    script = f"""
import glob, os
def read(path):
    try:
        with open(path, "rb") as file:
            print(path, file.read(1 << 20))
    except OSError as error:
        print(path, error.strerror)
print(dict(os.environ))
read({str(secret_file)!r})
for pid in filter(str.isdigit, os.listdir("/proc")):
    if pid != str(os.getpid()):
        for name in ("environ", "maps", "mem", "auxv"):
            read(f"/proc/{{pid}}/{{name}}")
        for link in ("root", "cwd", "fd"):
            read(f"/proc/{{pid}}/{{link}}{secret_file!s}")
            print(glob.glob(f"/proc/{{pid}}/{{link}}/*"))
"""
    ended = await run_python(host, script, output_bytes=131_072)

    said = ended["result"]["stdout"]["text"]
    assert f"/proc/{host.pid}/environ" in said and str(secret_file) in said
    assert ended["reason"] is None and "Permission denied" in said
    assert SECRET not in said and SECRET not in ended["result"]["stdout"]["tail"]


async def test_the_worker_is_out_of_reach(host: CommandHost) -> None:
    script = f"""
import os, resource, signal, ctypes
supervisor = os.getppid()
for pid in (supervisor, {host.pid}):
    for number in (signal.SIGSTOP, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except PermissionError:
            print("denied")
    print(ctypes.CDLL(None).ptrace(16, pid, 0, 0))
    try:
        resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0))
    except PermissionError:
        print("denied")
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
for path in ("/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj", "/etc/x", "/tmp/x", "../x"):
    try:
        open(path, "w")
    except OSError:
        print("denied")
"""
    ended = await run_python(host, script)

    said = ended["result"]["stdout"]["text"].split()
    out_of_reach = ["denied", "denied", "-1", "denied"]
    assert ended["reason"] is None
    assert said == [*out_of_reach, *out_of_reach, *["denied"] * 5]


# Neither hears SIGTERM. The first has a daemon and a child, the other keeps the processor busy.
STUBBORN = f"""
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
{DAEMON}
print("ready", flush=True)
while True:
    subprocess.run(["sleep", "600"])
"""
BUSY = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(6):
    os.fork()
print("ready", flush=True)
while True:
    pass
"""


@pytest.mark.parametrize("script", [STUBBORN, BUSY], ids=["stubborn", "busy"])
async def test_cancelling_ends_all_of_a_command_within_three_seconds(host: CommandHost, script: str) -> None:
    seconds: list[float] = []
    # The machine may be busy with something else, for once or twice.
    while len(seconds) < 3 and min(seconds, default=3.0) >= 3.0:
        host.start(PYTHON, "-c", script, timeout_seconds=600, limits={"processes": 200})
        await host.snapshot()
        began_at = time.monotonic()

        host.cancel()
        ended = await host.ended()

        seconds.append(time.monotonic() - began_at)
        assert ended["cancelled"]
        assert not host.left()
    assert min(seconds) < 3.0


async def test_what_outlives_a_killed_supervisor_is_ended_by_the_worker(host: CommandHost) -> None:
    host.start(PYTHON, "-c", f"{DAEMON}\nprint('ready', flush=True)\ntime.sleep(600)", timeout_seconds=600)
    await host.snapshot()

    os.kill(await host.supervisor(), signal.SIGKILL)
    ended = await host.ended()

    assert (ended["reason"], ended["transient"]) == ("supervisor_lost", True)


async def test_a_command_whose_supervisor_was_stopped_can_be_cancelled(host: CommandHost) -> None:
    host.start(PYTHON, "-c", f"{DAEMON}\nprint('ready', flush=True)\ntime.sleep(600)", timeout_seconds=600)
    await host.snapshot()
    os.kill(await host.supervisor(), signal.SIGSTOP)

    host.cancel()

    assert (await host.ended())["cancelled"]


@pytest.mark.parametrize("user", USERS, ids=str)
@pytest.mark.parametrize("stops_supervisor", [False, True], ids=["", "stopped-supervisor"])
async def test_no_orphan_survives_a_worker_that_is_killed(user: int | None, stops_supervisor: bool) -> None:
    script = f"{DAEMON}\nprint('ready', flush=True)\ntime.sleep(600)"
    with folder_for_all() as folder:
        async with command_host(folder / "folders", user=user) as host:
            host.start(PYTHON, "-c", script, timeout_seconds=600)
            await host.snapshot()
            left = {(process.pid, process.started) for process in host.left()}
            # The command and its daemon.
            assert len(left) == 2

            if stops_supervisor:
                os.kill(await host.supervisor(), signal.SIGSTOP)
            host.process.kill()

            async def are_gone() -> bool:
                alive = {(process.pid, process.started) for process in list_processes().values()}
                return left.isdisjoint(alive)

            await eventually(are_gone)
            await host.expect_nothing_left()
