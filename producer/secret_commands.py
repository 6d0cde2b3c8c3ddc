"""`python -m producer secrets set | list | delete | reencrypt`, for whoever can use the database."""

import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from getpass import getpass
from pathlib import Path

import click

from producer.callers import DEFAULT_PROJECT
from producer.key_commands import BY, PROJECT, opened_database
from producer.sealing import resealed, sealed_value
from producer.secrets import (
    DEFAULT_OVERLAP,
    MAX_OVERLAP,
    StoredSecret,
    checked_origins,
    checked_value,
    new_signing_secret,
)
from producer.store import secrets as stored
from producer.store.database import Connection, Database
from shared.clock import utc_now
from shared.encryption import NO_KEYS, EncryptionKeys
from shared.errors import EncryptionKeysMissing, SecretNotFound, SecretUnreadable, SettingsInvalid
from shared.kinds.requests import SECRET_NAME_PATTERN
from shared.log_lines import printable
from shared.sealed import Binding, SecretUse
from shared.settings import Settings

_PAGE = 1_000
_OF_PROJECT = partial(
    click.option, "--project", type=PROJECT, default=DEFAULT_PROJECT, show_default=True, help="Whose it is."
)


@click.group()
def secrets() -> None:
    """Keep the secrets that jobs name, and those that sign webhooks."""


@secrets.command(name="set")
@click.argument("name")
@_OF_PROJECT()
@click.option(
    "--origin",
    "origins",
    multiple=True,
    help="Where it may be sent, such as https://api.example.com; repeat it.",
)
@click.option("--webhook", is_flag=True, help="It signs the webhooks that go to its origins.")
@click.option("--generate", is_flag=True, help="With --webhook: make it, and print it once.")
@click.option(
    "--from",
    "path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Read the value from this file; without it, from standard input.",
)
@click.option(
    "--overlap-hours",
    type=click.FloatRange(0, MAX_OVERLAP.total_seconds() / 3_600),
    default=DEFAULT_OVERLAP.total_seconds() / 3_600,
    show_default=True,
    help="With --webhook: how long the one before signs too.",
)
@click.pass_obj
def set_secret(
    settings: Settings,
    *,
    name: str,
    project: str,
    origins: tuple[str, ...],
    webhook: bool,
    generate: bool,
    path: Path | None,
    overlap_hours: float,
) -> None:
    """Keep the secret NAME, or give it another value. Its value is read from a file or standard input."""
    use = SecretUse.WEBHOOK if webhook else SecretUse.REQUEST
    if generate and (not webhook or path is not None):
        raise click.UsageError("--generate makes secrets for --webhook, and takes no file.")
    keys = _keys(settings)
    value = new_signing_secret() if generate else _value(path)
    with opened_database(settings) as store:
        try:
            before = store.read(stored.find_secret, project, name)
        except SecretNotFound:
            before = None
        if before is not None and before.use is not use:
            raise click.UsageError(
                f"{printable(name)} is for {before.use}; delete it first, or take another name."
            )
        try:
            checked_value(value, use)
            bound = checked_origins(origins) if origins or before is None else before.origins
            binding = Binding(project, _checked_name(name), use, bound)
        except ValueError as error:
            raise click.UsageError(f"{error}.") from None
        store.write(_keep, before, value, binding, keys, overlap=timedelta(hours=overlap_hours))
    click.echo(value if generate else f"{'replaced' if before else 'kept'}: {printable(name)}")


@secrets.command(name="list")
@click.pass_obj
def list_all(settings: Settings) -> None:
    """Print all secrets, the newest first: project, name, use, origins, last use, digest, encryption key."""
    keys = EncryptionKeys.of(settings.encryption_keys)
    with opened_database(settings) as store:
        for secret in _all(store):
            used = f"used {secret.last_used_at:%Y-%m-%dT%H:%MZ}" if secret.last_used_at else "never used"
            sealed = f"key {secret.key_id}" + ("" if keys.knows(secret.box) else " (missing)")
            facts = [secret.project, secret.name, secret.use, ",".join(secret.origins), used]
            click.echo(printable("  ".join([*facts, secret.digest or "-", sealed])))


@secrets.command()
@click.argument("name")
@_OF_PROJECT()
@click.pass_obj
def delete(settings: Settings, *, name: str, project: str) -> None:
    """Delete the secret NAME; jobs that were sent out before have it until they have ended."""
    with opened_database(settings) as store:
        try:
            secret = store.read(stored.find_secret, project, name)
        except SecretNotFound as error:
            raise click.UsageError(
                f"{printable(str(error))}; `python -m producer secrets list` names all."
            ) from None
        store.write(stored.delete_secret, secret.id, project=None, by=BY, now=utc_now())
    click.echo(f"deleted: {printable(name)}")


@secrets.command()
@click.pass_obj
def reencrypt(settings: Settings) -> None:
    """Encrypt all secrets with the first key of the file anew, so that the others can be taken out of it."""
    keys = _keys(settings)
    done, lost = 0, []
    with opened_database(settings) as store:
        for secret in _all(store):
            try:
                anew = resealed(secret, keys, now=utc_now())
            except SecretUnreadable as error:
                lost.append(printable(f"{secret.project}/{secret.name}: {error}"))
                continue
            done += anew is not None and store.write(stored.keep_resealed, secret, anew)
    click.echo(f"encrypted anew: {done}")
    if lost:
        raise SettingsInvalid("These secrets do not open; set them anew. " + "; ".join(lost))


def _keys(settings: Settings) -> EncryptionKeys:
    keys = EncryptionKeys.of(settings.encryption_keys)
    if not keys:
        raise EncryptionKeysMissing(f"Nothing can be kept in secret: {NO_KEYS}.")
    return keys


def _value(path: Path | None) -> str:
    if path is not None:
        try:
            return path.read_text().strip()
        except (OSError, UnicodeError) as error:
            raise click.UsageError(f"--from: cannot read {path}: {error}") from None
    # What is typed is not shown.
    return (getpass("Value: ") if sys.stdin.isatty() else sys.stdin.read()).strip()


def _checked_name(name: str) -> str:
    if not re.fullmatch(SECRET_NAME_PATTERN, name):
        raise ValueError("A name has lower case letters, digits and . _ - after the first, at most 100")
    return name


def _keep(
    connection: Connection,
    before: StoredSecret | None,
    value: str,
    binding: Binding,
    keys: EncryptionKeys,
    *,
    overlap: timedelta,
) -> None:
    new, now = sealed_value(value, binding, keys), utc_now()
    if before is not None:
        stored.replace_value(connection, before, new, overlap=overlap, by=BY, now=now)
    else:
        stored.insert_secret(connection, StoredSecret.new(binding, new, by=BY, now=now))


def _all(store: Database) -> Iterator[StoredSecret]:
    after = None
    while True:
        found = store.read(stored.list_secrets, project=None, limit=_PAGE, after=after)
        yield from found.records
        if (after := found.following) is None:
            return
