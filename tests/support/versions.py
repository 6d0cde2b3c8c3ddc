"""Another version of the code, and a service whose processes are of two versions at once."""

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import httpx

from deploy.local.ports import free_port
from tests.support.system import ROOT, LocalSystem, is_ready, wait_until

_RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)


def version_before(repository: Path = ROOT) -> str:
    """Return the commit of the version before this one: of the newest release that CHANGELOG.md names.

    It is the oldest commit with the release's heading, `## [0.1.0]`. Until there is one it is HEAD, so that
    the first release is compared with itself.

    Raises:
        RuntimeError: this is no whole clone, so the commit may be missing.
    """
    # The newest is on top, below what is not released.
    releases = _RELEASE.findall((repository / "CHANGELOG.md").read_text())
    if _git(repository, "rev-parse", "--is-shallow-repository").strip() != b"false":
        raise RuntimeError(f"{repository} has no whole history to find a release in: `git fetch --unshallow`")
    if not releases:
        return "HEAD"
    heading = f"^## [[]{releases[0].replace('.', '[.]')}[]]"
    found = _git(repository, "log", "--format=%H", "--reverse", "-G", heading, "--", "CHANGELOG.md")
    return found.decode().partition("\n")[0] or "HEAD"


def check_out(commit: str, folder: Path, *, repository: Path = ROOT) -> Path:
    """Put the code of a commit into a folder, without git, and return it.

    Raises:
        RuntimeError: the repository does not have the commit.
    """
    with tarfile.open(fileobj=io.BytesIO(_git(repository, "archive", "--format=tar", commit))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _git(repository: Path, *arguments: str) -> bytes:
    # A hook of git sets these for its own repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *arguments], cwd=repository, env=environment, capture_output=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"The version before is looked for in the history of {repository}. git: {said}")
    return done.stdout


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
        wait_until(self._site_answers, what=self.site_url)

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

        Returns when all that were started are ready.
        """
        changed = {name: root for name, root in roots.items() if self._roots.get(name) != root}
        for name in [name for name in self._COMMANDS if name in self._roots]:
            if name in changed or name not in roots:
                self._end(name, signal.SIGTERM)
                del self._roots[name]
        urls = [self._start_with(name, root) for name, root in changed.items()]
        for url in urls:
            wait_until(lambda url=url: is_ready(url), what=url)  # type: ignore[misc]

    def _start_with(self, name: str, root: Path) -> str:
        """Start a process with the code in a folder; return where it answers."""
        self._roots[name] = root
        if name == "api":
            self._start(name, *self._COMMANDS[name])
            return self.api_url
        port = free_port()
        self._start(name, *self._COMMANDS[name], health_port=port)
        return f"http://127.0.0.1:{port}"

    def _site_answers(self) -> bool:
        try:
            return httpx.get(f"{self.site_url}/ok", timeout=2).is_success
        except httpx.TransportError:
            return False
