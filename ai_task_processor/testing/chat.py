"""The contract suite of providers of chat models (``ports.Provider.complete``): ``check_chat_provider``."""

import json
from dataclasses import dataclass
from typing import Any

from ai_task_processor.core.ports import ChatRequest, Message, Provider

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["level"],
    "additionalProperties": False,
    "properties": {"level": {"type": "string", "enum": ["high", "low"]}},
}


@dataclass
class ChatCase:
    """A running provider, and one of its chat models."""

    provider: Provider
    model: str


async def check_chat_provider(case: ChatCase) -> None:
    """Run every promise. Raises ``AssertionError``."""
    await case.provider.prepare()
    await a_schema_is_kept(case)
    await any_text_may_be_said(case)


async def a_schema_is_kept(case: ChatCase) -> None:
    """An answer to a request with a schema is JSON of that schema, complete and charged for."""
    messages = [Message("system", "Rate the text."), Message("user", "It is fine.")]
    answer = await case.provider.complete(ChatRequest(model=case.model, messages=messages, schema=_SCHEMA))
    assert answer.finish == "complete"
    assert json.loads(answer.text)["level"] in ("high", "low")
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0


async def any_text_may_be_said(case: ChatCase) -> None:
    """Unusual Unicode is text, too; without a schema the answer is a text."""
    for text in ("\x00", "😀" * 50, "a" * 20_000, "\u2028", '"}]'):
        request = ChatRequest(model=case.model, messages=[Message("user", text)], max_tokens=100)
        answer = await case.provider.complete(request)
        assert answer.finish in ("complete", "truncated")
        assert answer.text
