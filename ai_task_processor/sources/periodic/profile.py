"""What a profile of the kind ``periodic`` says."""

import re
from collections.abc import Mapping
from datetime import UTC, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator

from ai_task_processor.core.pointer import Pointer
from ai_task_processor.core.profiles import Part, Profile

_PLACE = re.compile(r"\{([^{}]*)\}")


def _path(text: str) -> str:
    if not re.fullmatch(r"/[^?#\s\\]*", text):
        raise ValueError("must be a path that begins with a slash, without query and fragment")
    return text


def _one_place(text: str) -> str:
    if len(_PLACE.findall(text)) != 1:
        raise ValueError("must name one field of the result, like /users/{user_id}/email")
    return text


def _places(*names: str) -> AfterValidator:
    def check(texts: Mapping[str, str]) -> Mapping[str, str]:
        for text in texts.values():
            for name in _PLACE.findall(text):
                if name not in names:
                    raise ValueError(f"{{{name}}} is unknown: there is {{{names[0]}}}")
        return texts

    return AfterValidator(check)


def _zone(name: object) -> tzinfo:
    if name == "UTC":
        return UTC  # it needs no database of zones
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be a time zone such as Europe/Lisbon, which this machine knows") from None


def _pattern(text: object) -> re.Pattern[str]:
    try:
        return re.compile(str(text))
    except (re.error, OverflowError, RecursionError):
        raise ValueError("must be a regular expression in Python's syntax") from None


UrlPath = Annotated[str, AfterValidator(_path)]


class DueListPart(Part):
    """How the list of what is due soon is asked for. It is one answer, whatever its order, of at most 32 MiB."""

    path: UrlPath = Field(description="the path of the list, after API_BASE_URL")
    query: Annotated[Mapping[str, str], _places("window_minutes")] = Field(
        {}, description="parameters; {window_minutes} in a value is that number"
    )
    window_minutes: int = Field(
        ge=1, le=525_600, description="for how long before its due time a task is listed: two polls at least"
    )
    items: Pointer = Field("", description="where the array of tasks is in an answer")


class DueFieldsPart(Part):
    """Where the parts of a listed task are."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    id: Pointer = Field(description="a text or a whole number; the id of a task here is id@due time")
    due: Pointer = Field(description="a time as in ISO 8601; another one is another task")
    content: Pointer = Field("", description="what the processor gets")
    time_zone: Annotated[tzinfo, BeforeValidator(_zone)] = Field(
        UTC, description="of due times without an offset, such as Europe/Lisbon; UTC if not set"
    )


class AddressesPart(Part):
    """How the e-mail address of a user is looked up for the sink `smtp`, when a mail is about to be sent."""

    path: Annotated[UrlPath, AfterValidator(_one_place)] = Field(
        description="the path of an address; {user_id} in it is the field user_id of the result"
    )
    address: Pointer = Field(description="where the address is in an answer")
    pattern: Annotated[re.Pattern[str], BeforeValidator(_pattern)] = Field(
        re.compile("[A-Za-z0-9_-]{1,128}"),
        description="what that field must match as a whole; others are never asked for",
        json_schema_extra={"default": "[A-Za-z0-9_-]{1,128}"},
    )

    @property
    def field(self) -> str:
        """The field of the result that is in the path."""
        return str(_PLACE.findall(self.path)[0])


class PeriodicProfile(Profile):
    """An HTTP API that lists what is due soon, and takes no reports: each id and due time becomes one task, once."""

    kind: Literal["periodic"]
    headers: Annotated[Mapping[str, str], _places("secret")] = Field(
        {}, description="sent with every request; {secret} is API_SECRET"
    )
    drop_after_s: float = Field(
        86_400.0, ge=0, le=31_536_000, description="seconds after its due time from which on a task is of no interest"
    )
    listing: DueListPart = Field(alias="list")
    fields_: DueFieldsPart = Field(alias="fields")
    addresses: AddressesPart | None = None

    @field_validator("types")
    @classmethod
    def _one_type(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if len(types) != 1:
            raise ValueError("must have one type, that of all tasks")
        return types

    @property
    def needs_secret(self) -> bool:
        return any("{secret}" in value for value in self.headers.values())
