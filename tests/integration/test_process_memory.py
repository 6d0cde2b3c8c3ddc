"""What a process does with memory that it no longer needs."""

import subprocess
import sys
from pathlib import Path

from tests.support.environment import clean_environment

ROOT = Path(__file__).resolve().parents[2]
MEBIBYTE = 1_048_576
# Large pieces with small ones between that stay, as bodies and what is noted of them.
PROGRAM = """
import os
from pathlib import Path
from shared.process import prepare_process
from shared.settings import Settings

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

prepare_process(Settings(), process="worker")
before, kept = resident(), []
for _ in range(3):
    large = []
    for _ in range(20):
        large.append(bytearray(4_000_000))
        kept.append(bytearray(50_000))
    large.clear()
print(resident() - before)
"""


def test_a_process_gives_large_memory_back_when_it_is_free() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=clean_environment(),
        check=True,
        capture_output=True,
        text=True,
    )

    assert int(answer.stdout) < 20 * MEBIBYTE
