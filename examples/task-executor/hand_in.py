#!/usr/bin/env python3
"""Hand in the lines of a file as tasks, a command for the shell each: `hand_in.py FILE` prints their ids."""

import json
import os
import sys
from pathlib import Path
from urllib.request import Request, urlopen

API = "http://localhost:8080"
HEADERS = {"Content-Type": "application/json"}
if "RETRIEVER_KEY_FILE" in os.environ:
    HEADERS["Authorization"] = f"Bearer {Path(os.environ['RETRIEVER_KEY_FILE']).read_text().strip()}"


def hand_in(command: str) -> str:
    """Return the id of a new task."""
    task = {"command": command, "labels": {"recipe": "task-executor"}}
    request = Request(f"{API}/tasks", json.dumps(task).encode(), HEADERS)
    with urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["id"])


if __name__ == "__main__":
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        print(hand_in(line), line, sep="  ", flush=True)
