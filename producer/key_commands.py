"""`python -m producer keys create | list | rotate | revoke`, for whoever can use the database."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from producer.callers import PROJECT_PATTERN, Scope
from producer.keys import (
    KEY_NAME_PATTERN,
    MAX_RATE_PER_SECOND,
    PREFIX,
    ApiKey,
    NewKey,
    new_text,
    opens,
    secret_of,
    start_of,
)
from producer.store import keys as stored_keys
from producer.store.database import Connection, Database
from shared.clock import utc_now
from shared.errors import SettingsInvalid
from shared.log_lines import printable
from shared.settings import Settings

BY: Final = "command line"
"""Who made or ended a key, as the audit log keeps it."""
_PAGE = 1_000


class TextParameter(click.ParamType[str]):
    """Text of a form."""

    name = "text"

    def __init__(self, pattern: str, said: str) -> None:
        """Take texts of a pattern; what others must look like is `said`."""
        self._pattern, self._said = re.compile(pattern), said

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or end the command with what it must look like."""
        if not self._pattern.fullmatch(value):
            self.fail(self._said, param, ctx)
        return value


_NAME = TextParameter(KEY_NAME_PATTERN, "letters, digits and . _ @ / - between them, at most 100")
PROJECT = TextParameter(PROJECT_PATTERN, "lower case letters, digits and . _ - between them, at most 63")


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke the keys of the API."""


@keys.command()
@click.argument("name", type=_NAME)
@click.option("--scope", "scopes", multiple=True, type=click.Choice([scope.value for scope in Scope]))
@click.option("--every-scope", is_flag=True, help="All scopes there are.")
@click.option(
    "--project", type=PROJECT, help="What it sees; without it an operator's, which sees all projects."
)
@click.option("--expires-in-days", type=click.IntRange(1, 3_650), help="Without it, it lives until revoked.")
@click.option(
    "--rate",
    "rate_per_second",
    type=click.IntRange(1, MAX_RATE_PER_SECOND),
    help="Requests a second; without it RETRIEVER_KEY_RATE_PER_SECOND.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write its text to this file, for its owner alone. If the file has a live key, nothing is done.",
)
@click.pass_obj
def create(
    settings: Settings,
    *,
    name: str,
    scopes: tuple[str, ...],
    every_scope: bool,
    project: str | None,
    expires_in_days: int | None,
    rate_per_second: int | None,
    to: Path | None,
) -> None:
    """Make the key NAME and print its text, which is never shown again."""
    wanted = frozenset(scope for scope in Scope if every_scope or scope in scopes)
    if not wanted:
        raise click.UsageError("Name a --scope at least, or --every-scope.")
    lives = None if expires_in_days is None else timedelta(days=expires_in_days)
    new = NewKey(name, wanted, project, lives, rate_per_second)
    with opened_database(settings) as store:
        if to is None:
            text = new_text()
            store.write(_insert, new, text)
            click.echo(text)
        elif keep_in_file(store, new, to):
            click.echo(f"{to} has the key {name}")
        else:
            click.echo(f"{to} has a live key: nothing was done")


@keys.command(name="list")
@click.pass_obj
def list_all(settings: Settings) -> None:
    """Print all keys, the newest first: name, state, project, scopes, last use, rate, how its texts begin."""
    now = utc_now()
    with opened_database(settings) as store:
        for key in _all(store):
            used = f"used {key.last_used_at:%Y-%m-%dT%H:%MZ}" if key.last_used_at else "never used"
            starts = [f"{PREFIX}{secret.start}" for secret in key.live_secrets(now)]
            facts = [key.name, key.state(now), key.project or "*", ",".join(sorted(key.scopes)), used]
            rate = [] if key.rate_per_second is None else [f"{key.rate_per_second}/s"]
            click.echo(printable("  ".join([*facts, *rate, *starts])))


@keys.command()
@click.argument("name")
@click.option(
    "--overlap-hours", type=click.FloatRange(0, 720), default=24.0, help="How long the text before opens."
)
@click.pass_obj
def rotate(settings: Settings, *, name: str, overlap_hours: float) -> None:
    """Give the key NAME a new text and print it; the text before opens the same for a while."""
    text, overlap = new_text(), timedelta(hours=overlap_hours)
    with opened_database(settings) as store:
        key = _find(store, name)

        def change(connection: Connection) -> None:
            secret = secret_of(text, stored_keys.keep_hash_key(connection))
            stored_keys.rotate_key(
                connection, key.id, secret, project=None, overlap=overlap, by=BY, now=utc_now()
            )

        store.write(change)
    click.echo(text)


@keys.command()
@click.argument("name")
@click.pass_obj
def revoke(settings: Settings, *, name: str) -> None:
    """End the key NAME for good; running API processes hear of it within two seconds."""
    with opened_database(settings) as store:
        store.write(stored_keys.revoke_key, _find(store, name).id, project=None, by=BY, now=utc_now())
    click.echo(f"revoked: {printable(name)}")


def keep_in_file(store: Database, new: NewKey, path: Path) -> bool:
    """Make a key and write its text to a file; return False, and do nothing, if that has a live one.

    Raises:
        SettingsInvalid: the file cannot be written.
        KeyNameTaken: there is, or was, a key of this name.
    """
    if store.read(_is_live, _text_in(path)):
        return False
    text = new_text()
    # Before it is stored: a file that opens nothing is written anew, a key that nobody has is lost.
    _write_private(path, text)
    store.write(_insert, new, text)
    return True


def _insert(connection: Connection, new: NewKey, text: str) -> None:
    secret = secret_of(text, stored_keys.keep_hash_key(connection))
    stored_keys.insert_key(connection, new.stored(secret, by=BY, now=utc_now()))


@contextmanager
def opened_database(settings: Settings) -> Iterator[Database]:
    """Yield the store of some settings, and close it."""
    store = Database.open(settings.database_url)
    try:
        yield store
    finally:
        store.close()


def _is_live(connection: Connection, text: str) -> bool:
    now = utc_now()
    known = stored_keys.known_keys(connection, now=now)
    start = start_of(text)
    return known.hash_key is not None and any(
        secret.start == start and opens(text, secret, known.hash_key)
        for key in known.live
        for secret in key.live_secrets(now)
    )


def _all(store: Database) -> Iterator[ApiKey]:
    after = None
    while True:
        found = store.read(stored_keys.list_keys, project=None, limit=_PAGE, after=after)
        yield from found.records
        if (after := found.following) is None:
            return


def _find(store: Database, name: str) -> ApiKey:
    for key in _all(store):
        if key.name == name:
            return key
    raise click.UsageError(f"There is no key {printable(name)}; `python -m producer keys list` names all.")


def _text_in(path: Path) -> str:
    with suppress(OSError, UnicodeError):
        return path.read_text().strip()
    return ""


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text}\n")
        draft.rename(path)
    except OSError as error:
        raise SettingsInvalid(f"--to: cannot write {path}: {error.strerror}") from error
