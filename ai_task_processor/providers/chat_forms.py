"""The forms of a chat request that servers accept, and which form to try after a refusal. Pure.

Servers and models differ: reasoning models refuse ``temperature`` and ``max_tokens``, older servers know no
``max_completion_tokens``, many know no ``response_format`` or only its JSON mode. A refusal names the parameter, in
``param`` or in its message.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

from ai_task_processor.core import codec
from ai_task_processor.core.ports import ChatRequest, Message
from ai_task_processor.providers.refusals import Refusal

Limit = Literal["max_completion_tokens", "max_tokens", "none"]
Output = Literal["strict_schema", "schema", "json_object", "instructions"]

_LIMIT = re.compile(r"\bmax_(completion_)?tokens\b")
_TEMPERATURE = re.compile(r"\btemperature\b")
_OUTPUT = re.compile(
    r"\bresponse_?format\b|\bjson_?(schema|object|mode)\b|\bstructured outputs?\b|\bguided_\w+\b|\bgrammar\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Form:
    """``limit``: the parameter for the longest answer; ``temperature``: whether it is sent; ``output``: how JSON is
    asked for: a schema that the server enforces, its JSON mode, or words only."""

    limit: Limit = "max_completion_tokens"
    temperature: bool = True
    output: Output = "strict_schema"

    @classmethod
    def restored(cls, saved: object) -> Self:
        """From ``state``; the first form for what is none."""
        values: Any = saved if isinstance(saved, Mapping) else {}
        limit, temperature, output = values.get("limit"), values.get("temperature"), values.get("output")
        first = cls()
        return cls(
            limit if limit in get_args(Limit) else first.limit,
            temperature if isinstance(temperature, bool) else first.temperature,
            output if output in get_args(Output) else first.output,
        )

    def state(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def body(self, request: ChatRequest) -> dict[str, object]:
        """The body of a chat completion in this form."""
        messages = [{"role": message.role, "content": message.content} for message in self._messages(request)]
        body: dict[str, object] = {"model": request.model, "messages": messages}
        if request.max_tokens is not None and self.limit != "none":
            body[self.limit] = request.max_tokens
        if request.temperature is not None and self.temperature:
            body["temperature"] = request.temperature
        if request.schema is not None and self.output != "instructions":
            body["response_format"] = self._response_format(request.schema)
        return body

    def _response_format(self, schema: Mapping[str, object]) -> dict[str, object]:
        if self.output == "json_object":
            return {"type": "json_object"}
        named = {"name": "answer", "schema": schema, "strict": self.output == "strict_schema"}
        return {"type": "json_schema", "json_schema": named}

    def _messages(self, request: ChatRequest) -> list[Message]:
        """Where the server does not enforce the schema the model is told it; JSON mode needs the word JSON, too."""
        messages = list(request.messages)
        if request.schema is None or self.output in ("strict_schema", "schema"):
            return messages
        told = "Answer with one JSON value and nothing else. It must fit this JSON Schema:\n"
        told += codec.line(request.schema).decode()
        if messages and messages[0].role == "system":
            messages[0] = replace(messages[0], content=f"{messages[0].content}\n\n{told}")
        else:
            messages.insert(0, Message("system", told))
        return messages

    def after(self, refusal: Refusal, body: Mapping[str, object]) -> "Form | None":
        """The form to try when a request in this form was refused; None when the refusal names no part of it."""
        named = refusal.param or refusal.words
        if self.limit in body and _LIMIT.search(named):
            return replace(self, limit="max_tokens" if self.limit == "max_completion_tokens" else "none")
        if "temperature" in body and _TEMPERATURE.search(named):
            return replace(self, temperature=False)
        if "response_format" in body and _OUTPUT.search(named):
            outputs = get_args(Output)
            return replace(self, output=outputs[outputs.index(self.output) + 1])
        return None
