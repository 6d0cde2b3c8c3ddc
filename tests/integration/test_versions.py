"""The version before is found in the history: the commit of the newest release that CHANGELOG.md names."""

import subprocess
from pathlib import Path

import pytest

from tests.support.versions import check_out, version_before

UNRELEASED = "# Changelog\n\nNot yet: ## [0.1.0]\n\n## [Unreleased]\n"
FIRST = "\n## [0.1.0] - 2026-12-01\n"
SECOND = "\n## [0.2.0] - 2027-01-01\n"


class History:
    """A repository with one CHANGELOG.md."""

    def __init__(self, folder: Path) -> None:
        """Make it without commits."""
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> str:
        """Run git, and return what it printed."""
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, changelog: str) -> str:
        """Commit a text of CHANGELOG.md, and return the commit."""
        (self.folder / "CHANGELOG.md").write_text(changelog)
        self.git("add", "CHANGELOG.md")
        self.git("commit", "--quiet", "--message", "a change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Return a repository of which nothing is released."""
    made = History(tmp_path / "repository")
    made.commit(UNRELEASED)
    return made


def test_before_the_first_release_it_is_what_is_committed(history: History) -> None:
    assert version_before(history.folder) == "HEAD"
    # A release that is being written is in no commit yet.
    (history.folder / "CHANGELOG.md").write_text(UNRELEASED + FIRST)
    assert version_before(history.folder) == "HEAD"


def test_it_is_the_commit_that_added_the_heading_of_the_newest_release(history: History) -> None:
    first = history.commit(UNRELEASED + FIRST)
    history.commit(UNRELEASED + "\n- A change.\n" + FIRST)
    assert version_before(history.folder) == first

    # Changing the line, as to correct its date, changes nothing.
    history.commit(UNRELEASED + FIRST.replace("01", "02"))
    assert version_before(history.folder) == first

    second = history.commit(UNRELEASED + SECOND + FIRST)
    assert version_before(history.folder) == second


def test_a_clone_without_history_is_refused(history: History, tmp_path: Path) -> None:
    history.commit(UNRELEASED + FIRST)
    history.commit(UNRELEASED + "\n- A change.\n" + FIRST)
    shallow = tmp_path / "shallow"
    history.git("clone", "--quiet", "--depth=1", f"file://{history.folder}", str(shallow))

    with pytest.raises(RuntimeError, match="unshallow"):
        version_before(shallow)


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(UNRELEASED)

    with pytest.raises(RuntimeError, match="not a git repository"):
        version_before(tmp_path)


def test_the_code_of_a_commit_is_checked_out_as_it_was(history: History, tmp_path: Path) -> None:
    first = history.commit(UNRELEASED + FIRST)
    history.commit(UNRELEASED)

    folder = check_out(first, tmp_path / "before", repository=history.folder)

    assert (folder / "CHANGELOG.md").read_text() == UNRELEASED + FIRST
    assert not (folder / ".git").exists()
