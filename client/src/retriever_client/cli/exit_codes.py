"""How commands end: the same code for the same reason, whatever is printed and wherever it goes."""

from enum import IntEnum

from retriever_client.errors import ApiError, ConnectionFailed, NotAllowed, NotFinished, RetrieverError


class ExitCode(IntEnum):
    """Exit codes; docs/cli.md has them for people."""

    GOOD = 0
    FOUND = 1  # Something that `--fail-on` names, or a job of one's own that failed.
    USAGE = 2  # Also: a configuration that cannot be, no such thing, no link in any input.
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    UNFINISHED = 5  # Not finished in time; it goes on.
    FAULT = 70  # Of this program (EX_SOFTWARE of sysexits.h): nobody should meet it.
    INTERRUPTED = 130


def code_of(error: RetrieverError) -> ExitCode:
    """Return how a command ends that an error of the client ended."""
    match error:
        case NotAllowed():
            return ExitCode.NOT_ALLOWED
        case NotFinished():
            return ExitCode.UNFINISHED
        case ConnectionFailed():
            return ExitCode.UNREACHABLE
        case ApiError() if error.status >= 500 or error.status in {408, 429}:
            return ExitCode.UNREACHABLE
        case _:
            return ExitCode.USAGE
