"""``ConversationProcessor``: tasks of the type ``chat``, which bring their messages and the schema of the answer."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_task_processor.core import codec
from ai_task_processor.core.errors import TaskError
from ai_task_processor.core.ports import ChatRequest, Message
from ai_task_processor.models.task import Task, TaskResult, TaskType
from ai_task_processor.processors.chat.processor import ChatProcessor
from ai_task_processor.processors.chat.question import Question
from ai_task_processor.processors.chat.settings import PromptSettings

#: the most messages, and bytes of a schema
MAX_MESSAGES, MAX_SCHEMA_BYTES = 1_000, 2**16
#: the longest answer of a task that names no limit, tokens
MAX_ANSWER_TOKENS = 4_096
_REFERENCES = ("#/$defs/", "#/definitions/")


class _Said(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class _Content(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, strict=True)

    messages: list[_Said] = Field(min_length=1, max_length=MAX_MESSAGES)
    answer_schema: dict[str, Any] | None = Field(None, alias="schema")
    max_tokens: int = Field(MAX_ANSWER_TOKENS, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=2)


class ConversationProcessor(ChatProcessor):
    """``content``: ``messages`` (``role`` and ``content`` each), and if it has them ``schema`` (a JSON Schema of the
    answer), ``model``, ``max_tokens``, ``temperature``. Result: ``{"text": string}``, or with a schema the JSON that
    fits it.

    A task fails with ``invalid_content``, or as prompt types do with the model's last unusable answer. Its schema may
    refer to its own ``$defs`` only, and has no ``pattern``: a regular expression could occupy the process for ever.
    """

    task_types = frozenset({TaskType.CHAT})
    settings_groups: ClassVar = (PromptSettings,)

    async def process(self, task: Task) -> TaskResult:
        content = _content(task.content)
        question = Question(type=TaskType.CHAT, max_answer_tokens=content.max_tokens)
        if content.answer_schema is not None:
            # In a thread: the library that checks schemas takes a while to import.
            question = await asyncio.to_thread(_checked, question, content.answer_schema)
        request = ChatRequest(
            model=self._model(None, task.content),
            messages=[Message(said.role, said.content) for said in content.messages],
            schema=content.answer_schema,
            max_tokens=content.max_tokens,
            temperature=content.temperature,
        )
        try:
            with self._in_time():
                value, usage = await self._answered(question, request)
        except RecursionError as error:
            raise TaskError("invalid_content", "schema: it refers to itself without end") from error
        if value is None:
            raise TaskError("invalid_output", "the answer is null, which is no result")
        return TaskResult(value, usage=usage)


def _content(content: object) -> _Content:
    """Raises ``TaskError``."""
    try:
        return _Content.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise TaskError("invalid_content", f"{place[:100]}: {first['msg']}") from error


def _checked(question: Question, schema: Mapping[str, Any]) -> Question:
    """With the schema. Raises ``TaskError``."""
    from ai_task_processor.processors.chat.answers import Schema

    if len(codec.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise TaskError("invalid_content", f"schema: it has more than {MAX_SCHEMA_BYTES} bytes")
    for reason in _dangers(schema):
        raise TaskError("invalid_content", f"schema: {reason}")
    try:
        checked = Schema(schema)
    except (ValueError, RecursionError) as error:
        raise TaskError("invalid_content", "schema: it is no JSON Schema") from error
    return Question(type=question.type, max_answer_tokens=question.max_answer_tokens, checked_schema=checked)


def _dangers(schema: Mapping[str, Any]) -> Iterator[str]:
    """Why a schema of a stranger must not be used."""
    left: list[Any] = [schema]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            if "patternProperties" in value or isinstance(value.get("pattern"), str):
                yield "pattern and patternProperties are not allowed"
            if any(key in value for key in ("$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor")):
                yield "of references only $ref is allowed"
            if isinstance(reference := value.get("$ref"), str) and not _is_own(reference, schema):
                yield "$ref must name one of its own $defs"


def _is_own(reference: str, schema: Mapping[str, Any]) -> bool:
    start = next((start for start in _REFERENCES if reference.startswith(start)), None)
    if start is None:
        return False
    own = schema.get(start.split("/")[1])
    return isinstance(own, dict) and reference.removeprefix(start) in own
