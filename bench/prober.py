"""How long processes are deaf: each is asked for /livez twenty times a second, from a process of its own.

A loop that does one thing for a second answers a second late, whoever asks and whatever for. The time for
which either waited for a turn of the processor is taken off: Linux counts it for each thread.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
EVERY_SECONDS = 0.05
LONGEST_SECONDS = 120.0


@dataclass(slots=True)
class Answers:
    """What each process came to while it was asked, by its name: milliseconds to each answer.

    Attributes:
        milliseconds: Without those in which it waited for a turn of the processor.
        unanswered: How many questions had none: no connection, or a status other than 200.
    """

    milliseconds: dict[str, Sequence[float]] = field(default_factory=dict)
    unanswered: dict[str, int] = field(default_factory=dict)

    def lag_ms(self, name: str, *, usual: "Answers | None" = None) -> float:
        """Return by how much the slowest answer was slower than the usual one, those of `usual` or these."""
        seen = self.milliseconds.get(name) or [0.0]
        ordinary = (usual or self).milliseconds.get(name) or seen
        return round(max(0.0, max(seen) - median(ordinary)), 1)


@contextmanager
def probing(urls: Mapping[str, str], pids: Mapping[str, int]) -> Iterator[Answers]:
    """Ask processes, of which `pids` are known, while inside; the answers are there afterwards."""
    answers = Answers()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.prober", json.dumps([dict(urls), dict(pids)])],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    with process, process.stdin, process.stdout:
        process.stdout.readline()
        try:
            yield answers
        finally:
            process.stdin.close()
            found = json.loads(process.stdout.read() or "{}")
            answers.milliseconds = found.get("milliseconds", {})
            answers.unanswered = found.get("unanswered", {})


@dataclass(slots=True)
class _Asking:
    """What one process was asked, in a thread."""

    url: str
    pid: int | None = None
    milliseconds: list[float] = field(default_factory=list)
    unanswered: int = 0

    def run(self, over: threading.Event) -> None:
        while not over.is_set():
            waited, began = self._waited_seconds(), time.perf_counter()
            if self._ask():
                seconds = time.perf_counter() - began - (self._waited_seconds() - waited)
                self.milliseconds.append(round(max(0.0, seconds) * 1_000, 2))
            else:
                self.unanswered += 1
            over.wait(max(0.0, began + EVERY_SECONDS - time.perf_counter()))

    def _waited_seconds(self) -> float:
        """Return for how long this thread and the loop of the process have waited for the processor."""
        own = waited_seconds(os.getpid(), threading.get_native_id())
        return own + (0.0 if self.pid is None else waited_seconds(self.pid, self.pid))

    def _ask(self) -> bool:
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=LONGEST_SECONDS)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/livez", headers={"Connection": "close"})
            answer = connection.getresponse()
            answer.read()
            return answer.status == http.HTTPStatus.OK
        return False


def waited_seconds(pid: int, thread: int) -> float:
    """Return for how long a thread was ready to run while others ran; 0 where Linux does not say."""
    try:
        counted = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text()
    except OSError:
        return 0.0
    return int(counted.split()[1]) / 1_000_000_000


def main(urls: Mapping[str, str], pids: Mapping[str, int]) -> None:
    """Ask until standard input ends, then print what came."""
    with suppress(PermissionError):
        # Whoever measures must not wait for a turn of the machine.
        os.nice(-10)
    over, asking = threading.Event(), {name: _Asking(url, pids.get(name)) for name, url in urls.items()}
    threads = [threading.Thread(target=each.run, args=(over,)) for each in asking.values()]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    found = {
        "milliseconds": {name: each.milliseconds for name, each in asking.items()},
        "unanswered": {name: each.unanswered for name, each in asking.items()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
