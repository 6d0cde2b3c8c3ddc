"""Makes the first keys of the API, once, as files under a folder: what the service `keys` of compose runs.

    python -m deploy.compose.make_keys FOLDER

One is for a person and may do everything; one is for the agents of the stack, and may pick tasks. A file
whose key was revoked gets a new one, of another name.
"""

import sys
from pathlib import Path

from producer.callers import Scope
from producer.key_commands import keep_in_file
from producer.keys import NewKey
from producer.store.database import Database
from shared.identity import new_id
from shared.settings import read_settings

FILES = {
    "api-key/key": ("first", frozenset(Scope)),
    "agent-key/key": ("agents", frozenset({Scope.TASKS_PICK})),
}


def make_keys(store: Database, folder: Path) -> None:
    """Make every key whose file has none that is live."""
    for name, (beginning, scopes) in FILES.items():
        # No name is given twice, and the file of an earlier one may have been lost.
        keep_in_file(store, NewKey(f"{beginning}-{new_id().hex[-8:]}", scopes), folder / name)


if __name__ == "__main__":
    database = Database.open(read_settings().database_url)
    try:
        make_keys(database, Path(sys.argv[1]))
    finally:
        database.close()
