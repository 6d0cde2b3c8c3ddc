"""What a target sends back of the secrets that it was told, masked in all that an attempt reports."""

from dataclasses import replace

from multidict import CIMultiDict, CIMultiDictProxy

from consumer.http.client import Client
from consumer.http.failures import Failure
from shared.outcomes import Failed, Outcome, Succeeded
from shared.redaction import Echoes

LARGEST_MASKED_AT_ONCE = 65_536
"""A larger body that may hold a secret is looked through in a process of its own; this one takes some ms."""


async def masked_body(client: Client, url: str, echoes: Echoes, body: bytes) -> bytes | Failure:
    """Return a body without secrets, or why it could not be looked through.

    Before anything of the job looks at it: an expression or assertion could pick a secret to pieces.

    Args:
        url: The one that brought it.
    """
    if not echoes.may_be_in(body):
        return body
    if len(body) <= LARGEST_MASKED_AT_ONCE:
        return echoes.octets(body)
    return await client.compute.run(client.names(url), echoes.octets, body)


def masked_headers(echoes: Echoes, headers: CIMultiDictProxy[str]) -> CIMultiDictProxy[str]:
    """Return the header fields of an answer without secrets."""
    if not echoes:
        return headers
    return CIMultiDictProxy(CIMultiDict((name, echoes.text(value)) for name, value in headers.items()))


def masked_outcome(echoes: Echoes, outcome: Outcome) -> Outcome:
    """Return what an attempt came to without secrets; of a body they were taken out before."""
    if not echoes:
        return outcome
    match outcome:
        case Succeeded():
            return replace(outcome, result=echoes.value(outcome.result))
        case Failed():
            explanation = echoes.text(outcome.explanation)
            return replace(outcome, explanation=explanation, result=echoes.value(outcome.result))
        case _:
            return outcome
