"""What a check may demand of an answer beside its status."""

from typing import Annotated, Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.kinds.expressions import JmesPath
from shared.kinds.patterns import MAX_PROGRAM_SIZE, Pattern, program_size

MAX_OF_A_KIND = 10
MAX_TEXT_LENGTH = 1_000

# RFC 9110 section 5.1; unlike those that a job sends, all names may be asked for.
FieldName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH)]


class JsonAssertion(BaseModel):
    """What a JMESPath expression must pick out of the JSON body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: JmesPath
    equals: Annotated[
        Any,
        Field(
            description="What it must be. Null or left out: what JMESPath takes for true, so not null, false "
            "or empty. To demand null, say so in the expression: `error == null`."
        ),
    ] = None

    @field_validator("equals")
    @classmethod
    def _is_json_and_small(cls, equals: Any) -> Any:
        try:
            written = orjson.dumps(equals)
        except TypeError:
            raise ValueError("a number is too large, or values are nested too deeply") from None
        if len(written) > MAX_TEXT_LENGTH:
            raise ValueError(f"longer than {MAX_TEXT_LENGTH:,} bytes of JSON")
        return equals


class HeaderAssertion(BaseModel):
    """What a header of the final answer must be. With its name alone: it must be there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FieldName
    equals: Annotated[str | None, Field(max_length=MAX_TEXT_LENGTH)] = None
    regex: Annotated[Pattern | None, Field(description="RE2; it must be found somewhere in the value.")] = (
        None
    )


class Assertions(BaseModel):
    """All must hold. Those on the body make `auto` ask with GET."""

    # `json` would hide a method of pydantic's, so the field has another name inside.
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    contains: Annotated[
        list[Text], Field(max_length=MAX_OF_A_KIND, description="Texts that the body must contain.")
    ] = []  # pydantic copies it, and those below
    not_contains: Annotated[
        list[Text], Field(max_length=MAX_OF_A_KIND, description="Texts that the body must not contain.")
    ] = []
    regex: Annotated[
        list[Pattern], Field(max_length=MAX_OF_A_KIND, description="RE2; found somewhere in the body.")
    ] = []
    json_body: Annotated[
        list[JsonAssertion], Field(alias="json", max_length=MAX_OF_A_KIND, description="On the body as JSON.")
    ] = []
    header: Annotated[list[HeaderAssertion], Field(max_length=MAX_OF_A_KIND)] = []
    max_latency_seconds: Annotated[
        float | None,
        Field(
            gt=0,
            le=300,
            description="Until the header of the answer is there, redirects included.",
        ),
    ] = None
    min_certificate_days: Annotated[
        float | None, Field(ge=0, le=36_500, description="How long the certificate must still be valid.")
    ] = None
    fragment: Annotated[
        bool, Field(description="The fragment of the URL, if it has one, must be an id or name in the page.")
    ] = False

    @model_validator(mode="after")
    def _are_quick(self) -> Self:
        patterns = [*self.regex, *(header.regex for header in self.header if header.regex)]
        if program_size(patterns) > MAX_PROGRAM_SIZE:
            raise ValueError("the regular expressions together are too large")
        return self

    @property
    def on_body(self) -> bool:
        """Whether the body must be read."""
        return bool(self.contains or self.not_contains or self.regex or self.json_body or self.fragment)
