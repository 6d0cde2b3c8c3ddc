"""The examples of docs/webhooks.md do what they say: they are run here, as they stand."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import WebhookVerificationError

from consumer.handlers.webhook import payload
from consumer.secrets import Signer
from shared.clock import utc_now
from shared.identity import new_id
from shared.kinds.webhook import MAX_DATA_BYTES, WEBHOOK_RETRY, WebhookArgs
from tests.support.documents import blocks, read
from tests.support.factories import NOON, make_webhook_secret

PAGE = read("docs/webhooks.md")
BODY = payload(
    WebhookArgs(url="https://a.example/", type="invoice.paid", timestamp=NOON, data={"text": "'\"\\n ä"})
)


def example(language: str) -> str:
    """Return the example in a language that verifies a webhook."""
    (found,) = [
        block.text
        for block in blocks("docs/webhooks.md")
        if block.language == language and block.not_run == "has a test of its own"
    ]
    return found


def sign(*secrets: str) -> dict[str, str]:
    return Signer(map(SecretStr, secrets)).headers(new_id(), BODY, now=utc_now())


def read_webhook() -> Callable[[str, dict[str, str], bytes], Any]:
    names: dict[str, Any] = {}
    exec(compile(example("python"), "docs/webhooks.md", "exec"), names)  # noqa: S102 - our own page.
    return names["read_webhook"]  # type: ignore[no-any-return]


def test_the_python_example_takes_the_genuine_and_refuses_the_changed() -> None:
    old, new = make_webhook_secret(), make_webhook_secret()
    headers = sign(new, old)

    assert read_webhook()(old, headers, BODY.encode())["type"] == "invoice.paid"
    with pytest.raises(WebhookVerificationError):
        read_webhook()(old, headers, BODY.replace("paid", "free").encode())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the example needs openssl")
def test_the_shell_example_takes_the_genuine_and_refuses_the_changed(tmp_path: Path) -> None:
    old, new = make_webhook_secret(24), make_webhook_secret(64)
    headers = sign(new, old)

    def judge(secret: str, body: str, timestamp: str = headers["webhook-timestamp"]) -> str:
        (tmp_path / "body").write_text(body, encoding="utf-8")
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "SECRET": secret,
            "ID": headers["webhook-id"],
            "TIMESTAMP": timestamp,
            "SIGNATURES": headers["webhook-signature"],
        }
        done = subprocess.run(
            ["bash", "-c", example("sh")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.stdout.strip()

    assert judge(old, BODY) == judge(new, BODY) == "genuine"
    assert judge(old, BODY + " ") == judge(make_webhook_secret(), BODY) == "forged"
    assert judge(old, BODY, "1767355200") == "forged"


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"at most {MAX_DATA_BYTES:,} bytes" in PAGE
    assert f"It is tried {WEBHOOK_RETRY.max_attempts} times" in PAGE
    assert f"within {WebhookArgs.model_fields['timeout_seconds'].default:g} seconds" in PAGE
