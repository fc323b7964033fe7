"""Chat providers: the mock, and OpenAI's client over both APIs against the sandbox and its bad habits."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from structlog.testing import capture_logs

from ai_task_processor.core.errors import (
    CallRefused,
    InvalidAnswer,
    Misconfigured,
    ModelRefused,
    QuotaExhausted,
    Throttled,
    Unauthorized,
)
from ai_task_processor.core.ports import ChatRequest, Message, Provider
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.client import make_client
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers import MAX_CHAT_BYTES
from ai_task_processor.providers.memory import FORMS_FILES, ModelMemory
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.providers.openai_chat import OpenAIChat
from ai_task_processor.providers.prices import Prices
from ai_task_processor.providers.settings import ChatSettings
from ai_task_processor.sandbox import Sandbox
from ai_task_processor.testing import ChatCase, check_chat_provider

MODEL = "gpt-4.1-mini"
APIS = ("chat_completions", "responses")
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


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1", provider="openai", models=[MODEL], currency="USD")


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def openai_chat(
    sandbox: Sandbox,
    api: str,
    metrics: Metrics,
    memory: ModelMemory | None = None,
    prices: Prices | None = None,
) -> OpenAIChat:
    settings = ChatSettings.model_validate(sandbox.environment() | {"CHAT_API": api})
    network = NetworkSettings.model_validate({})
    client = make_client(network, url=sandbox.url, connections=4, max_answer_bytes=MAX_CHAT_BYTES)
    return OpenAIChat(settings, client, metrics, memory, prices)


@pytest.fixture
async def chat(sandbox: Sandbox, api: str, metrics: Metrics) -> AsyncIterator[OpenAIChat]:
    made = openai_chat(sandbox, api, metrics)
    yield made
    await made.aclose()


def request(**changes: Any) -> ChatRequest:
    usual = {"model": MODEL, "messages": [Message("user", "Rate it.")], "schema": SCHEMA, "max_tokens": 50}
    return ChatRequest(**{**usual, **changes})


@pytest.mark.parametrize("kind", ["mock", *APIS])
async def test_the_promises_of_a_chat_provider(kind: str, sandbox: Sandbox, metrics: Metrics) -> None:
    provider: Provider = MockProvider() if kind == "mock" else openai_chat(sandbox, kind, metrics)
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


async def test_a_short_limit_truncates(chat: OpenAIChat, api: str) -> None:
    """A response has 16 tokens at least."""
    answer = await chat.complete(request(max_tokens=2, schema={"const": "x" * 100}))
    assert (answer.finish, len(answer.text)) == ("truncated", 8 if api == "chat_completions" else 64)


async def test_what_the_provider_had_cached_is_told(chat: OpenAIChat, sandbox: Sandbox) -> None:
    """Of a long prompt that begins as an earlier one did."""
    messages = [Message("user", "x" * 8_000)]
    usages = [(await chat.complete(request(messages=messages))).usage for _ in range(2)]
    assert [usage.cached_tokens for usage in usages] == [0, 1024]
    assert sandbox.chat.cached_tokens == 1024 < usages[1].prompt_tokens


async def test_a_call_is_counted_with_its_cost(sandbox: Sandbox, api: str, metrics: Metrics) -> None:
    """What the provider had cached at its own price; a model without a price is logged once and not counted."""
    price = {"prompt": 1.0, "cached": 0.25, "completion": 4.0}
    chat = openai_chat(sandbox, api, metrics, prices=Prices.model_validate({"models": {MODEL: price}}))
    with capture_logs() as lines:
        for model in (MODEL, MODEL, "o3", "o3"):
            await chat.complete(request(model=model, messages=[Message("user", "x" * 8_000)]))
    await chat.aclose()
    assert [(line["event"], line["model"]) for line in lines] == [("cost.not_counted", "o3")]
    counted = {
        kind: metrics.value("model_tokens_total", provider="openai", model=MODEL, type=kind) or 0.0
        for kind in ("prompt", "cached", "completion")
    }
    assert counted["cached"] == 1024
    cost = (counted["prompt"] - 1024 + 1024 * 0.25 + 4 * counted["completion"]) / 1e6
    assert metrics.value("model_cost_total", model=MODEL) == pytest.approx(cost)
    assert metrics.value("model_cost_total", model="other") == 0


@pytest.mark.parametrize(
    ("api", "refused", "calls"),
    [
        ("chat_completions", {"max_completion_tokens"}, 2),
        ("chat_completions", {"max_completion_tokens", "max_tokens"}, 3),
        ("chat_completions", {"temperature"}, 2),
        ("chat_completions", {"json_schema"}, 3),
        ("chat_completions", {"response_format"}, 4),
        ("chat_completions", {"max_completion_tokens", "max_tokens", "temperature", "response_format"}, 7),
        ("responses", {"max_output_tokens"}, 2),
        ("responses", {"temperature"}, 2),
        ("responses", {"json_schema"}, 3),
        ("responses", {"text"}, 4),
        ("responses", {"max_output_tokens", "temperature", "text"}, 6),
    ],
)
async def test_a_form_is_learnt_once(
    sandbox: Sandbox, metrics: Metrics, tmp_path: Path, api: str, refused: set[Any], calls: int
) -> None:
    """Each refused parameter costs one free call; the form is stored over a restart, and the answer fits throughout."""
    sandbox.chat.refuses = refused
    memory = ModelMemory(tmp_path, FORMS_FILES[api])
    chat = openai_chat(sandbox, api, metrics, memory)
    for expected in (calls, calls + 1):
        answer = await chat.complete(request(temperature=0.5))
        Draft202012Validator(SCHEMA).validate(orjson.loads(answer.text))
        assert sandbox.stats.model_requests == expected
    await chat.aclose()
    again = openai_chat(sandbox, api, metrics, memory)
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
        ({"content": '{"output": []}'}, InvalidAnswer),
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


@pytest.mark.parametrize("status", [404, 405])
async def test_a_server_without_the_responses_api(sandbox: Sandbox, metrics: Metrics, status: int) -> None:
    """The error names CHAT_API, also in ``doctor``; an unknown model is not mistaken for it."""
    chat = openai_chat(sandbox, "responses", metrics)
    await chat.check(MODEL)
    lacking = sandbox.faults.add("model", status=status, content='{"detail": "Not Found"}')
    for work in (chat.complete(request()), chat.check(MODEL)):
        with pytest.raises(
            Misconfigured, match=rf"no /responses \({status}\): set CHAT_API to chat_completions"
        ) as raised:
            await work
        assert raised.type is Misconfigured
    lacking.content = '{"error": {"message": "no", "code": "model_not_found"}}'
    with pytest.raises(ModelRefused):
        await chat.complete(request())
    await chat.aclose()
