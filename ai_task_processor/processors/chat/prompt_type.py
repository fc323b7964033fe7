"""Prompt types: a kind of task that is written down in a TOML file, without code.

::

    type = "sentiment"                      # of the tasks
    model = "gpt-4.1-mini"                  # CHAT_MODEL if not set; a task's own content.model goes first
    instructions = "Rate the text for {{ audience }}."
    text = "text"                           # the field of content with the text to work on
    max_text_characters = 10000
    max_answer_tokens = 500
    temperature = 0.2
    result = "sentiment"                    # the field of the answer that is the result; all of it if not set

    [schema]                                # JSON Schema of the answer; without it the answer is a text
    type = "object"
    required = ["sentiment"]
    additionalProperties = false
    properties.sentiment.enum = ["good", "bad"]
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.toml_file import TomlFile
from ai_task_processor.processors.chat.answers import Schema
from ai_task_processor.processors.chat.template import Template

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]{0,63}$")]


class PromptType(BaseModel):
    """One file, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    type: Name
    instructions: str = Field(min_length=1, max_length=100_000)
    model: str | None = Field(None, min_length=1, max_length=256)
    text: Name | None = "text"
    max_text_characters: int = Field(100_000, ge=1)
    max_answer_tokens: int = Field(4_096, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=2)
    result: str | None = None
    answer_schema: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            Template.parse(self.instructions)
        except ValueError as error:
            raise ValueError(f"instructions: {error}") from None
        if self.answer_schema is None:
            if self.result is not None:
                raise ValueError("result needs a schema: without one the answer is a text")
            return self
        try:
            Schema(self.answer_schema)
        except ValueError as error:
            raise ValueError(f"schema is no JSON Schema: {error}") from None
        if self.result is not None and self.result not in self.answer_schema.get("required", ()):
            raise ValueError(f"result names {self.result!r}, which the schema does not require")
        return self

    @cached_property
    def template(self) -> Template:
        return Template.parse(self.instructions)

    @cached_property
    def checked_schema(self) -> Schema | None:
        return None if self.answer_schema is None else Schema(self.answer_schema)

    def shaped(self, value: Any) -> object:
        """The result of a checked answer."""
        return value if self.result is None else value[self.result]


def load_prompt_types(paths: Sequence[Path]) -> Mapping[str, PromptType]:
    """All prompt types of these files and folders, by type. Raises ``ConfigurationError`` with a line per mistake."""
    problems: list[str] = []
    found: dict[str, tuple[PromptType, Path]] = {}
    for file in _files(paths, problems):
        prompt_type = TomlFile(file, "a prompt type", problems).parsed(PromptType)
        if prompt_type is None:
            continue
        if prompt_type.type in found:
            problems.append(f"{file}: type {prompt_type.type!r} is in {found[prompt_type.type][1]}, too: rename one")
        found[prompt_type.type] = (prompt_type, file)
    if problems:
        raise ConfigurationError(*(f"TASK_TYPES: {problem}" for problem in problems))
    return {name: prompt_type for name, (prompt_type, _) in found.items()}


def _files(paths: Sequence[Path], problems: list[str]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.glob("*.toml"))
        elif path.is_file():
            yield path
        else:
            problems.append(f"{path} is no file or folder: correct the path")
