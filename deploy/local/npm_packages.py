"""Programs from npm that nobody here wrote, for tests alone: installed by their lock files, once.

A lock file has a hash of each package, and names no registry: npm's own setting says where they come from.
Renew one with `npm install --package-lock-only --omit-lockfile-registry-resolved`.
"""

import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path

from deploy.local.packages import require, run_installer

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".run" / "npm"
WANTED = Path(__file__).parent / "npm"
INSTALL_SECONDS = 300


def install(name: str) -> Path:
    """Return the `node_modules` of a folder of `deploy/local/npm`; install them if they are not there.

    Blocks for seconds when it has to. Needs Node.js and npm, and installs their Debian packages if it may.

    Raises:
        ProgramMissing: npm is not there, or failed; the message ends with what it said.
    """
    locks = [WANTED / name / "package.json", WANTED / name / "package-lock.json"]
    told = hashlib.sha256(b"".join(path.read_bytes() for path in locks)).hexdigest()[:12]
    folder = INSTALLED / told
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules").exists():
            _npm_ci(name, locks, folder)
    return folder / "node_modules"


def _npm_ci(name: str, locks: list[Path], folder: Path) -> None:
    npm = require("npm", "npm")
    print(f"Installing {name} (npm ci) ...", flush=True)
    # In a folder of its own first, so that an install that breaks off is never taken for a whole one.
    with tempfile.TemporaryDirectory(dir=INSTALLED) as half_done:
        for path in locks:
            shutil.copy(path, half_done)
        command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        run_installer(command, folder=Path(half_done), timeout_seconds=INSTALL_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)
        # Whole at once: another process may be killed at any moment.
        Path(half_done).rename(folder)
        Path(half_done).mkdir()
