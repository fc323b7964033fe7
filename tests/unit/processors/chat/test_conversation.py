"""Tasks that bring their own messages: what is sent, what is a result, and which schemas of strangers are refused."""

from typing import TYPE_CHECKING, Any

import pytest

from ai_task_processor.core.errors import TaskError
from ai_task_processor.models.task import Task, TaskResult, Usage
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat.conversation import ConversationProcessor
from ai_task_processor.processors.chat.settings import PromptSettings
from ai_task_processor.testing.context import processor_context
from tests.unit.processors.chat.test_processor import Chat, answer

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{ x }}", "name": "ignored"}]
LEVEL = {"type": "object", "required": ["level"], "properties": {"level": {"enum": ["high", "low"]}}}


async def run(clock: "FakeClock", chat: Chat, content: object) -> TaskResult:
    processor = ConversationProcessor()
    metrics = Metrics(version="0", provider="openai", chat_models=["usual"], chat_types=["chat"])
    processor.equip(
        processor_context({"CHAT_MODEL": "usual"}, [PromptSettings], clock=clock, chat=chat, metrics=metrics)
    )
    task = Task(id="t", type="chat", content=content)
    assert processor.can_process(task)
    assert str(processor.lane(task)).startswith("chat ")
    return await processor.process(task)


async def test_a_conversation_is_answered_with_a_text(clock: "FakeClock") -> None:
    """Its messages are sent as they are: nothing in them is a template."""
    chat = Chat([answer(" So be it.\n")])
    result = await run(clock, chat, {"messages": SAID, "model": "own", "max_tokens": 7, "temperature": 1})
    assert (result.output, result.usage) == ({"text": "So be it."}, Usage(10, 1))
    (request,) = chat.requests
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "{{ x }}"),
    ]
    assert (request.model, request.max_tokens, request.temperature, request.schema) == ("own", 7, 1, None)


@pytest.mark.parametrize(
    ("schema", "said", "output"),
    [
        (LEVEL, '{"level": "low"}', {"level": "low"}),
        (LEVEL, 'Sure: {"level": "low"}', {"level": "low"}),
        ({"type": "array"}, "[]", []),
        ({"$defs": {"a": LEVEL}, "$ref": "#/$defs/a"}, '{"level": "low"}', {"level": "low"}),
        ({"properties": {"pattern": LEVEL}}, "{}", {}),
        ({}, "5", 5),
    ],
)
async def test_a_schema_makes_it_an_object(clock: "FakeClock", schema: Any, said: str, output: object) -> None:
    """The result is the value that fits, whatever stands around it."""
    chat = Chat([answer(said)])
    assert (await run(clock, chat, {"messages": SAID, "schema": schema})).output == output
    assert chat.requests[0].schema == schema


async def test_a_wrong_answer_is_asked_for_again(clock: "FakeClock") -> None:
    chat = Chat([answer('{"level": "extreme"}'), answer('{"level": "low"}')])
    assert (await run(clock, chat, {"messages": SAID, "schema": LEVEL})).output == {"level": "low"}
    assert [len(request.messages) for request in chat.requests] == [2, 4]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "x",
        {},
        {"messages": []},
        {"messages": "x"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": ["x"]}]},
        {"messages": SAID * 501},
        {"messages": SAID, "max_tokens": 0},
        {"messages": SAID, "max_tokens": True},
        {"messages": SAID, "temperature": 3},
        {"messages": SAID, "schema": []},
        {"messages": SAID, "schema": {"type": "nothing"}},
        {"messages": SAID, "schema": {"description": "x" * 2**16}},
        {"messages": SAID, "schema": {"properties": {"a": {"pattern": "(a+)+$"}}}},
        {"messages": SAID, "schema": {"items": [{"patternProperties": {}}]}},
        {"messages": SAID, "schema": {"$ref": "http://169.254.169.254/latest"}},
        {"messages": SAID, "schema": {"$ref": "file:///etc/passwd"}},
        {"messages": SAID, "schema": {"$ref": "#/$defs/nothing"}},
        {"messages": SAID, "schema": {"$id": "http://example.com/", "$ref": "#/$defs/a", "$defs": {"a": {}}}},
        {"messages": SAID, "schema": {"$dynamicRef": "#x"}},
    ],
)
async def test_bad_content_is_never_sent(clock: "FakeClock", content: object) -> None:
    chat = Chat([answer()])
    with pytest.raises(TaskError) as raised:
        await run(clock, chat, content)
    assert (raised.value.code, chat.requests) == ("invalid_content", [])
    assert 0 < len(raised.value.message) < 300


@pytest.mark.parametrize(
    ("schema", "said", "code"),
    [
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "{}", "invalid_content"),
        ({}, "null", "invalid_output"),
    ],
)
async def test_what_shows_only_in_the_answer(clock: "FakeClock", schema: Any, said: str, code: str) -> None:
    """A schema without end, and an answer that is no result."""
    with pytest.raises(TaskError) as raised:
        await run(clock, Chat([answer(said)]), {"messages": SAID, "schema": schema})
    assert raised.value.code == code
