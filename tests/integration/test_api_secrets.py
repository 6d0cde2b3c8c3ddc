"""Secrets over HTTP and on the command line, on both stores: kept, listed, replaced, deleted, never shown."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from producer.callers import Scope
from producer.store.database import Database
from producer.store.schema import metadata
from shared.encryption import EncryptionKeys, new_key
from shared.sealed import Binding, SecretUse
from shared.settings import Settings
from tests.support.api import RunningApi, running_api
from tests.support.environment import clean_environment
from tests.support.factories import make_webhook_secret
from tests.support.keys import bearer, make_key

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = new_key(), new_key()
VALUE = "s3cr3t-marked-value"
ORIGIN = "https://api.crm.example"


@contextmanager
def opened_api(database_url: str, *keys: str) -> Iterator[RunningApi]:
    settings = Settings(database_url=database_url, encryption_keys=tuple(map(SecretStr, keys)))
    with running_api(settings, migrated=False) as running:
        yield running


@pytest.fixture
def api(database_url: str) -> Iterator[RunningApi]:
    with opened_api(database_url, OLD) as running:
        yield running


def create(api: RunningApi, caller: str | None = None, **fields: Any) -> httpx.Response:
    asked = {"name": "crm", "origins": [ORIGIN], "value": VALUE, **fields}
    return api.client.post(
        "/secrets",
        json={name: value for name, value in asked.items() if value is not None},
        headers=bearer(caller) if caller else {},
    )


def all_rows(store: Database) -> str:
    """Return all that is stored, as text and as octets are shown."""
    with store.reading() as connection:
        tables = {
            table.name: [tuple(row) for row in connection.execute(sa.select(table))]
            for table in metadata.sorted_tables
        }
    return repr(tables)


def test_a_secret_is_kept_and_never_shown(api: RunningApi) -> None:
    made = create(api)
    document = made.json()

    shown = [
        api.client.get(f"/secrets/{document['id']}"),
        api.client.get("/secrets"),
        api.client.get("/audit"),
    ]

    assert (made.status_code, made.headers["location"]) == (201, f"/secrets/{document['id']}")
    assert made.headers["cache-control"] == "no-store"
    assert document.pop("value") is None
    assert shown[0].json() == document == shown[1].json()["items"][0]
    assert (document["name"], document["project"], document["use"]) == ("crm", "default", "request")
    assert (document["origins"], document["last_used_at"]) == ([ORIGIN], None)
    assert [entry["action"] for entry in shown[2].json()["items"]] == ["secret_created"]
    assert not any(VALUE in answer.text for answer in (made, *shown))
    assert VALUE not in all_rows(api.store)


def test_a_replaced_secret_has_another_box_and_keeps_its_origins(api: RunningApi) -> None:
    path = f"/secrets/{create(api).json()['id']}"

    replaced = api.client.put(path, json={"value": "other"})
    elsewhere = api.client.put(path, json={"value": "other", "origins": ["https://b.example:443", ORIGIN]})
    keys = EncryptionKeys.of([SecretStr(OLD)])
    with api.store.reading() as connection:
        (box,) = connection.scalars(sa.select(metadata.tables["secrets"].c.box)).all()

    assert (replaced.status_code, replaced.json()["origins"]) == (200, [ORIGIN])
    assert elsewhere.json()["origins"] == [ORIGIN, "https://b.example"]
    binding = Binding("default", "crm", SecretUse.REQUEST, (ORIGIN, "https://b.example"))
    assert keys.open(bytes(box), binding) == "other"


def test_nobody_sends_a_secret_elsewhere_who_does_not_know_it(api: RunningApi) -> None:
    path = f"/secrets/{create(api).json()['id']}"

    refused = api.client.put(path, json={"origins": ["https://evil.example"]})

    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (400, "/value")
    assert api.client.get(path).json()["origins"] == [ORIGIN]


def test_a_deleted_secret_is_gone_and_its_name_is_free(api: RunningApi) -> None:
    path = f"/secrets/{create(api).json()['id']}"

    answers = [api.client.delete(path), api.client.delete(path), api.client.get(path)]

    assert [answer.status_code for answer in answers] == [204, 404, 404]
    assert create(api).status_code == 201


def test_a_project_has_a_name_once_and_another_project_again(api: RunningApi) -> None:
    operator = make_key(api.store, "operator")
    docs = make_key(api.store, "docs", project="docs")

    answers = [
        create(api, docs),
        create(api, docs),
        create(api, operator),
        create(api, operator, project="web"),
    ]
    elsewhere = create(api, docs, project="web", name="x")
    seen = [
        {
            (each["project"], each["name"])
            for each in api.client.get("/secrets", headers=bearer(key)).json()["items"]
        }
        for key in (docs, operator)
    ]

    assert [answer.status_code for answer in answers] == [201, 409, 201, 201]
    assert answers[1].json()["type"] == "urn:retriever:secret-name-taken"
    assert elsewhere.status_code == 403
    assert seen == [{("docs", "crm")}, {("docs", "crm"), ("default", "crm"), ("web", "crm")}]


def test_what_signs_webhooks_is_made_when_it_is_not_given_and_shown_once(api: RunningApi) -> None:
    made = create(api, name="hooks", use="webhook", value=None)
    path = f"/secrets/{made.json()['id']}"
    given = api.client.put(path, json={"value": make_webhook_secret(), "overlap_seconds": 60})
    again = api.client.put(path)

    assert made.json()["value"].startswith("whsec_")
    assert given.json()["value"] is None and given.json()["previous_until"] is not None
    assert again.json()["value"].startswith("whsec_") and again.headers["cache-control"] == "no-store"
    ended = api.client.put(path, json={"overlap_seconds": 0}).json()
    assert ended["previous_until"] is None
    assert made.json()["value"] not in api.client.get(path).text + all_rows(api.store)


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"name": "../x"}, "/name"),
        ({"name": "X"}, "/name"),
        ({"origins": []}, "/origins"),
        ({"origins": ["https://a.example/path"]}, "/origins"),
        ({"origins": [f"https://{n}.example" for n in range(21)]}, "/origins"),
        ({"value": f"{VALUE}\nX-Evil: 1"}, "/value"),
        ({"value": ""}, "/value"),
        ({"value": VALUE * 1_000}, "/value"),
        ({"value": None}, "/value"),
        ({"use": "webhook", "value": VALUE}, "/value"),
        ({"use": "other"}, "/use"),
        ({"project": "A b"}, "/project"),
        ({VALUE: 1}, f"/{VALUE}"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_by_its_place_and_not_repeated(
    api: RunningApi, fields: dict[str, Any], loc: str
) -> None:
    refused = create(api, **fields)

    assert refused.status_code == 400
    assert [error["loc"] for error in refused.json()["errors"]] == [loc]
    assert VALUE not in json.dumps([error["msg"] for error in refused.json()["errors"]])


def test_one_value_alone_is_sent_so_that_none_goes_on_beside_it(api: RunningApi) -> None:
    path = f"/secrets/{create(api).json()['id']}"

    refused = api.client.put(path, json={"value": "other", "overlap_seconds": 5})

    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (400, "/overlap_seconds")


def test_without_keys_nothing_is_kept_and_the_answer_says_what_to_do(database_url: str) -> None:
    with opened_api(database_url) as api:
        refused = create(api)

        assert (refused.status_code, refused.json()["type"]) == (409, "urn:retriever:encryption-keys-missing")
        assert "RETRIEVER_ENCRYPTION_KEYS_FILE" in refused.json()["detail"]


def test_secrets_take_a_scope_of_their_own(api: RunningApi) -> None:
    others = make_key(api.store, "others", [scope for scope in Scope if scope is not Scope.SECRETS_ADMIN])

    refused = create(api, others)

    assert (refused.status_code, "secrets:admin" in refused.text) == (403, True)


def run(database_url: str, *arguments: str, keys: str | None = OLD, value: str = "") -> tuple[int, str]:
    environment = clean_environment() | {"RETRIEVER_DATABASE_URL": database_url}
    if keys is not None:
        environment["RETRIEVER_ENCRYPTION_KEYS"] = keys
    done = subprocess.run(
        [sys.executable, "-m", "producer", "secrets", *arguments],
        cwd=ROOT,
        env=environment,
        input=value,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_line_keeps_replaces_lists_and_deletes(api: RunningApi, database_url: str) -> None:
    at = ["--project", "docs"]
    kept = run(database_url, "set", "crm", *at, "--origin", "https://A.example:443", value=f"{VALUE}\n")
    replaced = run(database_url, "set", "crm", *at, value="other\n")
    made = run(database_url, "set", "hooks", *at, "--webhook", "--generate", "--origin", "https://b.example")
    listed = run(database_url, "list")
    deleted = run(database_url, "delete", "crm", *at)
    gone = run(database_url, "delete", "crm", *at)
    left = api.client.get("/secrets").json()["items"]

    assert [kept, replaced, deleted] == [(0, "kept: crm\n"), (0, "replaced: crm\n"), (0, "deleted: crm\n")]
    assert made[1].startswith("whsec_")
    assert [line.split("  ")[:4] for line in listed[1].splitlines()] == [
        ["docs", "hooks", "webhook", "https://b.example"],
        ["docs", "crm", "request", "https://a.example"],
    ]
    assert gone[0] == 2 and "secrets list" in gone[1]
    assert [(each["name"], each["created_by"]) for each in left] == [("hooks", "command line")]
    assert not any(VALUE in said or "other" in said for _, said in (kept, replaced, listed, deleted))


def test_a_value_is_read_from_a_file_and_the_key_is_made_as_the_documents_say(
    sqlite_url: str, tmp_path: Path
) -> None:
    (tmp_path / "token.txt").write_text(f"{VALUE}\n")
    (line,) = re.findall(r"^\(umask 077; .*\)$", (ROOT / "docs/secrets.md").read_text(), re.MULTILINE)
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)  # noqa: S602
    key = (tmp_path / "encryption_keys").read_text()

    kept = run(sqlite_url, "set", "crm", "--origin", ORIGIN, "--from", str(tmp_path / "token.txt"), keys=key)

    assert kept == (0, "kept: crm\n")
    assert stat.S_IMODE((tmp_path / "encryption_keys").stat().st_mode) == 0o600
    with opened_api(sqlite_url, key.strip()) as api, api.store.reading() as connection:
        (box,) = connection.scalars(sa.select(metadata.tables["secrets"].c.box)).all()
    binding = Binding("default", "crm", SecretUse.REQUEST, (ORIGIN,))
    assert EncryptionKeys.of([SecretStr(key.strip())]).open(bytes(box), binding) == VALUE


@pytest.mark.parametrize(
    ("arguments", "has_keys", "said"),
    [
        (["set", "crm", "--origin", ORIGIN], False, "RETRIEVER_ENCRYPTION_KEYS_FILE"),
        (["set", "crm"], True, "1 to 20 origins"),
        (["set", "CRM", "--origin", ORIGIN], True, "lower case letters"),
        (["set", "crm", "--origin", "crm.example"], True, "Must be an origin"),
        (["set", "crm", "--origin", ORIGIN, "--webhook"], True, "whsec_"),
        (["set", "crm", "--origin", ORIGIN, "--generate"], True, "--generate"),
        (["set", "crm", "--origin", ORIGIN, "--project", "A B"], True, "lower case letters"),
        (["reencrypt"], False, "RETRIEVER_ENCRYPTION_KEYS_FILE"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    sqlite_url: str, arguments: list[str], has_keys: bool, said: str
) -> None:
    status, printed = run(sqlite_url, *arguments, keys=OLD if has_keys else None, value=VALUE)

    assert status == 2 and said in printed and VALUE not in printed and "Traceback" not in printed


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    path = tmp_path / "commanded.db"
    path.write_bytes(migrated_file.read_bytes())
    return f"sqlite:///{path}"


def test_a_new_key_takes_over_and_the_old_one_can_go(api: RunningApi, database_url: str) -> None:
    before = create(api).json()["key_id"]
    both = run(database_url, "reencrypt", keys=f"{NEW} {OLD}")
    again = run(database_url, "reencrypt", keys=f"{NEW} {OLD}")
    alone = run(database_url, "list", keys=NEW)
    (after,) = api.client.get("/secrets").json()["items"]
    too_soon = run(database_url, "reencrypt", keys=OLD)

    assert [both, again] == [(0, "encrypted anew: 1\n"), (0, "encrypted anew: 0\n")]
    assert before != after["key_id"] and "missing" not in alone[1]
    assert too_soon[0] == 2
    assert f"default/crm: it was sealed with the key {after['key_id']}, which the file" in too_soon[1]
