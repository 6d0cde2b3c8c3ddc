"""The GitHub Action, the pre-commit hooks and `--local`, called as a build server calls them."""

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from bench.rig import serving_target
from deploy.local.broker import Broker
from deploy.local.ports import free_ports
from tests.support.environment import clean_environment
from tests.support.management import Management

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
SECONDS = 180
EXPRESSION = re.compile(r"\$\{\{ *([\w.-]+) *\}\}")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Return a folder with documents, and beside it a folder of programs that has `retriever`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "retriever"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m retriever_client.cli.main "$@"\n')
    program.chmod(0o755)
    folder = tmp_path / "workspace"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "a b.md").write_text("# A\n\n[here](#a) [gone](gone.md)\n")
    (folder / "docs" / "good.md").write_text("# Good\n\n[here](#good)\n")
    return folder


def environment(workspace: Path, **more: str) -> dict[str, str]:
    return clean_environment() | {
        "PATH": f"{workspace.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "client" / "src"), str(ROOT)]),
        "XDG_CACHE_HOME": str(workspace.parent / "cache"),
        **more,
    }


def run_action(workspace: Path, inputs: Mapping[str, str], **more: str) -> tuple[int, str, dict[str, str]]:
    """Run the steps as GitHub does; return the last exit code, what stdout had, and their outputs."""
    output = workspace.parent / "output"
    output.touch()
    known = {f"inputs.{name}": each.get("default", "") for name, each in ACTION["inputs"].items()}
    known |= {f"inputs.{name}": text for name, text in inputs.items()}
    known |= {"github.action_path": str(ROOT)}
    files = {
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(workspace.parent / "summary.md"),
        "GITHUB_ACTIONS": "true",
    }
    assert inputs.keys() <= ACTION["inputs"].keys()
    code, printed = 0, ""
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"], "an expression within a script is read as shell"
        variables = {
            name: EXPRESSION.sub(lambda found: known[found[1]], text) for name, text in step["env"].items()
        }
        # https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#jobsjob_idstepsshell
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=workspace,
            env=environment(workspace, **files, **variables, **more),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        code, printed = done.returncode, printed + done.stdout
        assert "Traceback" not in done.stderr
        if code:
            break
    return code, printed, dict(line.split("=", 1) for line in output.read_text().splitlines())


def test_the_action_tells_each_bad_link_by_its_place(workspace: Path) -> None:
    inputs = {
        "paths": "docs/a b.md\n\ndocs/good.md\n",
        "args": "--offline\n",
        "reports": "json=links.json\njunit=links.xml",
    }

    code, printed, outputs = run_action(workspace, inputs)

    assert printed == "::error file=docs/a b.md,line=3,col=19,title=broken link::file_missing docs/gone.md\n"
    assert (code, outputs) == (1, {"exit-code": "1"})
    assert (workspace.parent / "summary.md").read_text().startswith("## Links: 1 failure\n")
    assert json.loads((workspace / "links.json").read_text())["summary"]["failures"] == 1
    assert (workspace / "links.xml").exists()


def test_the_action_ends_well_and_reads_no_path_as_an_option_or_as_shell(workspace: Path) -> None:
    (workspace / "--help").write_text("")
    (workspace / "$(touch owned).md").write_text("# X\n[here](#x)\n")

    code, printed, outputs = run_action(
        workspace, {"paths": "docs/good.md\n$(touch owned).md\n--help", "args": "--offline"}
    )

    assert (code, printed, outputs) == (0, "", {"exit-code": "0"})
    assert not (workspace / "owned").exists()


def test_the_action_asks_the_service_that_it_is_given(workspace: Path) -> None:
    code, _, outputs = run_action(
        workspace, {"url": "http://127.0.0.1:1", "key": "rtv_x", "paths": "https://127.0.0.1:1/"}
    )

    # The page itself cannot be read, and it is the only document.
    assert (code, outputs) == (2, {"exit-code": "2"})


def test_what_the_action_says_of_its_inputs_is_what_its_scripts_take() -> None:
    scripts = "".join(text for step in ACTION["runs"]["steps"] for text in step["env"].values())
    used = {
        name.removeprefix("inputs.") for name in EXPRESSION.findall(scripts) if name.startswith("inputs.")
    }

    assert used == ACTION["inputs"].keys()


@pytest.mark.parametrize(("files", "code"), [(["docs/a b.md"], 1), (["docs/good.md"], 0)])
def test_a_hook_is_called_with_the_files_that_changed(workspace: Path, files: list[str], code: int) -> None:
    hook = HOOKS["retriever-check-files"]

    # As pre-commit does: the entry is split as a shell does, and the files follow.
    done = subprocess.run(
        [*shlex.split(hook["entry"]), *hook.get("args", []), *files],
        cwd=workspace,
        env=environment(workspace),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == code, done.stderr
    assert ("docs/a b.md:3:19\tbroken\tfile_missing\tdocs/gone.md" in done.stdout) is bool(code)


def test_every_hook_is_a_command_that_there_is() -> None:
    assert set(HOOKS) == {"retriever-check", "retriever-check-files"}
    for hook in HOOKS.values():
        assert shlex.split(hook["entry"])[:2] == ["retriever", "check"]
        assert set(hook) >= {"id", "name", "entry", "language", "types_or"}


@pytest.fixture
def own_amqp_url(broker: Broker, management: Management) -> Iterator[str]:
    """Yield a virtual host that a service of `--local` has for itself."""
    vhost = f"local-{uuid.uuid4().hex[:12]}"
    management.create_vhost(vhost)
    yield f"{broker.amqp_url.rsplit('/', maxsplit=1)[0]}/{vhost}"
    management.delete_vhost(vhost)


def processes_of(folder: Path) -> list[str]:
    """Return the command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_without_a_service_the_action_starts_one_and_stops_it(workspace: Path, own_amqp_url: str) -> None:
    # What it does is tested by every run of the suite; here it must only be called.
    make = workspace.parent / "bin" / "make"
    make.write_text('#!/bin/sh\necho "$@" >>"$XDG_CACHE_HOME.made"\n')
    make.chmod(0o755)
    (port,) = free_ports(1)
    (workspace / "web.md").write_text(f"<http://127.0.0.1:{port}/a>\n\n[gone](http://127.0.0.1:1/)\n")
    settings = {"RETRIEVER_AMQP_URL": own_amqp_url, "RETRIEVER_EGRESS_ALLOW": "127.0.0.0/8"}
    inputs = {"paths": "web.md", "args": "--max-age=1d", "reports": "json=links.json"}

    with serving_target(port, workspace.parent / "target.log"):
        code, printed, _ = run_action(workspace, inputs, **settings)

    found = json.loads((workspace / "links.json").read_text())
    assert [(each["line"], each["outcome"]) for each in found["links"]] == [(1, "ok"), (3, "unanswered")]
    assert "egress_denied http://127.0.0.1:1/" in printed
    assert code == 1
    assert (workspace.parent / "cache.made").read_text() == f"--silent -C {ROOT} setup\n"
    assert (workspace.parent / "cache" / "retriever" / "local" / "retriever.db").exists()
    assert processes_of(workspace.parent) == []


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        (None, 2, "there is no Retriever in"),
        ("print('make run: there is no RabbitMQ.'); raise SystemExit(1)", 3, "there is no RabbitMQ."),
    ],
    ids=["no service", "a service that does not start"],
)
def test_a_service_that_cannot_be_started_is_told_in_words(
    workspace: Path, program: str | None, code: int, words: str
) -> None:
    home = workspace.parent / "home"
    (home / "deploy" / "local").mkdir(parents=True)
    if program is not None:
        for empty in ("Procfile", "deploy/__init__.py", "deploy/local/__init__.py"):
            (home / empty).touch()
        (home / "deploy" / "local" / "run.py").write_text(program)
    (workspace / "web.md").write_text("<http://127.0.0.1/>\n")

    done = subprocess.run(
        ["retriever", "check", "web.md", "--local"],
        cwd=workspace,
        env=environment(workspace, RETRIEVER_HOME=str(home)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
