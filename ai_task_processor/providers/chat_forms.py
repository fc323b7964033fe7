"""The forms of a chat request that servers accept, and which form to try after a refusal. Pure.

Servers and models differ: reasoning models refuse ``temperature`` and ``max_tokens``, older servers know no
``max_completion_tokens``, many know no ``response_format`` or only its JSON mode. A refusal names the parameter, in
``param`` or in its message. ``chat_completions.py`` and ``responses.py`` have what is special about each API.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self, get_args

from ai_task_processor.core import codec
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Message
from ai_task_processor.providers.refusals import Refusal

Output = Literal["strict_schema", "schema", "json_object", "instructions"]
#: the last of ``Form.limits``
NO_LIMIT = "none"

_LIMIT = re.compile(r"\bmax_(completion_|output_)?tokens\b")
_TEMPERATURE = re.compile(r"\btemperature\b")
_OUTPUT = re.compile(
    r"\bresponse_?format\b|^text$|\btext\.format\b|\bjson_?(schema|object|mode)\b|\bstructured outputs?\b"
    r"|\bguided_\w+\b|\bgrammar\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Form(ABC):
    """``limit``: the parameter for the longest answer; ``temperature``: whether it is sent; ``output``: how JSON is
    asked for: a schema that the server enforces, its JSON mode, or words only.

    A subclass is an API: the ``path`` of its endpoint; ``limits``: the values of ``limit``, in the order in which they
    are tried; ``least_tokens``: the smallest limit that it takes; ``output_key``: the parameter that asks for JSON.
    """

    limit: str
    temperature: bool = True
    output: Output = "strict_schema"

    path: ClassVar[str]
    limits: ClassVar[Sequence[str]]
    least_tokens: ClassVar[int] = 1
    output_key: ClassVar[str]

    @classmethod
    def restored(cls, saved: object) -> Self:
        """From ``state``; the first form for what is none."""
        values: Any = saved if isinstance(saved, Mapping) else {}
        limit, temperature, output = values.get("limit"), values.get("temperature"), values.get("output")
        return cls(
            limit if limit in cls.limits else cls.limits[0],
            temperature if isinstance(temperature, bool) else True,
            output if output in get_args(Output) else "strict_schema",
        )

    def state(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def body(self, request: ChatRequest) -> dict[str, object]:
        """The body of a request in this form."""
        body = {"model": request.model, **self._conversation(self._messages(request))}
        if request.max_tokens is not None and self.limit != NO_LIMIT:
            body[self.limit] = max(request.max_tokens, self.least_tokens)
        if request.temperature is not None and self.temperature:
            body["temperature"] = request.temperature
        if request.schema is not None and self.output == "json_object":
            body[self.output_key] = self._json_mode()
        elif request.schema is not None and self.output != "instructions":
            strict = self.output == "strict_schema"
            body[self.output_key] = self._json_schema({"name": "answer", "schema": request.schema, "strict": strict})
        return body

    @abstractmethod
    def _conversation(self, messages: Sequence[object]) -> dict[str, object]: ...

    @abstractmethod
    def _json_mode(self) -> object: ...

    @abstractmethod
    def _json_schema(self, named: Mapping[str, object]) -> object: ...

    @staticmethod
    @abstractmethod
    def parse(content: bytes) -> ChatAnswer:
        """Raises ``InvalidAnswer`` for what is no answer, and what an error in an answer with status 200 means."""

    def _messages(self, request: ChatRequest) -> list[dict[str, str]]:
        """Where the server does not enforce the schema it is part of the text; JSON mode needs the word JSON, too."""
        messages = list(request.messages)
        if request.schema is not None and self.output not in ("strict_schema", "schema"):
            order = "Answer with one JSON value and nothing else. It must fit this JSON Schema:\n"
            order += codec.line(request.schema).decode()
            if messages and messages[0].role == "system":
                messages[0] = replace(messages[0], content=f"{messages[0].content}\n\n{order}")
            else:
                messages.insert(0, Message("system", order))
        return [{"role": message.role, "content": message.content} for message in messages]

    def after(self, refusal: Refusal, body: Mapping[str, object]) -> Self | None:
        """The form to try when a request in this form was refused; None when the refusal names no part of it."""
        named = refusal.param or refusal.words
        if self.limit in body and _LIMIT.search(named):
            return replace(self, limit=self.limits[self.limits.index(self.limit) + 1])
        if "temperature" in body and _TEMPERATURE.search(named):
            return replace(self, temperature=False)
        if self.output_key in body and _OUTPUT.search(named):
            outputs = get_args(Output)
            return replace(self, output=outputs[outputs.index(self.output) + 1])
        return None
