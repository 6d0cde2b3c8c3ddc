"""Tests of `deploy.local.packages`; none installs anything."""

from pathlib import Path

import pytest

from deploy.local import packages
from deploy.local.errors import ProgramMissing


def make_program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_the_newest_of_several_versions_is_found(tmp_path: Path) -> None:
    make_program(tmp_path / "9" / "bin", "initdb")
    newest = make_program(tmp_path / "17" / "bin", "initdb")

    assert packages.find("initdb", places=[f"{tmp_path}/*/bin"]) == newest


def test_a_missing_program_that_may_not_be_installed_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "can_install", lambda: False)

    with pytest.raises(ProgramMissing, match=r"no-such-program is not installed.*no-such-package"):
        packages.require("no-such-program", "no-such-package")


@pytest.mark.parametrize("theirs", [None, "#!/bin/sh\nexit 0\n"])
def test_a_package_may_not_start_its_service_and_the_policy_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str | None
) -> None:
    policy = tmp_path / "policy-rc.d"
    during: list[str] = []
    if theirs:
        policy.write_text(theirs)
    monkeypatch.setattr(packages, "POLICY", policy)
    monkeypatch.setattr(packages, "POLICY_KEPT", tmp_path / "kept")
    monkeypatch.setattr(packages, "APT_LOCK", tmp_path / "lock")
    monkeypatch.setattr(packages, "_apt_get", lambda *_arguments: during.append(policy.read_text()))

    packages.install("anything")

    assert all("exit 101" in text for text in during)
    assert (policy.read_text() if policy.exists() else None) == theirs
