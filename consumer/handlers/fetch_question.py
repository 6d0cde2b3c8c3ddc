"""The request that a fetch makes: its body, and the headers that follow from its arguments."""

from collections.abc import Mapping

from consumer.handlers.client import Client, Question, question_of
from consumer.handlers.failures import Failure
from shared.kinds.fetch import NOT_IDEMPOTENT, FetchArgs
from shared.messages import KnownCopy


def fetch_question(args: FetchArgs, client: Client, *, known: KnownCopy | None) -> Question | Failure:
    """Return the request to make; a header that the job sets itself wins.

    Args:
        args: What to fetch.
        client: Its secrets are filled in; its job names the request.
        known: With a copy, the target is asked for what has changed since alone.
    """
    content, media_type = args.content() or (None, None)
    question = question_of(args, client.secrets, method=args.method, body=content)
    if isinstance(question, Failure):
        return question
    said = {name.lower() for name in question.headers}
    ours = {
        "Content-Type": media_type,
        "Accept": ", ".join(args.accept),
        "Idempotency-Key": _idempotency_key(args, client),
        **_conditions(known),
    }
    more = {name: value for name, value in ours.items() if value and name.lower() not in said}
    return question._replace(headers={**question.headers, **more})


def _idempotency_key(args: FetchArgs, client: Client) -> str | None:
    """Return the job's id as a structured string (draft-ietf-httpapi-idempotency-key-header section 2.1).

    A job runs at least once, so after a crash the request may be sent again; a target that knows the
    header does its work once.
    """
    if args.method not in NOT_IDEMPOTENT or client.job is None:
        return None
    return f'"{client.job.id}"'


def _conditions(known: KnownCopy | None) -> Mapping[str, str | None]:
    # Both, as RFC 9110 section 13.1.3 wants it: who knows ETags ignores the date.
    return {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified} if known else {}
