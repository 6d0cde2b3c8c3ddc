"""What the logins of the compose stack may do, at a real broker and in a real database, and what not."""

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import psycopg
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, HeadersType
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from pamqp.common import FieldTable
from psycopg import errors

from consumer.control_streams import Cancellations
from deploy.compose.make_roles import make_roles
from deploy.compose.make_secrets import (
    API_ROLE,
    BROKER_USERS,
    CONSOLE_USER,
    EXECUTOR_USER,
    LEDGER_ROLE,
    LEDGER_USER,
    MIGRATE_ROLE,
    PUBLISHER_USER,
    WORKER_USER,
    broker_definitions,
)
from deploy.local.broker import Broker
from producer.store.migrate import migrate
from shared.broker.publisher import Publisher
from shared.broker.topology import (
    CANCELLED_STREAM,
    DEAD,
    DEFAULT,
    DELAY,
    JOBS,
    LARGE_RESULTS,
    MARKS,
    OUTCOMES,
    PARKED_QUEUE,
    PAUSED_STREAM,
    RECORDER_QUEUE,
    RESULTS,
    RETURN,
    UNROUTED,
    bundle_key,
    declare_topology,
    delay_key,
    may_carry,
    stored_key,
    verify_topology,
    work_key,
    work_queue,
)
from shared.events import Cancellation
from shared.identity import new_id
from shared.kinds.registry import BROKERED_KINDS, Lane
from shared.messages import JobMessage
from shared.retry import DELAY_STEPS_SECONDS
from tests.support.amqp import get_message, open_channel, running
from tests.support.documents import blocks
from tests.support.logins import broker_logins
from tests.support.management import Management
from tests.support.waiting import eventually

PASSWORDS = dict.fromkeys((MIGRATE_ROLE, API_ROLE, LEDGER_ROLE), "of-a-test")
CHECKS, COMMANDS = work_queue("check", Lane.BULK), work_queue("command", Lane.BULK)
CHECK_KEY = work_key("check", Lane.BULK)


@pytest.fixture
def logins(vhost_url: str, vhost: str, management: Management) -> Iterator[dict[str, str]]:
    """Yield the address of the virtual host for each user of the stack, by the user's name."""
    with broker_logins(management, vhost, vhost_url) as addresses:
        yield addresses


@pytest.fixture
async def declared(logins: dict[str, str]) -> dict[str, str]:
    """Return the addresses of the users of a virtual host in which the ledger has declared everything."""
    async with open_channel(logins[LEDGER_USER]) as channel:
        await declare_topology(channel, BROKERED_KINDS)
    return logins


async def publish(url: str, exchange: str, key: str, **properties: Any) -> None:
    async with open_channel(url) as channel:
        where = channel.default_exchange if exchange == DEFAULT else aio_pika.Exchange(channel, exchange)
        await where.publish(aio_pika.Message(b"{}", **properties), key, mandatory=False)


Act = Callable[[AbstractChannel], Awaitable[object]]


async def refused(url: str, acts: Mapping[str, Act]) -> set[str]:
    """Return which of some acts the broker refuses a user, each on a channel of its own."""
    found = set()
    for name, act in acts.items():
        async with open_channel(url) as channel:
            try:
                await act(channel)
            except ChannelAccessRefused:
                found.add(name)
    return found


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
    for exchange, key in ((JOBS, CHECK_KEY), (OUTCOMES, "job"), (DEFAULT, PAUSED_STREAM)):
        await publish(logins[LEDGER_USER], exchange, key)

    for user, kind, queue in ((WORKER_USER, "check", CHECKS), (EXECUTOR_USER, "command", COMMANDS)):
        async with open_channel(logins[user]) as channel:
            await verify_topology(channel, BROKERED_KINDS)
        await consume(logins[user], queue)
        for stream in (CANCELLED_STREAM, PAUSED_STREAM):
            await consume(logins[user], stream, stream=True)
        step = delay_key(kind, Lane.BULK, DELAY_STEPS_SECONDS[0])
        for exchange, key in (
            (RESULTS, f"{kind}.bulk.succeeded"),
            (DELAY, step),
            (DEAD, f"{kind}.bulk"),
            (MARKS, PAUSED_STREAM),
        ):
            await publish(logins[user], exchange, key)


async def test_a_worker_reads_no_queue_but_those_of_its_kinds(declared: dict[str, str]) -> None:
    for user, foreign in ((WORKER_USER, COMMANDS), (EXECUTOR_USER, CHECKS)):
        for queue in (foreign, RECORDER_QUEUE, PARKED_QUEUE, "jobs.delay.00005s"):
            with pytest.raises(ChannelAccessRefused):
                await consume(declared[user], queue)


@pytest.mark.parametrize(
    ("user", "foreign"), [(WORKER_USER, "command"), (EXECUTOR_USER, "check")], ids=["worker", "executor"]
)
async def test_a_worker_declares_and_deletes_nothing_submits_no_job_and_gives_no_order(
    declared: dict[str, str], user: str, foreign: str
) -> None:
    own = "check" if user == WORKER_USER else "command"
    acts: dict[str, Act] = {
        **{
            f"publish to {exchange or 'the default exchange'} with {key}": publishing(exchange, key)
            for exchange, key in (
                (JOBS, work_key(own, Lane.BULK)),
                (JOBS, stored_key(own, Lane.BULK)),
                (OUTCOMES, "job"),
                (RETURN, work_key(own, Lane.BULK)),
                (UNROUTED, "x"),
                # Over a delay it would come to the workers of another kind.
                (DELAY, delay_key(foreign, Lane.BULK, DELAY_STEPS_SECONDS[0])),
                (DEFAULT, work_queue(foreign, Lane.BULK)),
                (DEFAULT, RECORDER_QUEUE),
                (DEFAULT, CANCELLED_STREAM),
                (DEFAULT, PAUSED_STREAM),
            )
        },
        "declare": lambda channel: channel.declare_queue("jobs.mine", durable=True),
        "declare one of its own": lambda channel: channel.declare_queue(exclusive=True),
        "declare an exchange": lambda channel: channel.declare_exchange("jobs.mine"),
        "delete": lambda channel: channel.queue_delete(CHECKS),
        "delete an exchange": lambda channel: channel.exchange_delete(RESULTS),
        "empty what the recorder has": lambda channel: purge(channel, RECORDER_QUEUE),
        "bind": lambda channel: bind(channel, CHECKS, RESULTS),
        "get a report": lambda channel: get(channel, RECORDER_QUEUE),
    }

    assert await refused(declared[user], acts) == set(acts)


async def test_what_a_worker_marks_a_stream_with_is_no_order_whatever_its_headers_say(
    declared: dict[str, str],
) -> None:
    cancellations = Cancellations(declared[WORKER_USER], name="test reader")
    forged, real = (JobMessage(id=new_id(), kind="check", args={}) for _ in range(2))
    headers: HeadersType = {"x-exchange": "", "x-routing-key": CANCELLED_STREAM}

    async def order(user: str, exchange: str, job: JobMessage) -> None:
        body = Cancellation(job_id=job.id, run=1).encode()
        async with open_channel(declared[user]) as channel:
            where = channel.default_exchange if exchange == DEFAULT else aio_pika.Exchange(channel, exchange)
            await where.publish(aio_pika.Message(body, headers=headers), CANCELLED_STREAM)

    async def is_heard() -> bool:
        return cancellations.has(real)

    async with running(cancellations.run()):
        await order(WORKER_USER, MARKS, forged)
        await order(LEDGER_USER, DEFAULT, real)
        await eventually(is_heard)

    assert not cancellations.has(forged)


async def test_a_worker_knows_that_it_has_read_its_orders(declared: dict[str, str]) -> None:
    cancellations = Cancellations(declared[WORKER_USER], name="test reader")
    publisher = Publisher(
        declared[WORKER_USER],
        name="test publisher",
        timeout_seconds=20,
        prepare=lambda channel: verify_topology(channel, BROKERED_KINDS),
    )

    async with running(cancellations.run()), running(publisher.run()), asyncio.timeout(60):
        await cancellations.catch_up(publisher)

    assert cancellations.is_caught_up


async def test_a_third_party_publishes_checks_and_fetches_under_its_own_name_and_does_nothing_else(
    declared: dict[str, str],
) -> None:
    url = declared[PUBLISHER_USER]
    for key in (CHECK_KEY, work_key("fetch", Lane.INTERACTIVE)):
        await publish(url, JOBS, key, user_id=PUBLISHER_USER)
    with pytest.raises(ChannelPreconditionFailed, match="user_id"):
        await publish(url, JOBS, CHECK_KEY, user_id=LEDGER_USER)
    acts: dict[str, Act] = {
        **{
            f"publish to {exchange or 'the default exchange'} with {key}": publishing(exchange, key)
            for exchange, key in (
                # A program, a signed request, a job that no ledger hears of.
                (JOBS, work_key("command", Lane.BULK)),
                (JOBS, work_key("webhook", Lane.BULK)),
                (JOBS, stored_key("check", Lane.BULK)),
                (JOBS, bundle_key("check")),
                (RESULTS, "check.bulk.succeeded"),
                (LARGE_RESULTS, "check.bulk.succeeded"),
                (DELAY, delay_key("check", Lane.BULK, DELAY_STEPS_SECONDS[0])),
                (DEAD, CHECK_KEY),
                (OUTCOMES, "check.succeeded"),
                (MARKS, CANCELLED_STREAM),
                (DEFAULT, CHECKS),
                (DEFAULT, RECORDER_QUEUE),
            )
        },
        "get a job": lambda channel: get(channel, CHECKS),
        "read orders": lambda channel: get(channel, CANCELLED_STREAM),
        "empty a queue": lambda channel: purge(channel, CHECKS),
        "delete a queue": lambda channel: channel.queue_delete(CHECKS),
        "declare a queue": lambda channel: channel.declare_queue("mine", durable=True),
        "declare one of its own": lambda channel: channel.declare_queue(exclusive=True),
        "declare an exchange": lambda channel: channel.declare_exchange("jobs.mine"),
        "bind": lambda channel: bind(channel, CHECKS, RESULTS),
    }

    assert await refused(url, acts) == set(acts)


async def test_a_copy_for_another_kind_bears_a_key_that_may_not_carry_it(
    declared: dict[str, str],
) -> None:
    # RabbitMQ 3.10 checks the routing key against the pattern of a user, and not the header CC.
    copied = {"CC": [work_key("command", Lane.BULK)]}
    if await refused(declared[PUBLISHER_USER], {"copy": publishing(JOBS, CHECK_KEY, headers=copied)}):
        return

    async with open_channel(declared[LEDGER_USER]) as channel:
        message = await get_message(channel, COMMANDS)

    assert message.routing_key == CHECK_KEY
    assert not may_carry(CHECK_KEY, "command")


def publishing(exchange: str, key: str, **properties: Any) -> Act:
    async def act(channel: AbstractChannel) -> None:
        where = channel.default_exchange if exchange == DEFAULT else aio_pika.Exchange(channel, exchange)
        await where.publish(aio_pika.Message(b"{}", **properties), key, mandatory=False)

    return act


async def get(channel: AbstractChannel, queue: str) -> None:
    await (await channel.get_underlay_channel()).basic_get(queue)


async def purge(channel: AbstractChannel, queue: str) -> None:
    await (await channel.get_underlay_channel()).queue_purge(queue)


async def bind(channel: AbstractChannel, queue: str, exchange: str) -> None:
    await (await channel.get_underlay_channel()).queue_bind(queue, exchange, "#")


def test_the_lines_for_rabbitmqctl_make_the_users_of_the_stack(own_broker: Broker) -> None:
    """Those of docs/operations.md, as they stand there."""
    (block,) = [each for each in blocks("docs/operations.md") if "rabbitmqctl add_user" in each.text]
    lines = [line for line in block.text.splitlines() if line.startswith("rabbitmqctl ")]
    assert own_broker.management_url is not None
    management = Management(own_broker.management_url)
    names = {user.name for user in BROKER_USERS} - {CONSOLE_USER}

    try:
        for line in lines:
            own_broker.control(*shlex.split(line)[1:])
        made = management.rights()
    finally:
        for name in names & {user["name"] for user in management.rights()["users"]}:
            management.delete_user(name)
        management.close()

    wanted = broker_definitions(dict.fromkeys((user.name for user in BROKER_USERS), ""))
    assert rights_in(made, names) == rights_in(wanted, names)


def rights_in(definitions: Mapping[str, Any], names: Collection[str]) -> set[tuple[object, ...]]:
    """Return what some users may do, to be compared."""
    tags = {("tags", each["name"], *each["tags"]) for each in definitions["users"] if each["name"] in names}
    columns = ("user", "vhost", "exchange", "configure", "write", "read")
    rights = {
        tuple(each.get(column) for column in columns)
        for each in (*definitions["permissions"], *definitions["topic_permissions"])
        if each["user"] in names
    }
    return tags | rights


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
