"""What strangers have us evaluate, compiled: JMESPath expressions and RE2 patterns. None is kept in memory.

Their libraries keep what they compiled: 512 expressions of up to 200 KB, and 128 patterns with up to 8 MB of
what they matched before. Knows nothing of models, because small processes import it.
"""

import re
from functools import lru_cache
from typing import Any, Final

import re2
from jmespath.parser import Parser

MAX_UNICODE_CLASSES: Final = 8
"""In a pattern. Reading `[^\\pL]` takes a millisecond, and a pattern has room for 160."""

# Enough for 20 times the largest program that is taken; with the default of 8 MiB a pattern of ten characters
# takes 50 ms before it is too large.
_SIZING_BYTES = 262_144
_UNICODE_CLASS = re.compile(r"\\(?:[pP]|.)", re.DOTALL)


@lru_cache(maxsize=16)
def compile_expression(expression: str) -> Any:
    """Return the syntax tree of an expression, which `jmespath.visitor` evaluates.

    Raises:
        JMESPathError: it is none.
        RecursionError: it is nested too deeply.
    """
    try:
        return Parser().parse(expression).parsed
    finally:
        Parser.purge()


def compile_pattern(pattern: str) -> "re2._Regexp":
    """Return a compiled pattern, whose memory is free when the caller lets go of it.

    Raises:
        ValueError: RE2 does not take it.
    """
    return _compile(pattern, re2.Options().max_mem)


@lru_cache(maxsize=1_000)
def pattern_size(pattern: str) -> int:
    """Return how large a pattern is as RE2's program, in milliseconds whatever it is.

    Raises:
        ValueError: RE2 does not take it, or it is far too large.
    """
    classes = sum(escape[1] in "pP" for escape in _UNICODE_CLASS.findall(pattern))
    if classes > MAX_UNICODE_CLASSES:
        raise ValueError(f"more than {MAX_UNICODE_CLASSES} Unicode classes such as \\pL")
    size: int = _compile(pattern, _SIZING_BYTES).programsize
    return size


def _compile(pattern: str, max_bytes: int) -> "re2._Regexp":
    options = re2.Options()
    options.log_errors = False
    options.max_mem = max_bytes
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        said = error.args[0] if isinstance(error, re2.error) and error.args else "not text"
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        if text.startswith("pattern too large"):
            raise ValueError(TOO_LARGE) from None
        raise ValueError(f"not an RE2 pattern: {text[:200]}") from None
    finally:
        re2.purge()


TOO_LARGE: Final = "the pattern is too large; mind repetitions such as {1,500}"
