"""Secrets in the store, on SQLite and PostgreSQL: which go along with which job, and whose use is noted."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from producer.ledger.relay_messages import job_message, job_messages
from producer.records import ClaimedJob, NewJob
from producer.secrets import NewValue, StoredSecret
from producer.store import outbox, secrets, submissions, unfinished
from producer.store.database import Database
from producer.store.page_bytes import PAGE_BYTES
from producer.store.schema import secrets as table
from shared.broker.bundle import bodies_of
from shared.errors import QuotaReached, SecretNameTaken, SecretNotFound, SecretUnreadable
from shared.kinds.registry import Lane
from shared.messages import JobMessage
from shared.sealed import SecretUse
from shared.states import JobState
from tests.support.factories import NOON, TOKENS, make_job, make_webhook_secret
from tests.support.secrets import keep_secrets, make_secret, opened

A, B = "https://a.example", "https://b.example"
MINUTE = timedelta(minutes=1)


def naming(name: str, *, project: str = "default", url: str = f"{A}/", **more: Any) -> NewJob:
    args = {"url": url, "auth": {"type": "bearer", "token": {"secret": name}}}
    return make_job(kind="fetch", args=args, project=project, **more)


def webhook_to(url: str, *, project: str = "default") -> NewJob:
    args = {"url": url, "type": "a.b", "timestamp": "2026-01-02T12:00:00Z", "data": {}}
    return make_job(kind="webhook", args=args, project=project)


def claim(store: Database, *jobs: NewJob, now: Any = NOON) -> list[ClaimedJob]:
    store.write(submissions.insert_jobs, jobs)
    claimed = store.write(outbox.claim_accepted, limit=1_000, lease_seconds=60, now=now)
    by_id = {job.id: job for job in claimed}
    return [by_id[job.id] for job in jobs]


def test_a_job_gets_the_secrets_that_it_names_and_no_other(store: Database) -> None:
    keep_secrets(store, make_secret("crm", "one", A), make_secret("erp", "two", A))
    args = {"url": f"{A}/", "headers": {"X-A": {"secret": "crm"}, "X-B": {"secret": "none"}, "X-C": "erp"}}

    both, plain = claim(store, make_job(kind="check", args=args), make_job(kind="check"))

    assert opened(both.sealed) == [("crm", "one")]
    assert plain.sealed == ()


def test_each_project_has_its_own_and_gets_no_other(store: Database) -> None:
    keep_secrets(
        store, make_secret("crm", "docs", A, project="docs"), make_secret("crm", "web", A, project="web")
    )

    jobs = claim(store, naming("crm", project="docs"), naming("crm", project="web"), naming("crm"))

    assert [opened(job.sealed, project=job.project) for job in jobs] == [
        [("crm", "docs")],
        [("crm", "web")],
        [],
    ]


def test_a_webhook_gets_what_signs_for_its_receiver_and_no_other(store: Database) -> None:
    keep_secrets(
        store,
        make_secret("a", "of a", A, use=SecretUse.WEBHOOK),
        make_secret("ab", "of both", A, f"{B}:8443", use=SecretUse.WEBHOOK),
        make_secret("others", "of docs", A, use=SecretUse.WEBHOOK, project="docs"),
        make_secret("request", "no signature", A),
    )

    jobs = claim(store, *map(webhook_to, (f"{A}/x?y", f"{B}:8443/", f"{B}/", "http://a.example/")))

    assert [sorted(opened(job.sealed)) for job in jobs] == [
        [("a", "of a"), ("ab", "of both")],
        [("ab", "of both")],
        [],
        [],
    ]


def test_a_secret_for_webhooks_is_sent_in_no_request(store: Database) -> None:
    keep_secrets(store, make_secret("hooks", "signs", A, use=SecretUse.WEBHOOK))

    (job,) = claim(store, naming("hooks"))

    assert job.sealed == ()


def replace(
    store: Database, secret: StoredSecret, value: str, *, overlap: timedelta, **more: Any
) -> StoredSecret:
    new = make_secret(secret.name, value, *more.get("origins", secret.origins), use=secret.use)
    given = NewValue(new.origins, new.box, None)
    return store.write(secrets.replace_value, secret, given, overlap=overlap, by="a test", now=NOON)


def test_two_secrets_of_a_receiver_sign_until_the_overlap_is_over(store: Database) -> None:
    old, new = make_webhook_secret(), make_webhook_secret()
    secret = make_secret("a", old, A, use=SecretUse.WEBHOOK)
    keep_secrets(store, secret)
    replace(store, secret, new, overlap=MINUTE)

    (during,) = claim(store, webhook_to(f"{A}/"), now=NOON + 0.9 * MINUTE)
    (after,) = claim(store, webhook_to(f"{A}/"), now=NOON + MINUTE)

    assert [value for _, value in opened(during.sealed)] == [new, old]
    assert [value for _, value in opened(after.sealed)] == [new]


@pytest.mark.parametrize(
    ("use", "overlap", "origins"),
    [
        (SecretUse.WEBHOOK, timedelta(0), [A]),
        (SecretUse.WEBHOOK, MINUTE, [A, B]),
        (SecretUse.REQUEST, MINUTE, [A]),
    ],
)
def test_the_value_before_is_not_kept_where_it_signs_no_longer(
    store: Database, use: SecretUse, overlap: timedelta, origins: list[str]
) -> None:
    secret = make_secret("a", "old", A, use=use)
    keep_secrets(store, secret)

    after = replace(store, secret, "new", overlap=overlap, origins=origins)

    assert (after.previous_box, after.previous_until) == (None, None)


def test_of_two_who_replace_a_secret_at_once_one_is_told(store: Database) -> None:
    secret = make_secret("a", "old", A)
    keep_secrets(store, secret)
    replace(store, secret, "first", overlap=MINUTE)

    with pytest.raises(SecretNotFound):
        replace(store, secret, "second", overlap=MINUTE)


def test_use_is_noted_to_a_minute(store: Database) -> None:
    secret = make_secret("crm", "one", A)
    keep_secrets(store, secret, make_secret("other", "two", A))

    def used_at() -> Any:
        return store.read(secrets.get_secret, secret.id, project=None).last_used_at

    noted = []
    for now in (NOON, NOON + 0.5 * MINUTE, NOON + 1.5 * MINUTE):
        claim(store, naming("crm"), now=now)
        noted.append(used_at())

    assert noted == [NOON, NOON, NOON + 1.5 * MINUTE]
    assert store.read(secrets.find_secret, "default", "other").last_used_at is None


@pytest.mark.parametrize("lane", Lane)
def test_both_ways_to_write_a_message_say_the_same_of_its_secrets(store: Database, lane: Lane) -> None:
    keep_secrets(store, make_secret("crm", "one", A, project="docs"))
    (job,) = claim(store, naming("crm", project="docs", lane=lane))

    ((message, _),) = job_messages([job], tokens=TOKENS, bundle_jobs=10)
    (spliced,) = bodies_of(message.body)

    assert JobMessage.decode(spliced) == job_message(job, tokens=TOKENS)
    assert opened(JobMessage.decode(spliced).sealed or (), project="docs") == [("crm", "one")]


def test_a_job_that_is_sent_again_gets_the_secrets_that_there_are_then(store: Database) -> None:
    secret = make_secret("crm", "old", A)
    keep_secrets(store, secret)
    (job,) = claim(store, naming("crm"))
    store.write(outbox.mark_queued, [(job.id, 1)], now=NOON)
    replace(store, secret, "new", overlap=MINUTE)

    page = store.read(
        unfinished.read_page,
        JobState.QUEUED,
        [("fetch", Lane.INTERACTIVE)],
        heard_before=NOON + MINUTE,
        after=None,
    )

    assert [opened(each.message.sealed) for each in page.jobs] == [[("crm", "new")]]


def test_jobs_that_name_no_secret_ask_the_store_for_none(store: Database) -> None:
    keep_secrets(store, make_secret("crm", "one", A))
    store.write(submissions.insert_jobs, [make_job(kind=kind) for kind in ("check", "fetch")])
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    sa.event.listen(store._writer, "before_cursor_execute", note)
    assert len(store.write(outbox.claim_accepted, limit=9, lease_seconds=60, now=NOON)) == 2

    assert statements and not [each for each in statements if "secrets" in each]


def test_names_are_unique_and_bounded_in_each_project(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "MAX_SECRETS", 2)
    keep_secrets(store, make_secret("a", "1", A), make_secret("a", "1", A, project="docs"))

    with pytest.raises(SecretNameTaken):
        keep_secrets(store, make_secret("a", "2", A))
    keep_secrets(store, make_secret("b", "2", A))
    with pytest.raises(QuotaReached, match="2 secrets"):
        keep_secrets(store, make_secret("c", "3", A))


def test_of_many_secrets_of_a_receiver_the_newest_ten_sign(store: Database) -> None:
    made = [make_secret(f"s{n}", f"v{n}", A, use=SecretUse.WEBHOOK, now=NOON + n * MINUTE) for n in range(12)]
    keep_secrets(store, *made)

    (job,) = claim(store, webhook_to(f"{A}/"))

    assert [name for name, _ in opened(job.sealed)] == [f"s{n}" for n in range(11, 1, -1)]


def test_jobs_with_many_large_secrets_make_no_page_large_and_wait_for_nobody(store: Database) -> None:
    keep_secrets(store, *(make_secret(f"s{n}", "x" * 4_096, A) for n in range(10)))
    args = {"url": f"{A}/", "headers": {f"X-{n}": {"secret": f"s{n}"} for n in range(10)}}
    handed_in = [make_job(kind="check", args=args) for _ in range(200)]
    store.write(submissions.insert_jobs, handed_in)

    pages = [store.write(outbox.claim_accepted, limit=1_000, lease_seconds=60, now=NOON) for _ in range(4)]

    sizes = [sum(job.claimed_bytes for job in page) for page in pages]
    assert [job.id for page in pages for job in page] == [job.id for job in handed_in]
    # As large as any full page, and one job; the relay claims the next at once.
    assert all(PAGE_BYTES <= size < PAGE_BYTES + 60_000 for size in sizes[:2])


def test_a_page_of_jobs_that_name_thousands_of_secrets_is_claimed(store: Database) -> None:
    keep_secrets(store, make_secret("s7-7", "seven", A))
    jobs = [
        make_job(
            kind="check", args={"url": A, "headers": {f"X-{m}": {"secret": f"s{n}-{m}"} for m in range(10)}}
        )
        for n in range(1_000)
    ]

    claimed = claim(store, *jobs)

    assert [opened(job.sealed) for job in claimed] == [
        [("s7-7", "seven")] if n == 7 else [] for n in range(1_000)
    ]


def rows(store: Database) -> Sequence[Any]:
    with store.reading() as connection:
        return connection.execute(sa.select(table).order_by(table.c.name)).all()


@pytest.mark.parametrize("moved", ["project", "name", "use", "origins"])
def test_a_box_that_is_moved_to_another_row_does_not_open(store: Database, moved: str) -> None:
    keep_secrets(store, make_secret("crm", "planted", A, project="docs"))
    values = {"project": "web", "name": "erp", "use": "webhook", "origins": [A, "https://evil.example"]}

    def change(connection: sa.Connection) -> None:
        connection.execute(table.update().values({moved: values[moved]}))

    store.write(change)
    (row,) = rows(store)
    project, name = row.project, row.name
    job = webhook_to(f"{A}/", project=project) if moved == "use" else naming(name, project=project)
    (claimed,) = claim(store, job)

    assert len(claimed.sealed) == 1
    with pytest.raises(SecretUnreadable, match="bound to another project, name or origin"):
        opened(claimed.sealed, project=project)


def test_what_is_stored_and_sent_of_a_secret_is_not_its_value(store: Database) -> None:
    keep_secrets(store, make_secret("crm", "planted-value", A))
    (job,) = claim(store, naming("crm"))

    ((message, _),) = job_messages([job], tokens=TOKENS, bundle_jobs=10)

    assert b"planted" not in message.body and "planted" not in repr(rows(store))
    assert json.loads(message.body)["sealed"][0]["name"] == "crm"
