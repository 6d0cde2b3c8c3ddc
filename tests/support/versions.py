"""Another version of the code, and a service whose processes are of two versions at once."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import httpx

from deploy.local.ports import free_port
from tests.support.system import _ROOT, LocalSystem, _wait_until


def check_out(commit: str, folder: Path) -> Path:
    """Put the code of a commit into a folder, without git, and return it.

    Raises:
        RuntimeError: this clone does not have the commit.
    """
    # A hook of git sets these for its own repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "archive", "--format=tar", commit],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{commit}, the version before, is not in this clone: `git fetch --unshallow` gets it."
            f" git says: {done.stderr.decode().strip()}"
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


class MixedSystem(LocalSystem):
    """API, ledgers and workers, each of the version that it is told to be, all with these dependencies."""

    _COMMANDS: Mapping[str, tuple[str, ...]] = {
        "api": ("producer", "api"),
        "ledger": ("producer", "ledger"),
        "ledger-2": ("producer", "ledger"),
        "worker-1": ("consumer", "worker"),
        "worker-2": ("consumer", "worker"),
    }

    def open_site(self) -> None:
        """Start the site that jobs work on."""
        self._start("site", "deploy.local.target_site", "--port", str(self._site_port))
        _wait_until(lambda: _answers(self.site_url, "/ok"), what=self.site_url)

    def migrate(self, root: Path) -> None:
        """Migrate the store with the code in a folder."""
        command = [sys.executable, "-m", "producer", "migrate"]
        subprocess.run(command, cwd=root, env=self._environment, check=True)

    def make_sure_of(self, root: Path) -> None:
        """Make sure that what is started in a folder runs the code there, and not ours."""
        command = [sys.executable, "-c", "import shared; print(shared.__path__[0])"]
        done = subprocess.run(
            command, cwd=root, env=self._environment, check=True, capture_output=True, text=True
        )
        assert Path(done.stdout.strip()) == root / "shared", done.stdout

    def become(self, roots: Mapping[str, Path]) -> None:
        """Run exactly these processes, each with the code in a folder; those that run it already go on.

        Returns when each answers, ready or not.
        """
        changed = {name: root for name, root in roots.items() if self._roots.get(name) != root}
        for name in [name for name in self._COMMANDS if name in self._roots]:
            if name in changed or name not in roots:
                self._end(name, signal.SIGTERM)
                del self._roots[name]
        urls = [self._start_with(name, root) for name, root in changed.items()]
        for url in urls:
            _wait_until(lambda url=url: _answers(url, "/livez"), what=url)  # type: ignore[misc]

    def _start_with(self, name: str, root: Path) -> str:
        """Start a process with the code in a folder; return where it answers."""
        self._roots[name] = root
        if name == "api":
            self._start(name, *self._COMMANDS[name])
            return self.api_url
        port = free_port()
        self._start(name, *self._COMMANDS[name], health_port=port)
        return f"http://127.0.0.1:{port}"


def _answers(url: str, path: str) -> bool:
    try:
        return httpx.get(f"{url}{path}", timeout=2).is_success
    except httpx.TransportError:
        return False
