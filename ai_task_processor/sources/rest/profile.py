"""What a profile of the kind ``rest`` says: how an HTTP API lists tasks, and how outcomes are reported to it.

JSON pointers are those of RFC 6901; ``""`` is the whole document. ``{id}`` in a path is the task's id, percent-encoded.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationInfo, field_validator

from ai_task_processor.core.pointer import Pointer
from ai_task_processor.core.profiles import Part, Profile
from ai_task_processor.models.task import TaskStatus


def _path(text: str) -> str:
    if not text.startswith("/") or any(char.isspace() or char in "?#" for char in text):
        raise ValueError("must be a path that begins with / and has no query")
    return text


def _task_path(text: str) -> str:
    if _path(text).count("{id}") != 1:
        raise ValueError("must have {id} once")
    return text


def _parameter(value: object) -> object:
    if not isinstance(value, str | int):
        raise ValueError("must be a text, a whole number, true or false")
    return value


Path = Annotated[str, AfterValidator(_path)]
TaskPath = Annotated[str, AfterValidator(_task_path)]
Parameter = Annotated[str | int | bool, BeforeValidator(_parameter)]
Method = Literal["PATCH", "PUT", "POST"]
Paging = Literal["none", "limit", "page", "offset", "cursor", "link"]
#: what strings of a body stand for
PLACEHOLDERS = ("{result}", "{usage}", "{error}", "{error.code}", "{error.message}", "{error.text}")


class ListPart(Part):
    """Where pending tasks are listed, and how its pages follow one another.

    ``paging``: ``none`` is one answer with all; ``limit`` asks for as many as are needed, and for more when those
    cannot be taken; ``page`` counts pages, ``offset`` records; ``cursor`` sends what the answer before has at ``next``;
    ``link`` follows the header ``Link`` with ``rel=next``.
    """

    path: Path = Field(description="the path of the list, after API_BASE_URL")
    query: dict[str, Parameter] = Field({}, description="parameters of every request")
    items: Pointer = Field("", description="where the array of tasks is in an answer")
    order: Literal["oldest_first", "newest_first"] = Field("oldest_first", description="order of the array")
    paging: Paging = Field("none", description="how more than one page is read")
    limit: str | None = Field(
        None, description="the parameter for how many tasks one answer may have", validate_default=True
    )
    page_size: int = Field(100, ge=1, description="paging page and offset: the value of limit")
    page: str = Field("page", description="paging page: the parameter, which counts from first_page")
    first_page: int = Field(1, description="paging page: the number of the first page")
    offset: str = Field("offset", description="paging offset: the parameter")
    cursor: str = Field("cursor", description="paging cursor: the parameter")
    next: Pointer = Field("", description="paging cursor: where the next cursor is in an answer", validate_default=True)

    # Each where it belongs, because a validator of the model is not called when any field is wrong.
    @field_validator("paging")
    @classmethod
    def _reads_the_order(cls, paging: str, info: ValidationInfo) -> str:
        if info.data.get("order") == "newest_first" and paging not in ("none", "limit"):
            raise ValueError(f"{paging} cannot be read with order newest_first: sort the list by a query")
        return paging

    @field_validator("limit")
    @classmethod
    def _limited(cls, limit: str | None, info: ValidationInfo) -> str | None:
        if limit is None and (paging := info.data.get("paging")) in ("limit", "page", "offset"):
            raise ValueError(f"is missing: paging {paging} needs the name of that parameter")
        return limit

    @field_validator("next")
    @classmethod
    def _followed(cls, pointer: str, info: ValidationInfo) -> str:
        if not pointer and info.data.get("paging") == "cursor":
            raise ValueError("is missing: paging cursor needs the pointer of the next cursor")
        return pointer

    @property
    def streamed(self) -> bool:
        """Whether an answer is an array that can be read record by record."""
        return self.items == "" and self.paging in ("none", "limit")


class FieldsPart(Part):
    """Where the parts of a listed task are."""

    id: Pointer = Field(description="a text that matches TASK_ID_PATTERN, or a whole number")
    numeric_ids: bool = Field(True, description="false: an id that is a number makes a record invalid")
    type: Pointer | None = Field(None, description="without it all tasks are of the only type in types")
    state: Pointer | None = Field(None, description="tasks that are listed in another state than pending are skipped")
    content: Pointer = Field("", description="what the processor gets")
    created_at: Pointer | None = Field(None, description="a time as in ISO 8601, UTC if it has no offset")
    timeout_s: Pointer | None = Field(None, description="seconds for one attempt, if that is less than TASK_TIMEOUT")
    attempt_limit: Pointer | None = Field(None, description="how many attempts it may have, at most three")
    priority: Pointer | None = Field(None, description="a whole number that processors see")
    tenant: Pointer | None = Field(None, description="on whose behalf it is, for processors")
    trace: Pointer | None = Field(None, description="the carrier of the task's trace (W3C Trace Context)")
    strip: list[str] = Field([], description="patterns of keys that are removed from the content, such as _*")


class StatesPart(Part):
    """The API's words for the states."""

    pending: str = Field(description="waits for a worker")
    in_progress: str | None = Field(None, description="is being worked on, if the API has such a state")
    succeeded: str = Field(description="has a result")
    failed: str = Field(description="has none, and never will")

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
    within_s: float | None = Field(None, gt=0, description="seconds after which a task starts without an answer to it")

    @field_validator("optional")
    @classmethod
    def _sure(cls, optional: bool, info: ValidationInfo) -> bool:
        if optional and info.data.get("exclusive"):
            raise ValueError("contradicts exclusive, because without the mark a task could start twice: remove one")
        return optional


class ReportPart(Part):
    """How an outcome is reported. A string of a body may be a placeholder as a whole."""

    method: Method = Field("PATCH", description="of reports, and of marks that have none of their own")
    path: TaskPath = Field(description="the path of one task, with {id}")
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

    @field_validator("succeeded", "failed")
    @classmethod
    def _known(cls, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for text in _texts(body):
            if text.startswith("{") and text not in PLACEHOLDERS:
                raise ValueError(f"has {text}: there are {', '.join(PLACEHOLDERS)}")
        return body

    @field_validator("check_first")
    @classmethod
    def _readable(cls, check_first: bool, info: ValidationInfo) -> bool:
        if check_first and info.data.get("reread", "") is None:
            raise ValueError("needs reread, the path of one task: add it")
        return check_first


class FollowedPart(Part):
    """Which tasks are followed by others as soon as their result is acknowledged: then a poll comes at once."""

    pointer: Pointer = Field(description="where a listed task has the text that decides")
    prefix: str = Field(description="what that text begins with")


class PushPart(Part):
    """A WebSocket whose messages end the wait for the next poll."""

    path: Path = Field(description="its path, after API_BASE_URL")
    state: Pointer | None = Field(None, description="where a message has the task's state: only pending ones wake")
    id: Pointer | None = Field(None, description="where it has the task's id: others are then not pending any more")


class RestProfile(Profile):
    """An HTTP API that lists pending tasks, and takes a request for each outcome."""

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

    @field_validator("fields")
    @classmethod
    def _typed(cls, fields: FieldsPart, info: ValidationInfo) -> FieldsPart:
        if fields.type is None and len(info.data.get("types", ("one",))) != 1:
            raise ValueError("type is missing: add it, or exactly one type to types")
        return fields

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
