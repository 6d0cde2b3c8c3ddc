"""What was done when, so that a failure can be told and done again."""

import time


class Timeline:
    """Lines with seconds since the start."""

    def __init__(self) -> None:
        """Start now."""
        self._started_at = time.monotonic()
        self.lines: list[str] = []

    def note(self, what: str) -> None:
        """Add a line."""
        self.lines.append(f"{time.monotonic() - self._started_at:8.2f} s  {what}")

    def since(self, start: int) -> str:
        """Return the lines from a place on, as text."""
        return "\n".join(self.lines[start:])
