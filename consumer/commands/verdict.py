"""What the end of a command means for its job: by its table of exit codes. Pure."""

from dataclasses import dataclass, field
from typing import Final, Literal

from shared.kinds.command import CommandArgs, CommandLimits, CommandResult, Judgement, OutputText
from shared.outcomes import Failed, Outcome, Succeeded

Limit = Literal["cpu_seconds", "memory_bytes", "file_bytes", "processes"]

NOT_ALLOWED: Final = "not_allowed"
PROGRAM_MISSING: Final = "program_missing"
PROGRAM_UNFIT: Final = "program_unfit"
START_FAILED: Final = "start_failed"
SUPERVISOR_LOST: Final = "supervisor_lost"


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Why there is no ending to judge: reason, one sentence for a person, and whether it may pass."""

    reason: str
    explanation: str
    transient: bool


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command ended.

    Attributes:
        exit_code: None when a signal ended it, or it never began.
        signal: The name of the signal that ended it, such as `SIGKILL`.
        limit: The limit that it was ended for.
        limits: What it was allowed.
        not_started: Set when there is nothing to judge.
    """

    exit_code: int | None = None
    signal: str | None = None
    limit: Limit | None = None
    timed_out: bool = False
    seconds: float = 0.0
    stdout: OutputText = field(default_factory=OutputText)
    stderr: OutputText = field(default_factory=OutputText)
    limits: CommandLimits = field(default_factory=CommandLimits)
    not_started: NotStarted | None = None

    def result(self) -> CommandResult:
        """Return what is recorded of it."""
        return CommandResult(
            exit_code=self.exit_code,
            signal=self.signal,
            limit=self.limit,
            timed_out=self.timed_out,
            seconds=round(self.seconds, 3),
            stdout=self.stdout,
            stderr=self.stderr,
        )


def outcome_of(end: CommandEnd, args: CommandArgs) -> Outcome:
    """Return the outcome of an attempt; a failure brings its result along, when the command began."""
    if end.not_started is not None:
        said = end.not_started
        return Failed(said.reason, said.explanation, transient=said.transient)
    result = end.result().model_dump(mode="json")
    word, reason, explanation = _ending(end, args)
    judgement = args.exit_codes.get(word) or args.exit_codes.get("other")
    if judgement is None:
        judgement = Judgement.SUCCEEDED if word == "0" else Judgement.PERMANENT
    if judgement is Judgement.SUCCEEDED:
        return Succeeded(result)
    return Failed(reason, explanation, transient=judgement is Judgement.TRANSIENT, result=result)


def _ending(end: CommandEnd, args: CommandArgs) -> tuple[str, str, str]:
    """Return the word of the table for an ending, its reason and a sentence on it."""
    if end.timed_out:
        return "timeout", "timeout", f"It was ended after its {args.timeout_seconds:g} s."
    if end.limit is not None:
        return "limit", f"limit_{end.limit}", _over(end.limit, end.limits)
    if end.signal is not None:
        hint = ", which the system sends when memory runs out" if end.signal == "SIGKILL" else ""
        said = f"It was ended by the signal {end.signal}{hint}."
        return "signal", f"killed_by_{end.signal.lower()}", said
    return str(end.exit_code), f"exit_{end.exit_code}", f"It ended with exit code {end.exit_code}."


def _over(limit: Limit, limits: CommandLimits) -> str:
    match limit:
        case "cpu_seconds":
            return f"It was ended: it had used more than its {limits.cpu_seconds:,} s of processor time."
        case "memory_bytes":
            return f"It was ended: it held more than its {limits.memory_bytes:,} bytes of memory."
        case "file_bytes":
            return f"It was ended: it had written more files than its {limits.file_bytes:,} bytes allow."
        case "processes":
            return f"It was ended: it had more than its {limits.processes:,} processes and threads at once."
