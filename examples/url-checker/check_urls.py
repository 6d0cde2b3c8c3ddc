#!/usr/bin/env python3
"""Check a file of URLs, one a line: end with 1 if one is bad, with 2 if they could not be checked.

`check_urls.py FILE FOLDER` writes broken.csv and junit.xml into the folder.
"""

import csv
import json
import os
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

API = "http://localhost:8080"
# Somebody waits for the answer: a page that is down is asked three times within seconds, not for an hour.
RETRY = {"max_attempts": 3, "first_delay_seconds": 1, "factor": 1}
HEADERS = {"Content-Type": "text/plain"}
if "RETRIEVER_KEY_FILE" in os.environ:
    HEADERS["Authorization"] = f"Bearer {Path(os.environ['RETRIEVER_KEY_FILE']).read_text().strip()}"
SUBMISSION = {"kind": "check", "retry": json.dumps(RETRY)}
# Somebody waits for us, too.
GIVE_UP_SECONDS = 3_600
COLUMNS = ("line", "given_url", "verdict", "status", "explanation")


def ask(path: str, body: bytes | None = None) -> str:
    """Return what the API answers to a GET, or to a POST of a list of URLs."""
    request = Request(API + path, body, HEADERS)
    with urlopen(request, timeout=60) as answer:
        return str(answer.read(), "utf-8")


def is_bad(row: dict[str, str]) -> bool:
    """Tell whether a line is no good URL. Blocked is not bad: the host lets readers in, and not a program."""
    return row["verdict"] in {"broken", "down"} or row["state"] in {"parked", "rejected"}


def main(urls: Path, folder: Path) -> int:
    """Check the URLs and write both files; return how many are bad."""
    batch = json.loads(ask(f"/batches?{urlencode(SUBMISSION)}", urls.read_bytes()))
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while batch["finished_at"] is None:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"/batches/{batch['id']} has not ended")
        time.sleep(0.5)
        batch = json.loads(ask(f"/batches/{batch['id']}"))
    results = f"/batches/{batch['id']}/results"
    (folder / "junit.xml").write_text(ask(f"{results}?format=junit"), encoding="utf-8")
    bad = [row for row in csv.DictReader(ask(f"{results}?format=csv").splitlines()) if is_bad(row)]
    with (folder / "broken.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(bad)
    print(f"{batch['total'] + batch['rejected']['count']} lines, {len(bad)} bad")
    return len(bad)


if __name__ == "__main__":
    try:
        sys.exit(min(main(Path(sys.argv[1]), Path(sys.argv[2])), 1))
    except HTTPError as error:
        print(f"{API}: {error}: {error.read().decode()}", file=sys.stderr)
    except (URLError, TimeoutError) as error:
        print(f"{API}: {error}", file=sys.stderr)
    sys.exit(2)
