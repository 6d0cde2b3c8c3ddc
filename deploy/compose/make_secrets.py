"""Writes random passwords, once, as files under a folder: what the service `secrets` of compose runs.

    python -m deploy.compose.make_secrets FOLDER

Each file lies in a folder of its own, a volume each, so that a container can be given one secret and not the
others. Every process has a login of its own at the broker and the database, with what it needs and no more.
What is there stays; what a stack of an older version lacks is added.
"""

import base64
import hashlib
import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PASSWORD_BYTES = 24
CONSOLE_USER = "retriever"
LEDGER_USER = "retriever-ledger"
WORKER_USER = "retriever-worker"
EXECUTOR_USER = "retriever-executor"
MIGRATE_ROLE = "retriever_migrate"
API_ROLE = "retriever_api"
LEDGER_ROLE = "retriever_ledger"

# Every name of our topology (shared/broker/topology.py).
_OURS = r"^(jobs|results|outcomes|control)(\..+)?$"
# A worker publishes reports, delayed copies and dead letters, and marks the end of a control stream over the
# default exchange; it consumes the queues of its kinds, and declares nothing. It looks whether every queue is
# there, which takes a right to it since RabbitMQ 4.3: to write, which without a right to read an exchange
# binds nothing.
_QUEUES = (
    r"jobs\.parked|jobs\.delay\.\d+s|jobs\.[a-z_]+\.(interactive|bulk|bundles)|control\.(cancelled|paused)"
)
_WORKER_WRITES = rf"^(results(\.(large|recorder))?|jobs\.(delay|dead)|amq\.default|{_QUEUES})$"
_QUEUES_OF_KINDS = r"^(jobs\.({kinds})\.(interactive|bulk|bundles)|control\.(cancelled|paused))$"
_NOTHING = "^$"


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """A login of the broker, and what it may do (https://www.rabbitmq.com/docs/access-control)."""

    name: str
    configure: str = _NOTHING
    write: str = _NOTHING
    read: str = _NOTHING
    tags: tuple[str, ...] = ()


BROKER_USERS = (
    BrokerUser(CONSOLE_USER, ".*", ".*", ".*", ("administrator",)),
    # It asks the management API for the depths of its own queues.
    BrokerUser(LEDGER_USER, _OURS, rf"{_OURS[:-1]}|^amq\.default$", _OURS, ("management",)),
    BrokerUser(
        WORKER_USER, write=_WORKER_WRITES, read=_QUEUES_OF_KINDS.replace("{kinds}", "check|fetch|webhook")
    ),
    BrokerUser(EXECUTOR_USER, write=_WORKER_WRITES, read=_QUEUES_OF_KINDS.replace("{kinds}", "command")),
)


def make_secrets(folder: Path, random: Callable[[int], str] = secrets.token_hex) -> None:
    """Write every secret that is not there; called again, it changes nothing.

    Args:
        folder: Has a folder for each volume, or will have.
        random: Gives a text that may stand in a URL as it is.
    """
    _write_once(
        folder / "webhook/secrets", lambda: f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    )
    _write_once(folder / "database/password", lambda: random(PASSWORD_BYTES))
    for name, role in (("migrate", MIGRATE_ROLE), ("api", API_ROLE), ("ledger", LEDGER_ROLE)):
        address = f"postgresql+psycopg://{role}:{{}}@postgres:5432/retriever"
        _write_once(folder / f"database-{name}/url", lambda: address.format(random(PASSWORD_BYTES)))  # noqa: B023
    _make_broker(folder, random)


def _make_broker(folder: Path, random: Callable[[int], str]) -> None:
    definitions = folder / "broker/definitions.json"
    if not definitions.exists():
        passwords = {user.name: random(PASSWORD_BYTES) for user in BROKER_USERS}
        for name, user in (("ledger", LEDGER_USER), ("worker", WORKER_USER), ("executor", EXECUTOR_USER)):
            _write(folder / f"amqp-{name}/url", f"amqp://{user}:{passwords[user]}@rabbitmq:5672/")
        _write(folder / "management/url", f"http://{LEDGER_USER}:{passwords[LEDGER_USER]}@rabbitmq:15672")
        _write(folder / "console/password", passwords[CONSOLE_USER])
        _write(folder / "broker/rabbitmq.conf", _BROKER_SETTINGS)
        # The last one written says that all are there.
        _write(definitions, json.dumps(broker_definitions(passwords), indent=2))


_BROKER_SETTINGS = """\
# Read at every start, so users whose passwords are in a volume are those of the broker.
load_definitions = /run/secrets/broker/definitions.json
# Half of the memory that docker-compose.yml allows the container.
vm_memory_high_watermark.absolute = 1GiB"""


def broker_definitions(passwords: dict[str, str]) -> dict[str, object]:
    """Return the users of the broker and their permissions, as RabbitMQ imports them at its start."""
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": user.name,
                "password_hash": password_hash(passwords[user.name]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": list(user.tags),
            }
            for user in BROKER_USERS
        ],
        "permissions": [
            {
                "user": each.name,
                "vhost": "/",
                "configure": each.configure,
                "write": each.write,
                "read": each.read,
            }
            for each in BROKER_USERS
        ],
    }


def password_hash(password: str) -> str:
    """Return a salted SHA-256 (https://www.rabbitmq.com/docs/passwords#computing-password-hash)."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _write_once(path: Path, make: Callable[[], str]) -> None:
    if not path.exists():
        _write(path, make())


def _write(path: Path, text: str) -> None:
    # Readable for the servers' own users, whose numbers differ from image to image; who can see the file at
    # all is decided by who is given its folder. Renamed, because a half written secret must never be used.
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_text(f"{text}\n")
    draft.chmod(0o444)
    draft.rename(path)


if __name__ == "__main__":
    make_secrets(Path(sys.argv[1]))
