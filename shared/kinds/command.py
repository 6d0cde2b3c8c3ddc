"""The `command` kind: run a program, and judge it by how it ends."""

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.few import few_names

COMMAND: Final = "command"

# RabbitMQ takes a delivery back after half an hour (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
# What takes longer is a task, whose lease its agent extends.
MAX_SECONDS = 1_500
MAX_ARGUMENTS = 1_000
# Linux takes 128 KiB for each (MAX_ARG_STRLEN).
MAX_ARGUMENT_LENGTH = 32_768
MAX_STDIN_LENGTH = 262_144
MAX_VARIABLES = 100
# Every exit code, and the endings that have a name.
_MAX_ENDINGS = 260
MAX_OUTPUT_BYTES = 131_072
"""Of one stream. Both, as JSON, stay below what the recorder takes at once."""


def _check_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("Must be without NUL: no program can be given one")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("Must be without lone surrogates: they have no bytes in UTF-8")
    return text


Argument = Annotated[str, Field(max_length=MAX_ARGUMENT_LENGTH), AfterValidator(_check_text)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
# 0 to 255, or one of the words below.
Ending = Annotated[
    str,
    Field(pattern=r"^(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5]|timeout|signal|limit|other)$"),
]


class Judgement(StrEnum):
    """What an ending of a program means for its job."""

    SUCCEEDED = "succeeded"
    TRANSIENT = "transient"
    PERMANENT = "permanent"


class CommandLimits(BaseModel):
    """What a program, with all that it starts, may use. The operator may allow less, never more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_seconds: Annotated[int, Field(ge=1, le=86_400, description="Of all processes together.")] = 300
    memory_bytes: Annotated[
        int,
        Field(
            ge=16_777_216,
            le=1_099_511_627_776,
            description="What each process may have of its own, and what all of them hold together.",
        ),
    ] = 1_073_741_824
    file_bytes: Annotated[
        int,
        Field(
            ge=0,
            le=1_099_511_627_776,
            description="Of each file, and of the working folder with all that is in it.",
        ),
    ] = 268_435_456
    processes: Annotated[int, Field(ge=1, le=10_000, description="Processes and threads at once.")] = 64
    open_files: Annotated[int, Field(ge=8, le=1_048_576, description="Of each process.")] = 256


class CommandArgs(BaseModel):
    """A program and its arguments, or a line for the shell where the operator allows one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    argv: Annotated[
        list[Argument] | None,
        Field(
            min_length=1,
            max_length=MAX_ARGUMENTS,
            description="The program, by its path or as it is found on the PATH, and its arguments. No shell "
            "reads them.",
        ),
    ] = None
    shell: Annotated[
        Argument | None,
        Field(min_length=1, description="A line for `/bin/sh -c`, in place of `argv`."),
    ] = None
    stdin: Annotated[
        str,
        Field(max_length=MAX_STDIN_LENGTH, description="What the program reads, as UTF-8."),
        AfterValidator(_check_text),
    ] = ""
    env: Annotated[
        dict[VariableName, Argument],
        Field(max_length=MAX_VARIABLES, description="Variables, of those that the operator lets jobs set."),
        few_names(MAX_VARIABLES),
    ] = {}
    timeout_seconds: Annotated[
        float,
        Field(ge=0.1, le=MAX_SECONDS, description="Then the program and all that it started are ended."),
    ] = 60.0
    limits: CommandLimits = CommandLimits()
    output_bytes: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_OUTPUT_BYTES,
            description="How much is kept of each stream; of a longer one beginning and end, half each.",
        ),
    ] = 65_536
    exit_codes: Annotated[
        dict[Ending, Judgement],
        Field(
            max_length=_MAX_ENDINGS,
            description="What an ending means: by exit code, or `timeout`, `signal` (ended by one), `limit` "
            "(over one of its limits) and `other`. An ending that is not named is `other`; without that, 0 "
            "is `succeeded` and all else `permanent`. `transient` is tried again.",
        ),
        few_names(_MAX_ENDINGS),
    ] = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.argv is None) == (self.shell is None):
            raise ValueError("Send either argv or shell")
        if self.argv is not None and not self.argv[0]:
            raise ValueError("The first item of argv names the program, and is empty")
        return self


class OutputText(BaseModel):
    """What a program wrote to one stream, its bytes read as UTF-8; what is no UTF-8 is U+FFFD.

    Of more than is kept, `text` is the beginning and `tail` the end, with `omitted_bytes` between them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    text: Annotated[str, Field(max_length=MAX_OUTPUT_BYTES)] = ""
    tail: Annotated[str, Field(max_length=MAX_OUTPUT_BYTES)] = ""
    bytes: Annotated[int, Field(ge=0, le=2**53, description="How much was written in all.")] = 0
    omitted_bytes: Annotated[
        int, Field(ge=0, le=2**53, description="How much between beginning and end is lost.")
    ] = 0


class OutputSnapshot(BaseModel):
    """What a running attempt has written so far. Of two, that with the greater `sequence` is later."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    # Milliseconds since 1970 where it must grow beyond a worker that has died.
    sequence: Annotated[int, Field(ge=0, le=2**53)]
    stdout: OutputText = OutputText()
    stderr: OutputText = OutputText()


class CommandResult(BaseModel):
    """How the program ended, and what it wrote."""

    model_config = ConfigDict(frozen=True)

    exit_code: Annotated[int | None, Field(description="Null when it was ended by a signal, or never began.")]
    signal: Annotated[str | None, Field(description="The signal that ended it, such as `SIGKILL`.")] = None
    limit: Annotated[
        Literal["cpu_seconds", "memory_bytes", "file_bytes", "processes"] | None,
        Field(description="The limit that it was ended for."),
    ] = None
    timed_out: bool = False
    seconds: Annotated[float, Field(description="How long it ran.")]
    stdout: OutputText = OutputText()
    stderr: OutputText = OutputText()
