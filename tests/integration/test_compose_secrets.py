"""What makes the passwords of the compose stack: once, and whatever a stack of an older version lacks."""

import shutil
import subprocess
from pathlib import Path

_SCRIPT = Path(__file__).resolve().parents[2] / "deploy/compose/make-secrets"


def make_secrets(folder: Path) -> dict[str, str]:
    """Run the script and return what is in every file."""
    subprocess.run(["bash", str(_SCRIPT), str(folder)], check=True)
    return {
        str(path.relative_to(folder)): path.read_text().strip()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_ledger_gets_the_address_of_the_management_api(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)

    password = made["amqp_url/url"].removeprefix("amqp://retriever:").removesuffix("@rabbitmq:5672/")
    assert made["management_url/url"] == f"http://retriever:{password}@rabbitmq:15672"
    assert make_secrets(tmp_path) == made


def test_a_stack_of_an_older_version_gets_it_too_and_keeps_its_passwords(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)
    shutil.rmtree(tmp_path / "management_url")

    assert make_secrets(tmp_path) == made


def test_of_an_address_of_ones_own_nothing_is_made_up(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    shutil.rmtree(tmp_path / "management_url")
    (tmp_path / "amqp_url" / "url").unlink()
    (tmp_path / "amqp_url" / "url").write_text("amqps://me:secret@broker.example/jobs\n")

    assert make_secrets(tmp_path)["management_url/url"] == ""
