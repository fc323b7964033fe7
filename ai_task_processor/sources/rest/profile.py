"""What a profile of the kind ``rest`` says: how an HTTP API lists tasks, and how outcomes are reported to it.

JSON pointers are those of RFC 6901; ``""`` is the whole document. ``{id}`` in a path is the task's id, percent-encoded.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from ai_task_processor.core.profiles import Part, Profile
from ai_task_processor.models.task import TaskStatus


def _pointer(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("must be a JSON pointer, such as /data/id")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or any(char.isspace() or char in "?#" for char in text):
        raise ValueError("must be a path that begins with / and has no query")
    return text


def _task_path(text: str) -> str:
    if _path(text).count("{id}") != 1:
        raise ValueError("must have {id} once")
    return text


Pointer = Annotated[str, AfterValidator(_pointer)]
Path = Annotated[str, AfterValidator(_path)]
TaskPath = Annotated[str, AfterValidator(_task_path)]
Method = Literal["PATCH", "PUT", "POST"]
Paging = Literal["none", "limit", "page", "offset", "cursor", "link"]
#: what strings of a body stand for
PLACEHOLDERS = ("{result}", "{usage}", "{error}", "{error.code}", "{error.message}", "{error.text}")


class ListPart(Part):
    """Where pending tasks are listed, and how its pages follow one another."""

    path: Path
    query: dict[str, str | int | bool] = Field({}, description="parameters of every request")
    items: Pointer = Field("", description="where the array of tasks is in an answer")
    order: Literal["oldest_first", "newest_first"] = Field("oldest_first", description="order of the array")
    paging: Paging = Field("none", description="how more than one page is read")
    limit: str | None = Field(None, description="the parameter for how many tasks one answer may have")
    page_size: int = Field(100, ge=1, description="paging page and offset: the value of limit")
    page: str = Field("page", description="paging page: the parameter, which counts from first_page")
    first_page: int = 1
    offset: str = Field("offset", description="paging offset: the parameter")
    cursor: str = Field("cursor", description="paging cursor: the parameter")
    next: Pointer = Field("", description="paging cursor: where the next cursor is in an answer")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.paging in ("limit", "page", "offset") and self.limit is None:
            raise ValueError(f"limit is missing: paging {self.paging} needs the name of that parameter")
        if self.paging == "cursor" and not self.next:
            raise ValueError("next is missing: paging cursor needs the pointer of the next cursor")
        if self.order == "newest_first" and self.paging not in ("none", "limit"):
            raise ValueError(f"order newest_first cannot be read with paging {self.paging}: sort the list by a query")
        return self

    @property
    def streamed(self) -> bool:
        """Whether an answer is an array that can be read record by record."""
        return self.items == "" and self.paging in ("none", "limit")


class FieldsPart(Part):
    """Where the parts of a listed task are."""

    id: Pointer
    type: Pointer | None = Field(None, description="without it all tasks are of the only type in types")
    state: Pointer | None = None
    content: Pointer = Field("", description="what the processor gets")
    created_at: Pointer | None = Field(None, description="a time as in ISO 8601, UTC if it has no offset")
    timeout_s: Pointer | None = None
    attempt_limit: Pointer | None = None
    priority: Pointer | None = None
    tenant: Pointer | None = None
    trace: Pointer | None = Field(None, description="the carrier of the task's trace (W3C Trace Context)")
    strip: list[str] = Field([], description="patterns of keys that are removed from the content, such as _*")


class StatesPart(Part):
    """The API's words for the states."""

    pending: str
    in_progress: str | None = None
    succeeded: str
    failed: str

    def words(self) -> Mapping[TaskStatus, str]:
        """By state; without those that the API does not have."""
        return {TaskStatus(name): word for name, word in self if word is not None}


class ClaimPart(Part):
    """How a task is marked before it starts, and set to pending when it is released."""

    mark: dict[str, JsonValue] = Field(description="the body of the request that marks a task")
    unmark: dict[str, JsonValue] = Field(description="the body that makes it pending again")
    method: Method | None = Field(None, description="of these requests; that of reports if not set")
    path: TaskPath | None = Field(None, description="of these requests; that of reports if not set")
    exclusive: bool = Field(
        False, description="the API refuses to mark a marked task (404, 409, 422): only a marked task starts"
    )
    optional: bool = Field(False, description="only with MARK_IN_PROGRESS=true")

    @model_validator(mode="after")
    def _sure(self) -> Self:
        if self.exclusive and self.optional:
            raise ValueError("optional contradicts exclusive: without the mark a task could start twice")
        return self


class ReportPart(Part):
    """How an outcome is reported."""

    method: Method = "PATCH"
    path: TaskPath
    succeeded: dict[str, JsonValue] = Field(description="the body; strings may be {result}, {usage} (its tokens)")
    failed: dict[str, JsonValue] = Field(
        description="the body; strings may be {error} (an object), {error.code}, {error.message}, {error.text} (both)"
    )
    result_key: str | None = Field(None, description="results that are no objects become the value of this key")
    max_levels: int | None = Field(None, ge=1, description="results that are nested deeper fail")
    without_nul: bool = Field(False, description="remove U+0000, which PostgreSQL cannot store")
    reread: TaskPath | None = Field(None, description="where one task is read again after an unclear answer")
    check_first: bool = Field(False, description="read it before every report: what others have ended is left so")
    refusal: Pointer | None = Field(None, description="what every refusal of the API itself has, but no proxy's")

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, body in (("succeeded", self.succeeded), ("failed", self.failed)):
            for text in _texts(body):
                if text.startswith("{") and text not in PLACEHOLDERS:
                    raise ValueError(f"{name} has {text}: there are {', '.join(PLACEHOLDERS)}")
        if self.check_first and self.reread is None:
            raise ValueError("reread is missing: check_first needs the path of one task")
        return self


class FollowedPart(Part):
    """Which tasks are followed by others as soon as their result is acknowledged: then a poll comes at once."""

    pointer: Pointer
    prefix: str


class PushPart(Part):
    """A WebSocket whose messages end the wait for the next poll."""

    path: Path
    state: Pointer | None = Field(None, description="where a message has the task's state: only pending ones wake")


class RestProfile(Profile):
    """A profile of the kind ``rest``."""

    kind: Literal["rest"]
    auth: Literal["oauth2", "none"] = Field("none", description="oauth2: client credentials from the OAUTH2_ settings")
    headers: dict[str, str] = Field({}, description="sent with every request; {secret} is API_SECRET")
    listing: ListPart = Field(alias="list")
    fields: FieldsPart
    states: StatesPart
    claim: ClaimPart | None = None
    report: ReportPart
    followed: FollowedPart | None = None
    push: PushPart | None = None

    @model_validator(mode="after")
    def _typed(self) -> Self:
        if self.fields.type is None and len(self.types) != 1:
            raise ValueError("types must have exactly one type when fields.type is not set")
        return self

    @property
    def has_secret(self) -> bool:
        """Whether a header needs ``API_SECRET``."""
        return any("{secret}" in text for text in self.headers.values())


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def keys(pointer: str) -> Sequence[str]:
    """The keys of a JSON pointer (RFC 6901 §4)."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def resolve(document: Any, path: Sequence[str]) -> Any:
    """The value at these keys; None where there is none."""
    for key in path:
        if isinstance(document, Mapping):
            document = document.get(key)
        elif isinstance(document, Sequence) and not isinstance(document, str) and key.isdecimal():
            document = document[int(key)] if int(key) < len(document) else None
        else:
            return None
    return document
