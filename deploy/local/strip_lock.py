"""Takes the package index out of Pipfile.lock, so that it installs from whatever index a machine has.

`python -m deploy.local.strip_lock [Pipfile.lock]`; `make lock` runs it.
"""

import json
import sys
from pathlib import Path
from typing import Any


def strip_lock(text: str) -> str:
    """Return the lock with no sources and no package tied to one; idempotent."""
    lock: dict[str, Any] = json.loads(text)
    # The key itself must stay: `pipenv sync` ends with a KeyError without it.
    lock["_meta"]["sources"] = []
    for section, packages in lock.items():
        if section != "_meta":
            for package in packages.values():
                package.pop("index", None)
    return json.dumps(lock, indent=4, separators=(",", ": ")) + "\n"


def main() -> None:
    """Strip the lock file named on the command line in place."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "Pipfile.lock")
    path.write_text(strip_lock(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
