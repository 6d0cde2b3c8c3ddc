"""The users of the compose stack, at a broker of the tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from deploy.compose.make_secrets import BROKER_USERS
from tests.support.management import Management


@contextmanager
def broker_logins(management: Management, vhost: str, vhost_url: str) -> Iterator[dict[str, str]]:
    """Yield the address of a virtual host for each user, by the user's name; they exist while inside."""
    server = urlsplit(vhost_url)
    addresses = {}
    for user in BROKER_USERS:
        management.create_user(user.name)
        rights = {"configure": user.configure, "write": user.write, "read": user.read}
        management.permit(vhost, user.name, rights)
        for exchange, keys in user.keys.items():
            management.permit_keys(vhost, user.name, exchange, keys)
        addresses[user.name] = f"amqp://{user.name}:{user.name}@{server.hostname}:{server.port}{server.path}"
    try:
        yield addresses
    finally:
        for user in BROKER_USERS:
            management.delete_user(user.name)
