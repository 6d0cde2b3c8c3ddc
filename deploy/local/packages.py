"""Programs this machine must have: found, or installed from Debian's packages when we may do that."""

import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.local.errors import ProgramMissing

APT_TIMEOUT_SECONDS = 900
APT_LOCK = Path("/run/lock/retriever-apt.lock")
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_KEPT = Path("/usr/sbin/policy-rc.d.retriever-kept")
# Exit code 101 is "action forbidden by policy": the package may not start its own service.
POLICY_TEXT = (
    "#!/bin/sh\n# Written by Retriever's deploy/local/packages.py while it installs a package.\nexit 101\n"
)


def require(program: str, package: str, *, places: Sequence[str] = ()) -> Path:
    """Return the path of a program; install its Debian package first if it is missing and we are root.

    Args:
        program: Name of the executable.
        package: Debian package that brings it.
        places: Folders to look in before PATH, as glob patterns ("/usr/lib/postgresql/*/bin").

    Raises:
        ProgramMissing: It is not there, and this is not Debian, or we are not root, or the package failed.
    """
    found = find(program, places=places)
    if found is not None:
        return found
    if not can_install():
        raise ProgramMissing(
            f"{program} is not installed. Install it (Debian, Ubuntu: sudo apt-get install {package}; "
            f"macOS: brew install {package}; Fedora: sudo dnf install {package}) and try again."
        )
    install(package)
    found = find(program, places=places)
    if found is None:
        raise ProgramMissing(
            f"The package {package} is installed, but it brought no {program}; see {places}."
        )
    return found


def require_file(places: Sequence[str], package: str) -> Path:
    """Return the first file that a glob pattern of `places` finds; install its Debian package if need be.

    Raises:
        ProgramMissing: It is not there, and this is not Debian, or we are not root, or the package failed.
    """
    for may_install in (True, False):
        found = [path for place in places for path in Path("/").glob(place.lstrip("/"))]
        if found:
            return found[0]
        if may_install and can_install():
            install(package)
    raise ProgramMissing(f"{places[0]} is not there. Install the package {package} and try again.")


def find(program: str, *, places: Sequence[str] = ()) -> Path | None:
    """Return the newest executable of that name in `places` (glob patterns) or on PATH, or None."""
    for place in places:
        pattern = f"{place.lstrip('/')}/{program}"
        for candidate in sorted(Path("/").glob(pattern), key=_version, reverse=True):
            if os.access(candidate, os.X_OK):
                return candidate
    on_path = shutil.which(program)
    return Path(on_path) if on_path else None


def installed(program: str, places: Sequence[str]) -> Path:
    """Return the path of a program that another package must have brought.

    Raises:
        ProgramMissing: It is not there.
    """
    found = find(program, places=places)
    if found is None:
        raise ProgramMissing(f"{program} is not installed; RabbitMQ with Erlang brings it.")
    return found


def can_install() -> bool:
    """Tell whether packages can be installed unattended: root, on Debian or a child of it."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None and "debian" in _distribution()


def install(package: str) -> None:
    """Install a Debian package, without starting the service that it brings. Blocks, prints one line.

    Raises:
        ProgramMissing: apt-get failed; the message ends with what it said.
    """
    print(f"Installing {package} (apt-get) ...", flush=True)
    with _alone(), _no_service_starts():
        _apt_get("update", "-qq")
        _apt_get("install", "-y", "-qq", "--no-install-recommends", package)


def run_installer(
    command: Sequence[str],
    *,
    timeout_seconds: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program that installs something, asking nobody; `environment` is beside our own.

    Raises:
        ProgramMissing: It failed; the message ends with what it said last.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    if done.returncode != 0:
        raise ProgramMissing(
            f"{' '.join(command)} failed with status {done.returncode}:\n{done.stdout[-2000:]}"
        )


def _apt_get(*arguments: str) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments]
    run_installer(command, environment=environment, timeout_seconds=APT_TIMEOUT_SECONDS)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold a lock, so that two runs on one machine neither race for apt nor restore each other's policy."""
    APT_LOCK.parent.mkdir(parents=True, exist_ok=True)
    with APT_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _no_service_starts() -> Iterator[None]:
    # A kept policy means that an earlier run was killed here: it is the true one, ours lies in its place.
    if POLICY.exists() and not POLICY_KEPT.exists():
        POLICY.rename(POLICY_KEPT)
    POLICY.write_text(POLICY_TEXT)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if POLICY_KEPT.exists():
            POLICY_KEPT.replace(POLICY)
        else:
            POLICY.unlink(missing_ok=True)


def _distribution() -> set[str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return set()
    return {release.get("ID", ""), *release.get("ID_LIKE", "").split()}


def _version(path: Path) -> list[int]:
    digits = "".join(letter if letter.isdigit() else " " for letter in str(path))
    return [int(number) for number in digits.split()]
