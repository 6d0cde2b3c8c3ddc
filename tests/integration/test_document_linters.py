"""The OpenAPI and AsyncAPI documents, as linters see them that nobody here wrote."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.local.npm_packages import WANTED, install
from deploy.local.packages import require
from producer.api.contract import load_contract
from shared.asyncapi import asyncapi_document

ROOT = Path(__file__).resolve().parents[2]
ASYNCAPI = ROOT / "docs" / "asyncapi.yaml"
LINTERS = WANTED / "linters"
LIMIT_SECONDS = 600


@pytest.fixture(scope="module")
def installed() -> Path:
    return install("linters")


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(load_contract(), tmp_path_factory.mktemp("openapi") / "openapi.json")


def written(document: Mapping[str, object], path: Path) -> Path:
    path.write_text(json.dumps(document))
    return path


def run_node(arguments: list[str | Path], *, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [require("node", "nodejs"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert not done.stderr
    return done.stdout


def test_the_parser_of_asyncapi_and_redocly_find_nothing_in_the_documents(
    installed: Path, openapi: Path
) -> None:
    found = run_node([LINTERS / "lint.cjs", ASYNCAPI, openapi], environment={"NODE_PATH": str(installed)})

    assert found == ""


def test_the_parser_of_asyncapi_and_redocly_find_what_is_wrong(installed: Path, tmp_path: Path) -> None:
    asyncapi, contract = asyncapi_document(), load_contract()
    asyncapi["components"]["schemas"]["CheckArgs"]["discriminator"] = {"propertyName": "url"}
    del contract["paths"]["/jobs"]["post"]["responses"]

    found = run_node(
        [
            LINTERS / "lint.cjs",
            written(asyncapi, tmp_path / "a.json"),
            written(contract, tmp_path / "o.json"),
        ],
        environment={"NODE_PATH": str(installed)},
    )

    assert '"discriminator" property type must be string' in found
    assert "#/paths/~1jobs/post: struct: The field `responses` must be present" in found


def test_spectral_finds_nothing_in_the_documents(installed: Path, openapi: Path) -> None:
    spectral = installed / "@stoplight" / "spectral-cli" / "dist" / "index.js"
    options: list[str | Path] = ["--ruleset", LINTERS / "spectral.yaml", "--fail-severity", "hint"]

    found = run_node([spectral, "lint", *options, "--format", "json", ASYNCAPI, openapi], environment={})

    assert json.loads(found.partition("No results")[0] or "[]") == []
