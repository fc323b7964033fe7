"""OpenAI's Responses API: ``POST /responses`` and its answer. Pure.

An answer has a ``status`` and a list of items: messages with parts of text or a refusal, reasoning, calls of tools.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ai_task_processor.core.errors import RemoteError, Throttled, Transient
from ai_task_processor.core.ports import ChatAnswer
from ai_task_processor.providers.answers import error_in_answer, field_of, read_object, read_usage
from ai_task_processor.providers.chat_forms import NO_LIMIT, Form

_REASONS: Mapping[str, Any] = {"max_output_tokens": "truncated", "content_filter": "filtered"}
#: codes of a failed response that are about its text
_REFUSED_TEXT = re.compile(r"policy|invalid_prompt|content_filter")


@dataclass(frozen=True, slots=True)
class Responses(Form):
    """The API in which OpenAI offers its newer models. Nothing is stored there."""

    limit: str = "max_output_tokens"

    path: ClassVar = "/responses"
    limits: ClassVar = ("max_output_tokens", NO_LIMIT)
    output_key: ClassVar = "text"
    least_tokens: ClassVar = 16  # OpenAI answers 400 ``integer_below_min_value`` for less

    def _conversation(self, messages: Sequence[object]) -> dict[str, object]:
        return {"input": messages, "store": False}

    def _json_mode(self) -> object:
        return {"format": {"type": "json_object"}}

    def _json_schema(self, named: Mapping[str, object]) -> object:
        return {"format": {"type": "json_schema", **named}}

    @staticmethod
    def parse(content: bytes) -> ChatAnswer:
        """The text of all messages but those that a model writes before its answer (``commentary``)."""
        answer = read_object(content)
        status, output = answer.get("status"), answer.get("output")
        usage = read_usage(answer.get("usage"), "input_tokens", "output_tokens")
        if status == "failed":
            if (error := _failure(content, field_of(answer.get("error"), "code"))) is not None:
                raise error
            return ChatAnswer(text="", finish="filtered", usage=usage)
        if not isinstance(status, str) or not isinstance(output, list):
            raise error_in_answer(content, "a response")
        items = [item for item in output if isinstance(item, dict) and item.get("type") != "reasoning"]
        parts = [part for item in items if item.get("phase") != "commentary" for part in _parts(item)]
        text = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
        finish: Any = "complete" if status == "completed" else "other"
        if status == "incomplete":
            finish = _REASONS.get(str(field_of(answer.get("incomplete_details"), "reason")), "other")
        if any(part.get("type") == "refusal" for part in parts):
            finish = "refused"
        elif finish == "complete" and (any(item.get("type") != "message" for item in items) or not text.strip()):
            finish = "other"
        return ChatAnswer(text=text, finish=finish, usage=usage)


def _parts(item: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = item.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _failure(content: bytes, code: object) -> RemoteError | None:
    """The error for a failed response; None when its text was refused."""
    if code == "rate_limit_exceeded":
        return Throttled("the model API answered 200 with a rate limit")
    if code == "server_error":
        return Transient("the model API answered 200 with a server error")
    if isinstance(code, str) and _REFUSED_TEXT.search(code):
        return None
    return error_in_answer(content, "a response")
