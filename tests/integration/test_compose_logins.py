"""What the logins of the compose stack may do, at a real broker and in a real database, and what not."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import aio_pika
import psycopg
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import ChannelAccessRefused
from pamqp.common import FieldTable
from psycopg import errors

from deploy.compose.make_roles import make_roles
from deploy.compose.make_secrets import (
    API_ROLE,
    BROKER_USERS,
    EXECUTOR_USER,
    LEDGER_ROLE,
    LEDGER_USER,
    MIGRATE_ROLE,
    WORKER_USER,
)
from producer.store.migrate import migrate
from shared.broker.topology import (
    CANCELLED_STREAM,
    DEAD,
    DEFAULT,
    DELAY,
    JOBS,
    OUTCOMES,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    RESULTS,
    declare_topology,
    delay_key,
    verify_topology,
    work_key,
    work_queue,
)
from shared.kinds.registry import BROKERED_KINDS, Lane
from shared.retry import DELAY_STEPS_SECONDS
from tests.support.amqp import open_channel
from tests.support.management import Management

PASSWORDS = dict.fromkeys((MIGRATE_ROLE, API_ROLE, LEDGER_ROLE), "of-a-test")
CHECKS, COMMANDS = work_queue("check", Lane.BULK), work_queue("command", Lane.BULK)


@pytest.fixture
def logins(vhost_url: str, vhost: str, management: Management) -> Iterator[dict[str, str]]:
    """Yield the address of the virtual host for each user of the stack, by the user's name."""
    server = urlsplit(vhost_url)
    addresses = {}
    for user in BROKER_USERS:
        management.create_user(user.name)
        rights = {"configure": user.configure, "write": user.write, "read": user.read}
        management.permit(vhost, user.name, rights)
        addresses[user.name] = f"amqp://{user.name}:{user.name}@{server.hostname}:{server.port}{server.path}"
    yield addresses
    for user in BROKER_USERS:
        management.delete_user(user.name)


async def publish(url: str, exchange: str, key: str) -> None:
    async with open_channel(url) as channel:
        where = channel.default_exchange if exchange == DEFAULT else aio_pika.Exchange(channel, exchange)
        await where.publish(aio_pika.Message(b"{}"), key, mandatory=False)


async def ignore(_: AbstractIncomingMessage) -> None:
    """Leave the message to whoever comes next."""


async def consume(url: str, queue: str, *, stream: bool = False) -> None:
    async with open_channel(url) as channel:
        await channel.set_qos(1)
        declared = await channel.declare_queue(queue, passive=True)
        arguments: FieldTable | None = {"x-stream-offset": "first"} if stream else None
        await declared.consume(ignore, arguments=arguments)


async def test_the_ledger_declares_everything_and_workers_do_their_work(logins: dict[str, str]) -> None:
    async with open_channel(logins[LEDGER_USER]) as channel:
        await declare_topology(channel, BROKERED_KINDS)
    for queue in (RECORDER_QUEUE, PARKED_QUEUE):
        await consume(logins[LEDGER_USER], queue)
    for exchange, key in ((JOBS, work_key("check", Lane.BULK)), (OUTCOMES, "job"), (DEFAULT, PAUSED_STREAM)):
        await publish(logins[LEDGER_USER], exchange, key)

    for user, queue in ((WORKER_USER, CHECKS), (EXECUTOR_USER, COMMANDS)):
        async with open_channel(logins[user]) as channel:
            await verify_topology(channel, BROKERED_KINDS)
        await consume(logins[user], queue)
        for stream in (CANCELLED_STREAM, PAUSED_STREAM):
            await consume(logins[user], stream, stream=True)
        step = delay_key("check", Lane.BULK, DELAY_STEPS_SECONDS[0])
        for exchange, key in (
            (RESULTS, "check"),
            (DELAY, step),
            (DEAD, "check.bulk"),
            (DEFAULT, PAUSED_STREAM),
        ):
            await publish(logins[user], exchange, key)


async def test_a_worker_reads_no_queue_but_those_of_its_kinds(logins: dict[str, str]) -> None:
    async with open_channel(logins[LEDGER_USER]) as channel:
        await declare_topology(channel, BROKERED_KINDS)

    for user, foreign in ((WORKER_USER, COMMANDS), (EXECUTOR_USER, CHECKS)):
        for queue in (foreign, RECORDER_QUEUE, PARKED_QUEUE, "jobs.delay.00005s"):
            with pytest.raises(ChannelAccessRefused):
                await consume(logins[user], queue)


async def test_a_worker_declares_nothing_deletes_nothing_and_submits_no_job(logins: dict[str, str]) -> None:
    async with open_channel(logins[LEDGER_USER]) as channel:
        await declare_topology(channel, BROKERED_KINDS)

    for user in (WORKER_USER, EXECUTOR_USER):
        with pytest.raises(ChannelAccessRefused):
            await publish(logins[user], JOBS, work_key("check", Lane.BULK))
        with pytest.raises(ChannelAccessRefused):
            await publish(logins[user], OUTCOMES, "job")
        async with open_channel(logins[user]) as channel:
            with pytest.raises(ChannelAccessRefused):
                await channel.declare_queue("jobs.mine", durable=True)
        async with open_channel(logins[user]) as channel:
            with pytest.raises(ChannelAccessRefused):
                await channel.queue_delete(CHECKS)


@pytest.fixture
def handed_over(postgres_url: str) -> str:
    """Return the address, without a user, of a database whose tables the superuser had made."""
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        make_roles(connection, PASSWORDS)
    return postgres_url.replace("+psycopg", "")


def of_role(url: str, role: str) -> str:
    server = urlsplit(url)
    return f"postgresql://{role}:{PASSWORDS[role]}@{server.hostname}:{server.port}{server.path}"


@pytest.mark.parametrize("role", [API_ROLE, LEDGER_ROLE])
def test_services_read_and_write_rows_and_can_do_nothing_else(handed_over: str, role: str) -> None:
    forbidden = (
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE TEMPORARY TABLE mine (id int)",
        "ALTER TABLE jobs ADD COLUMN mine int",
        "DROP TABLE jobs",
        "TRUNCATE jobs",
        "CREATE ROLE mine",
        f"ALTER ROLE {role} SUPERUSER",
        "SELECT * FROM pg_authid",
        "COPY jobs TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
    )
    with psycopg.connect(of_role(handed_over, role), autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
        connection.execute("DELETE FROM jobs")
        for statement in forbidden:
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_the_role_that_migrates_owns_the_tables_and_what_it_adds_is_the_services_to_use(
    handed_over: str,
) -> None:
    with psycopg.connect(of_role(handed_over, MIGRATE_ROLE)) as connection:
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        assert owners.fetchall() == [(MIGRATE_ROLE,)]
        connection.execute("CREATE TABLE added (id serial PRIMARY KEY, said text)")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("CREATE ROLE mine")

    assert migrate(of_role(handed_over, MIGRATE_ROLE).replace("postgresql:", "postgresql+psycopg:"))
    with psycopg.connect(of_role(handed_over, MIGRATE_ROLE)) as connection:
        connection.execute("CREATE TABLE added (id serial PRIMARY KEY, said text)")
    with psycopg.connect(of_role(handed_over, API_ROLE)) as connection:
        connection.execute("INSERT INTO added (said) VALUES ('by the API')")


def test_making_the_roles_again_takes_back_what_was_given_by_hand(handed_over: str) -> None:
    with psycopg.connect(handed_over) as connection:
        connection.execute(f"ALTER ROLE {API_ROLE} SUPERUSER".encode())

    with psycopg.connect(handed_over) as connection:
        make_roles(connection, PASSWORDS)

    with (
        psycopg.connect(of_role(handed_over, API_ROLE)) as connection,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE TABLE mine (id int)")
