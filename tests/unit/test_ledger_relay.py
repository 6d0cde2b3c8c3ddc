"""The relay puts a message together of what is stored: it must be the one that the model encodes."""

import json
from datetime import timedelta

import pytest

from producer.ledger.relay import job_message, relayed_message
from producer.records import ClaimedJob
from shared.identity import new_id
from shared.kinds.registry import Lane
from shared.messages import JobMessage, KnownCopy
from shared.retry import RetryPolicy
from tests.support.factories import NOON

PLAIN = ClaimedJob(
    id=new_id(),
    kind="check",
    lane=Lane.BULK,
    args_json='{"url":"https://example.com/\\u00e4?q=\\"{}\\\\"}',
    retry_json=RetryPolicy(max_attempts=9).model_dump_json(),
    run=3,
    batch_id=None,
    deadline_at=None,
)
FULL = ClaimedJob(
    id=new_id(),
    kind="fetch",
    lane=Lane.INTERACTIVE,
    args_json='{"url":"https://example.com/","if_changed":true}',
    # Of a version that knew less, or more.
    retry_json='{"max_attempts":2,"unheard_of":1}',
    run=1,
    batch_id=new_id(),
    deadline_at=NOON + timedelta(hours=1, microseconds=7),
    known=KnownCopy(job_id=new_id(), etag='W/"1"'),
)


@pytest.mark.parametrize("job", [PLAIN, FULL])
def test_a_relayed_message_says_what_the_model_says(job: ClaimedJob) -> None:
    message = relayed_message(job)

    encoded = job_message(job).encode()
    assert JobMessage.decode(message.body) == JobMessage.decode(encoded)
    assert json.loads(message.body).keys() == json.loads(encoded).keys()
    assert message.job_id == str(job.id)
    assert message.routing_key == f"{job.kind}.{job.lane}.stored"
