"""What the status and headers of a final answer mean to a check. Pure."""

from collections.abc import Mapping

from yarl import URL

from consumer.handlers.failures import Failure, bot_wall, failure_of_status, unaccepted_status
from consumer.handlers.walls import wall_of
from shared.kinds.check import CheckArgs
from shared.kinds.requests import Redirects
from shared.kinds.statuses import SUCCESS, accepts_status

REDIRECTS = range(300, 400)


def failure_of_answer(
    args: CheckArgs, status: int, headers: Mapping[str, str], *, url: str
) -> Failure | None:
    """Return what is wrong with an answer, or None when the job accepts it.

    A bot wall comes before its status: with some, that is 202. What the job names in `statuses` comes
    before all but that.

    Args:
        url: Which was asked last.
    """
    if wall := wall_of(status, headers):
        return bot_wall(status, wall)
    if accepts_status(args.statuses, status) or _is_reported(args, status, headers):
        return None
    failure = failure_of_status(status) or unaccepted_status(status)
    if status == 401 and _had_credentials(args, url):
        return _CREDENTIALS_REFUSED
    return failure


# Without credentials, 401 is a shut door: `blocked`, we cannot tell. With them it is an answer to what the
# job asks, whether this URL opens with this key: it does not, and so it is `broken` until somebody mends it.
_CREDENTIALS_REFUSED = Failure(
    "http_401", transient=False, explanation="The host answered 401: it refuses the credentials of the job."
)


def _is_reported(args: CheckArgs, status: int, headers: Mapping[str, str]) -> bool:
    return (
        args.redirects is Redirects.REPORT
        and args.statuses == SUCCESS
        and status in REDIRECTS
        and "Location" in headers
    )


def _had_credentials(args: CheckArgs, url: str) -> bool:
    asked_first, asked_last = URL(args.url, encoded=True), URL(url, encoded=True)
    has_some = args.auth is not None or asked_first.user is not None or asked_first.password is not None
    return has_some and asked_first.origin() == asked_last.origin()
