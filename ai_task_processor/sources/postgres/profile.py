"""What a profile of the kind ``postgres`` says: a table of tasks, its columns, and the words of its states."""

from collections.abc import Iterator
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
    """The columns of the table of tasks, by what they mean. Times may have a zone; those without are UTC."""

    id: Name = Field(description="the primary key, of the type that id_type says")
    created_at: Name = Field(description="a time: the oldest task is taken first")
    state: Name = Field(description="a text or an enumeration")
    owner: Name = Field(
        description="who works on it: a text of 160 characters at least; left as it is when a task is pending again"
    )
    type: Name | None = Field(None, description="without it all tasks are of the only type in types")
    updated_at: Name | None = Field(None, description="set at every change")
    started_at: Name | None = Field(None, description="set by a claim, null when a task is pending again")
    finished_at: Name | None = Field(None, description="set at any end")
    completed_at: Name | None = Field(None, description="set at a good end")
    attempt: Name | None = Field(None, description="an integer that counts claims; without it the owner has the count")
    result: Name | None = Field(None, description="JSON or text: the result")
    error: Name | None = Field(None, description="text: code and message; null after a good end")
    cancel: Name | None = Field(None, description="a boolean that others set to stop a task")

    @field_validator("*")
    @classmethod
    def _differs(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and name in info.data.values():
            raise ValueError("must be another column than those of the other keys")
        return name


class States(Part):
    """The words of the states."""

    pending: Word = Field("pending", description="waits for a worker")
    processing: Word = Field("processing", description="has an owner")
    completed: Word = Field("completed", description="has a good end")
    failed: Word = Field("failed", description="has none, and never will")
    cancelled: Word | None = Field(None, description="was stopped; required with columns.cancel")

    @field_validator("*")
    @classmethod
    def _differs(cls, word: str | None, info: ValidationInfo) -> str | None:
        if word is not None and word in info.data.values():
            raise ValueError("must differ from the words of the other states")
        return word


class Children(Part):
    """Rows of another table that belong to a task: an array of objects in its content, at the key ``NAME``. They are
    changed together with the task at its end.
    """

    table: Table = Field(description="the table, or schema.table")
    key: Name = Field(description="the column with the id of the task")
    order: tuple[Name, ...] = Field(("id",), description="columns that they are ordered by")
    columns: dict[str, Name] = Field(description="the keys of an object, and their columns")
    updated_at: Name | None = Field(None, description="a column that is set when they are changed")
    completed: dict[Name, Word] = Field({}, description="columns, and what they are set to at a good end of the task")
    failed: dict[Name, Word] = Field({}, description="the same when the task fails")


class PostgresProfile(Profile):
    """A table of tasks in PostgreSQL. Claims are exclusive, and end with the daemon that has made them."""

    kind: Literal["postgres"]
    table: Table = Field(description="the table of tasks, or schema.table")
    id_type: Literal["integer", "uuid", "text"] = Field("integer", description="the type of columns.id")
    columns: Columns
    states: States = Field(default_factory=lambda: States.model_validate({}), validate_default=True)
    content: Name | dict[str, Name] = Field(
        description="one column whose JSON is the content, or the keys of an object and their columns"
    )
    children: dict[str, Children] = Field({})
    notify: Name | None = Field(None, description="a channel on which new tasks are announced; see sources prepare")
    shared_with_others: bool = Field(
        False, description="workers of another kind take tasks, too: doctor does not wonder about their claims"
    )
    reap: bool = Field(True, description="set the tasks of daemons that have died to pending")

    @field_validator("columns")
    @classmethod
    def _typed(cls, columns: Columns, info: ValidationInfo) -> Columns:
        if columns.type is None and len(info.data.get("types", ("one",))) != 1:
            raise ValueError("type is missing: add it, or exactly one type to types")
        return columns

    @field_validator("states", mode="after")
    @classmethod
    def _has_cancelled(cls, states: States, info: ValidationInfo) -> States:
        columns: Columns | None = info.data.get("columns")
        if columns is not None and columns.cancel is not None and states.cancelled is None:
            raise ValueError("cancelled is missing: columns.cancel needs a word for the state")
        return states

    @field_validator("children", mode="after")
    @classmethod
    def _beside_the_content(cls, children: dict[str, Children], info: ValidationInfo) -> dict[str, Children]:
        content = info.data.get("content")
        if children and isinstance(content, str):
            raise ValueError('children need a content of several columns: content = {key = "column"}')
        if both := sorted(children.keys() & (content or {})):
            raise ValueError(f"{', '.join(both)} must not be a key of content, too")
        return children

    @property
    def only_type(self) -> str | None:
        """The type of all tasks; None when a column says it."""
        return self.types[0] if self.columns.type is None else None

    def column_names(self) -> Iterator[tuple[str, str]]:
        """Every column of the table that is used: the key of the profile, and its name."""
        yield from ((f"columns.{key}", name) for key, name in self.columns if name is not None)
        if isinstance(self.content, str):
            yield "content", self.content
        else:
            yield from ((f"content.{key}", name) for key, name in self.content.items())
