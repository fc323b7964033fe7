"""What a profile of the kind ``periodic`` says."""

import re
from collections.abc import Mapping
from datetime import UTC, tzinfo
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

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


class ListPart(Part):
    """How the list is asked for."""

    path: UrlPath
    query: Annotated[Mapping[str, str], _places("window_minutes")] = Field(
        {}, description="parameters; {window_minutes} in a value is the window"
    )
    window_minutes: int = Field(ge=1, le=525_600, description="how long before its due time a task is listed")
    items: Pointer = Field("", description="where the list stands in the answer")


class FieldsPart(Part):
    """Where the fields of a task stand in an item of the list."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    id: Pointer
    due: Pointer
    content: Pointer = Field("", description="the content of the task")
    time_zone: Annotated[tzinfo, BeforeValidator(_zone)] = Field(UTC, description="of due times without an offset")


class AddressesPart(Part):
    """How the e-mail address of a user is looked up, for the sink ``smtp``."""

    path: Annotated[UrlPath, AfterValidator(_one_place)] = Field(description="with {a field of the result}")
    address: Pointer = Field(description="where the address stands in the answer")
    pattern: Annotated[re.Pattern[str], BeforeValidator(_pattern)] = Field(
        re.compile("[A-Za-z0-9_-]{1,128}"), description="what the whole field must match; others are never asked for"
    )

    @property
    def field(self) -> str:
        """The field of the result that is in the path."""
        return str(_PLACE.findall(self.path)[0])


class PeriodicProfile(Profile):
    """``types``: the one type of all its tasks. ``drop_after_s``: see the source."""

    listing: ListPart = Field(alias="list")
    fields_: FieldsPart = Field(alias="fields")
    headers: Annotated[Mapping[str, str], _places("secret")] = Field(
        {}, description="of every request; {secret} in a value is API_SECRET"
    )
    addresses: AddressesPart | None = None
    drop_after_s: float = Field(86_400.0, ge=0, le=31_536_000, description="after the due time nobody is reminded")

    @model_validator(mode="after")
    def _one_type(self) -> Self:
        if len(self.types) != 1:
            raise ValueError("types must name the one type of all tasks")
        return self

    @property
    def needs_secret(self) -> bool:
        return any("{secret}" in value for value in self.headers.values())
