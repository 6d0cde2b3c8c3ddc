"""What makes the passwords of the compose stack: once, each process its own, and what an old one lacks."""

import base64
import hashlib
import json
import stat
from pathlib import Path

from deploy.compose.make_secrets import BROKER_USERS, make_secrets


def made_secrets(folder: Path) -> dict[str, str]:
    """Make the secrets and return what is in every file."""
    make_secrets(folder)
    return {
        str(path.relative_to(folder)): path.read_text().strip()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_process_gets_logins_of_its_own_and_keeps_them(tmp_path: Path) -> None:
    made = made_secrets(tmp_path)

    passwords = [
        made[f"amqp-{name}/url"].split("@")[0].rpartition(":")[2] for name in ("ledger", "worker", "executor")
    ]
    passwords += [
        made[f"database-{name}/url"].split("@")[0].rpartition(":")[2] for name in ("migrate", "api", "ledger")
    ]
    passwords += [made["console/password"], made["database/password"]]
    assert len(set(passwords)) == 8 and min(map(len, passwords)) >= 32
    assert made["management/url"].endswith(f"{passwords[0]}@rabbitmq:15672")
    assert made_secrets(tmp_path) == made


def test_the_broker_is_told_hashes_and_no_password(tmp_path: Path) -> None:
    made = made_secrets(tmp_path)

    users = json.loads(made["broker/definitions.json"])["users"]
    worker = next(user for user in users if user["name"] == "retriever-worker")
    hashed = base64.b64decode(worker["password_hash"])
    password = made["amqp-worker/url"].split("@")[0].rpartition(":")[2]
    assert hashed == hashed[:4] + hashlib.sha256(hashed[:4] + password.encode()).digest()
    assert {user["name"] for user in users} == {user.name for user in BROKER_USERS}
    assert not any(password in made[path] for path in made if path.startswith("broker/"))


def test_what_encrypts_is_made_once_for_our_own_user_alone(tmp_path: Path) -> None:
    made = made_secrets(tmp_path)

    for name in ("encryption/keys", "mask/key"):
        assert len(base64.b64decode(made[name], validate=True)) == 32
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o400
    assert made["encryption/keys"] != made["mask/key"]
    assert made_secrets(tmp_path) == made


def test_a_stack_of_an_older_version_keeps_the_database_and_gets_new_logins_at_the_broker(
    tmp_path: Path,
) -> None:
    # Then one administrator's password was known to the ledger and to all workers.
    (tmp_path / "database").mkdir()
    (tmp_path / "database/password").write_text("of-the-superuser\n")
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker/rabbitmq.conf").write_text("default_user = retriever\ndefault_pass = known-to-all\n")

    made = made_secrets(tmp_path)

    assert made["database/password"] == "of-the-superuser"
    assert "load_definitions" in made["broker/rabbitmq.conf"]
    assert "known-to-all" not in " ".join(made.values())


def test_a_start_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    made_secrets(tmp_path)
    (tmp_path / "broker/definitions.json").unlink()
    (tmp_path / "amqp-executor/url").unlink()

    made = made_secrets(tmp_path)

    users = json.loads(made["broker/definitions.json"])["users"]
    executor = next(user for user in users if user["name"] == "retriever-executor")
    salt = base64.b64decode(executor["password_hash"])[:4]
    password = made["amqp-executor/url"].split("@")[0].rpartition(":")[2]
    assert (
        base64.b64decode(executor["password_hash"])[4:] == hashlib.sha256(salt + password.encode()).digest()
    )
