"""Chat providers: the mock, and OpenAI's client against the sandbox and its bad habits."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from ai_task_processor.core.errors import CallRefused, InvalidAnswer, QuotaExhausted, Throttled, Unauthorized
from ai_task_processor.core.ports import ChatRequest, Message, Provider
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.client import make_client
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers import MAX_CHAT_BYTES
from ai_task_processor.providers.memory import CHAT_FORMS_FILE, ModelMemory
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.providers.openai_chat import OpenAIChat
from ai_task_processor.providers.settings import ChatSettings
from ai_task_processor.sandbox import Sandbox
from ai_task_processor.testing import ChatCase, check_chat_provider

MODEL = "gpt-4.1-mini"
SCHEMA = {
    "type": "object",
    "required": ["level"],
    "additionalProperties": False,
    "properties": {"level": {"enum": ["high", "low"]}},
}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as running:
        yield running


def openai_chat(sandbox: Sandbox, memory: ModelMemory | None = None, **changes: str) -> OpenAIChat:
    settings = ChatSettings.model_validate(sandbox.environment() | changes)
    network = NetworkSettings.model_validate({})
    client = make_client(network, url=sandbox.url, connections=4, max_answer_bytes=MAX_CHAT_BYTES)
    metrics = Metrics(version="1", provider="openai", models=[MODEL])
    return OpenAIChat(settings.api_key, settings.base_url, settings.timeout_s, client, metrics, memory)


@pytest.fixture
async def chat(sandbox: Sandbox) -> AsyncIterator[OpenAIChat]:
    made = openai_chat(sandbox)
    yield made
    await made.aclose()


def request(**changes: Any) -> ChatRequest:
    usual = {"model": MODEL, "messages": [Message("user", "Rate it.")], "schema": SCHEMA, "max_tokens": 50}
    return ChatRequest(**{**usual, **changes})


@pytest.mark.parametrize("kind", ["mock", "openai"])
async def test_the_promises_of_a_chat_provider(kind: str, sandbox: Sandbox) -> None:
    provider: Provider = MockProvider() if kind == "mock" else openai_chat(sandbox)
    await check_chat_provider(ChatCase(provider, MODEL))
    await provider.aclose()


@pytest.mark.parametrize(
    ("habit", "finish"),
    [
        ("prose", "complete"),
        ("fence", "complete"),
        ("wrong", "complete"),
        ("truncated", "truncated"),
        ("refusal", "refused"),
        ("filtered", "filtered"),
        ("tool_call", "other"),
        ("empty", "other"),
    ],
)
async def test_how_an_answer_ended(chat: OpenAIChat, sandbox: Sandbox, habit: str, finish: str) -> None:
    """Only ``complete`` is an answer; every call is charged."""
    sandbox.chat.behave({habit: 1.0})
    answer = await chat.complete(request())
    assert answer.finish == finish
    assert answer.usage.prompt_tokens == sandbox.chat.prompt_tokens > 0
    assert answer.usage.completion_tokens == sandbox.chat.completion_tokens


async def test_a_short_limit_truncates(chat: OpenAIChat) -> None:
    answer = await chat.complete(request(max_tokens=2))
    assert (answer.finish, len(answer.text)) == ("truncated", 8)


@pytest.mark.parametrize(
    ("refused", "calls"),
    [
        ({"max_completion_tokens"}, 2),
        ({"max_completion_tokens", "max_tokens"}, 3),
        ({"temperature"}, 2),
        ({"json_schema"}, 3),
        ({"response_format"}, 4),
        ({"max_completion_tokens", "max_tokens", "temperature", "response_format"}, 7),
    ],
)
async def test_a_form_is_learnt_once(sandbox: Sandbox, tmp_path: Path, refused: set[Any], calls: int) -> None:
    """Each refused parameter costs one free call; the form is stored over a restart, and the answer fits throughout."""
    sandbox.chat.refuses = refused
    memory = ModelMemory(tmp_path, CHAT_FORMS_FILE)
    chat = openai_chat(sandbox, memory)
    for expected in (calls, calls + 1):
        answer = await chat.complete(request(temperature=0.5))
        Draft202012Validator(SCHEMA).validate(orjson.loads(answer.text))
        assert sandbox.stats.model_requests == expected
    await chat.aclose()
    again = openai_chat(sandbox, memory)
    await again.prepare()
    await again.complete(request(temperature=0.5))
    assert sandbox.stats.model_requests == calls + 2
    assert sandbox.chat.calls == 3
    await again.aclose()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 401}, Unauthorized),
        ({"status": 429, "headers": {"Retry-After": "7"}}, Throttled),
        ({"status": 429, "code": "insufficient_quota"}, QuotaExhausted),
        ({"status": 400}, CallRefused),
        ({"content": "{}"}, InvalidAnswer),
        ({"content": '{"choices": []}'}, InvalidAnswer),
        ({"content": '{"choices": [{"message": "x"}]}'}, InvalidAnswer),
        ({"content": "<html>"}, InvalidAnswer),
        ({"content": '"' + "x" * (MAX_CHAT_BYTES + 1) + '"'}, InvalidAnswer),
    ],
)
async def test_an_error_says_whose_fault_it_is(
    chat: OpenAIChat, sandbox: Sandbox, fault: dict[str, Any], error: type[Exception]
) -> None:
    sandbox.faults.add("model", **fault)
    with pytest.raises(error):
        await chat.complete(request())


async def test_a_text_in_parts_is_one_text(chat: OpenAIChat, sandbox: Sandbox) -> None:
    content = [{"type": "text", "text": "So "}, {"type": "image"}, {"type": "text", "text": "be it."}]
    choice = {"message": {"content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": -1, "completion_tokens": True}
    sandbox.faults.add("model", content=orjson.dumps({"choices": [choice], "usage": usage}).decode())
    answer = await chat.complete(request(schema=None))
    assert (answer.text, answer.usage.total_tokens) == ("So be it.", 0)
