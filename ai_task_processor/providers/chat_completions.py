"""Chat completions: ``POST /chat/completions`` and its answer. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ai_task_processor.core.ports import ChatAnswer
from ai_task_processor.providers.answers import error_in_answer, read_object, read_usage
from ai_task_processor.providers.chat_forms import NO_LIMIT, Form

_FINISHES: Mapping[str, Any] = {"stop": "complete", "length": "truncated", "content_filter": "filtered"}


@dataclass(frozen=True, slots=True)
class ChatCompletions(Form):
    """The API that nearly all compatible servers have."""

    limit: str = "max_completion_tokens"

    path: ClassVar = "/chat/completions"
    limits: ClassVar = ("max_completion_tokens", "max_tokens", NO_LIMIT)
    output_key: ClassVar = "response_format"

    def _conversation(self, messages: Sequence[object]) -> dict[str, object]:
        return {"messages": messages}

    def _json_mode(self) -> object:
        return {"type": "json_object"}

    def _json_schema(self, named: Mapping[str, object]) -> object:
        return {"type": "json_schema", "json_schema": named}

    @staticmethod
    def parse(content: bytes) -> ChatAnswer:
        """The first choice."""
        answer = read_object(content)
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise error_in_answer(content, "a chat completion")
        text = _text(message.get("content"))
        finish = _FINISHES.get(str(choice.get("finish_reason")), "other")
        if message.get("refusal"):
            finish = "refused"
        elif finish == "complete" and (message.get("tool_calls") or not text.strip()):
            finish = "other"
        return ChatAnswer(text=text, finish=finish, usage=read_usage(answer.get("usage")))


def _text(content: object) -> str:
    """A string, or the text parts of a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
