"""What a profile of the kind ``postgres`` says: a table of tasks, its columns, and the words of its states."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from ai_task_processor.core.profiles import Part, Profile

#: bytes of an identifier; PostgreSQL cuts longer ones
MAX_NAME = 63


def _name(text: str) -> str:
    if not 0 < len(text.encode()) <= MAX_NAME or "\0" in text or "%" in text:
        raise ValueError(f"must be a name of at most {MAX_NAME} bytes, without %")
    return text


def _table(text: str) -> str:
    parts = text.split(".")
    if len(parts) > 2:
        raise ValueError("must be a table, or schema.table")
    return ".".join(map(_name, parts))


def _word(text: str) -> str:
    if not text or "\0" in text or "%" in text:
        raise ValueError("must be a word, without %")
    return text


Name = Annotated[str, AfterValidator(_name)]
Table = Annotated[str, AfterValidator(_table)]
Word = Annotated[str, AfterValidator(_word)]


class Columns(Part):
    """The columns of the table of tasks, by what they mean. Times may be with or without a zone; those without are UTC.

    ``owner``: text of at least 160 characters, null or anything while a task is pending. ``started_at``: of the last
    attempt; ``finished_at``: of any end, ``completed_at``: of a good one. ``attempt``: an integer that counts claims;
    without it the count is in ``owner``. ``result`` and ``error``: JSON or text. ``cancel``: a boolean that others set.
    """

    id: Name
    created_at: Name
    state: Name
    owner: Name
    type: Name | None = None
    updated_at: Name | None = None
    started_at: Name | None = None
    finished_at: Name | None = None
    completed_at: Name | None = None
    attempt: Name | None = None
    result: Name | None = None
    error: Name | None = None
    cancel: Name | None = None

    @field_validator("*")
    @classmethod
    def _differs(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and name in info.data.values():
            raise ValueError("must be another column than those of the other keys")
        return name


class States(Part):
    """The words of the states. ``cancelled`` is needed when there is a column ``cancel``."""

    pending: Word = "pending"
    processing: Word = "processing"
    completed: Word = "completed"
    failed: Word = "failed"
    cancelled: Word | None = None

    @field_validator("*")
    @classmethod
    def _differs(cls, word: str | None, info: ValidationInfo) -> str | None:
        if word is not None and word in info.data.values():
            raise ValueError("must differ from the words of the other states")
        return word


class Children(Part):
    """Rows of another table that belong to a task: read with it, and updated together with its outcome.

    ``key``: the column with the id of the task. ``order`` and ``columns``: how a row is read, as an object.
    ``completed`` and ``failed``: columns that get these texts. ``updated_at``: set to the time of the update.
    """

    table: Table
    key: Name
    order: tuple[Name, ...] = ("id",)
    columns: Mapping[str, Name]
    updated_at: Name | None = None
    completed: Mapping[Name, Word] = Field(default_factory=dict)
    failed: Mapping[Name, Word] = Field(default_factory=dict)


class PostgresProfile(Profile):
    """A table of tasks.

    ``content``: the keys of a task's content and their columns, or one column whose JSON is the content. ``children``:
    by the key of the content that gets them, as an array. ``type``: the type of all tasks; otherwise
    ``columns.type`` says it. ``notify``: a channel on which new tasks are announced. ``shared_with_others``: workers
    of another kind take tasks from the same table, and are left alone. ``reap``: claims of dead processes are ended.
    """

    kind: Literal["postgres"]
    table: Table
    id_type: Literal["integer", "uuid", "text"] = "integer"
    columns: Columns
    states: States = Field(States(), validate_default=True)
    type: str | None = Field(None, min_length=1, max_length=128, validate_default=True)
    content: Name | Mapping[str, Name]
    children: Mapping[str, Children] = Field(default_factory=dict)
    notify: Name | None = None
    shared_with_others: bool = False
    reap: bool = True

    @field_validator("states", mode="after")
    @classmethod
    def _has_cancelled(cls, states: States, info: ValidationInfo) -> States:
        columns: Columns | None = info.data.get("columns")
        if columns is not None and columns.cancel is not None and states.cancelled is None:
            raise ValueError("cancelled is missing: columns.cancel needs a word for the state")
        return states

    @field_validator("type", mode="after")
    @classmethod
    def _one_type(cls, constant: str | None, info: ValidationInfo) -> str | None:
        columns: Columns | None = info.data.get("columns")
        if columns is not None and (constant is None) == (columns.type is None):
            raise ValueError("set either type, the type of all tasks, or columns.type")
        return constant

    @field_validator("children", mode="after")
    @classmethod
    def _beside_the_content(cls, children: Mapping[str, Children], info: ValidationInfo) -> Mapping[str, Children]:
        content = info.data.get("content")
        if children and isinstance(content, str):
            raise ValueError('children need a content of several columns: content = {key = "column"}')
        if both := sorted(children.keys() & (content or {})):
            raise ValueError(f"{', '.join(both)} must not be a key of content, too")
        return children

    def column_names(self) -> Iterator[tuple[str, str]]:
        """Every column of the table that is used: the key of the profile, and its name."""
        yield from ((f"columns.{key}", name) for key, name in self.columns if name is not None)
        if isinstance(self.content, str):
            yield "content", self.content
        else:
            yield from ((f"content.{key}", name) for key, name in self.content.items())
