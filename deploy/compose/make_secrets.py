"""Writes random passwords, once, as files under a folder: what the service `secrets` of compose runs.

    python -m deploy.compose.make_secrets FOLDER

Each file lies in a folder of its own, a volume each, so that a container can be given one secret and not the
others. Every process has a login of its own at the broker and the database, with what it needs and no more.
Passwords that are there stay; what a stack of an older version lacks is added, and what the logins may do is
written anew.
"""

import base64
import hashlib
import json
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from shared.broker.topology import DELAY, JOBS, exchanges
from shared.setting_values import KEY_BYTES

PASSWORD_BYTES = 24
CONSOLE_USER = "retriever"
LEDGER_USER = "retriever-ledger"
WORKER_USER = "retriever-worker"
EXECUTOR_USER = "retriever-executor"
PUBLISHER_USER = "retriever-publisher"
MIGRATE_ROLE = "retriever_migrate"
API_ROLE = "retriever_api"
LEDGER_ROLE = "retriever_ledger"

# Every name of our topology (shared/broker/topology.py).
_OURS = r"^(jobs|results|outcomes|control)(\..+)?$"
# A worker publishes reports, delayed copies and dead letters, and marks the end of a control stream; it
# consumes the queues of its kinds, and declares nothing. It looks whether every queue is there, which takes a
# right to it since RabbitMQ 4.3: to write, which without a right to read an exchange binds nothing.
_QUEUES = (
    r"jobs\.parked|jobs\.delay\.\d+s|jobs\.[a-z_]+\.(interactive|bulk|bundles)|control\.(cancelled|paused)"
)
_WORKER_WRITES = rf"^(results(\.(large|recorder))?|jobs\.(delay|dead)|control\.marks|{_QUEUES})$"
_QUEUES_OF_KINDS = r"^(jobs\.({kinds})\.(interactive|bulk|bundles)|control\.(cancelled|paused))$"
# What is delayed comes back as a job to run, so a worker delays jobs of its own kinds alone.
_DELAYS_OF_KINDS = r"^({kinds})\.(interactive|bulk)\.\d+s$"
_NOTHING = "^$"


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """A login of the broker, and what it may do (https://www.rabbitmq.com/docs/access-control).

    Attributes:
        keys: By the name of an exchange, the routing keys that it may publish there.
    """

    name: str
    configure: str = _NOTHING
    write: str = _NOTHING
    read: str = _NOTHING
    keys: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


def _worker(name: str, kinds: str) -> BrokerUser:
    return BrokerUser(
        name,
        write=_WORKER_WRITES,
        read=_QUEUES_OF_KINDS.replace("{kinds}", kinds),
        keys={DELAY: _DELAYS_OF_KINDS.replace("{kinds}", kinds)},
    )


BROKER_USERS = (
    BrokerUser(CONSOLE_USER, ".*", ".*", ".*", tags=("administrator",)),
    # It asks the management API for the depths of its own queues.
    BrokerUser(LEDGER_USER, _OURS, rf"{_OURS}|^amq\.default$", _OURS, tags=("management",)),
    _worker(WORKER_USER, "check|fetch|webhook"),
    _worker(EXECUTOR_USER, "command"),
    # A third party. Its jobs are neither programs nor signed requests, and the recorder hears of each.
    BrokerUser(PUBLISHER_USER, write=rf"^{JOBS}$", keys={JOBS: r"^(check|fetch)\.(interactive|bulk)$"}),
)
_URLS = {
    LEDGER_USER: "amqp-ledger/url",
    WORKER_USER: "amqp-worker/url",
    EXECUTOR_USER: "amqp-executor/url",
    PUBLISHER_USER: "amqp-publisher/url",
}


def make_secrets(folder: Path, random: Callable[[int], str] = secrets.token_hex) -> None:
    """Write every secret that is not there; called again, it changes nothing.

    Args:
        folder: Has a folder for each volume, or will have.
        random: Gives a text that may stand in a URL as it is.
    """
    _write_once(
        folder / "webhook/secrets", lambda: f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    )
    for name in ("encryption/keys", "mask/key"):
        # What opens all that is kept in secret is for our own user alone, whose number is fixed.
        _write_once(folder / name, random_key, mode=0o400)
    _write_once(folder / "database/password", lambda: random(PASSWORD_BYTES))
    for name, role in (("migrate", MIGRATE_ROLE), ("api", API_ROLE), ("ledger", LEDGER_ROLE)):
        address = f"postgresql+psycopg://{role}:{{}}@postgres:5432/retriever"
        _write_once(folder / f"database-{name}/url", lambda: address.format(random(PASSWORD_BYTES)))  # noqa: B023
    _make_broker(folder, random)


def _make_broker(folder: Path, random: Callable[[int], str]) -> None:
    passwords = {}
    for user, path in _URLS.items():
        _write_once(folder / path, lambda: f"amqp://{user}:{random(PASSWORD_BYTES)}@rabbitmq:5672/")  # noqa: B023
        passwords[user] = urlsplit((folder / path).read_text()).password or ""
    _write_once(folder / "console/password", lambda: random(PASSWORD_BYTES))
    passwords[CONSOLE_USER] = (folder / "console/password").read_text().strip()
    _renew(folder / "management/url", f"http://{LEDGER_USER}:{passwords[LEDGER_USER]}@rabbitmq:15672")
    _renew(folder / "broker/rabbitmq.conf", _BROKER_SETTINGS)
    _renew(folder / "broker/definitions.json", json.dumps(broker_definitions(passwords), indent=2))


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
        # RabbitMQ 4 takes no permission for an exchange that is not there.
        "exchanges": [
            {
                "name": spec.name,
                "vhost": "/",
                "type": spec.type.value,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {"alternate-exchange": spec.alternate} if spec.alternate else {},
            }
            for spec in exchanges()
            if any(spec.name in each.keys for each in BROKER_USERS)
        ],
        "topic_permissions": [
            {"user": each.name, "vhost": "/", "exchange": exchange, "write": keys, "read": _NOTHING}
            for each in BROKER_USERS
            for exchange, keys in each.keys.items()
        ],
    }


def password_hash(password: str) -> str:
    """Return a salted SHA-256 (https://www.rabbitmq.com/docs/passwords#computing-password-hash).

    The salt is made of the password, so that the same passwords give the same file. It is for passwords that
    nobody else can have: random ones.
    """
    salt = hashlib.sha256(f"salt of {password}".encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _renew(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != f"{text}\n":
        _write(path, text)


def random_key() -> str:
    """Return a key as `RETRIEVER_ENCRYPTION_KEYS_FILE` and `RETRIEVER_MASK_KEY_FILE` have them."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _write_once(path: Path, make: Callable[[], str], *, mode: int = 0o444) -> None:
    if not path.exists():
        _write(path, make(), mode=mode)


def _write(path: Path, text: str, *, mode: int = 0o444) -> None:
    # Readable for the servers' own users, whose numbers differ from image to image; who can see the file at
    # all is decided by who is given its folder. Renamed, because a half written secret must never be used.
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_text(f"{text}\n")
    draft.chmod(mode)
    draft.rename(path)


if __name__ == "__main__":
    make_secrets(Path(sys.argv[1]))
