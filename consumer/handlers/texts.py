"""Text of strangers, cut and cleaned so that every store and every JSON reader takes it."""

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def bounded_text(text: str, max_characters: int) -> str:
    """Return the beginning of a text, without lone surrogates and control characters."""
    cut = text[:max_characters].encode("utf-8", "replace").decode()
    return _CONTROLS.sub("\ufffd", cut)
