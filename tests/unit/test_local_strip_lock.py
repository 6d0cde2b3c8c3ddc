"""Tests of `deploy.local.strip_lock`."""

import json

from deploy.local.strip_lock import strip_lock

LOCK = {
    "_meta": {"hash": {"sha256": "aa"}, "sources": [{"name": "pypi", "url": "https://index.example/simple"}]},
    "default": {"flask": {"index": "pypi", "version": "==3.1.0", "hashes": ["sha256:bb"]}},
    "develop": {"ruff": {"version": "==0.17.0"}},
}


def test_a_stripped_lock_names_no_package_index() -> None:
    stripped = json.loads(strip_lock(json.dumps(LOCK)))

    assert stripped["_meta"]["sources"] == []
    assert stripped["default"]["flask"] == {"version": "==3.1.0", "hashes": ["sha256:bb"]}


def test_a_stripped_lock_keeps_versions_and_the_hash_of_the_pipfile() -> None:
    stripped = json.loads(strip_lock(json.dumps(LOCK)))

    assert stripped["develop"] == LOCK["develop"]
    assert stripped["_meta"]["hash"] == {"sha256": "aa"}


def test_stripping_twice_changes_nothing() -> None:
    once = strip_lock(json.dumps(LOCK))

    assert strip_lock(once) == once
