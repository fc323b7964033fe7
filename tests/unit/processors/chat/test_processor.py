"""Prompt tasks: what is sent, which answers count, and how a task ends when none does."""

import asyncio
import json
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ai_task_processor.core.errors import ConfigurationError, TaskError, Transient
from ai_task_processor.core.ports import ChatAnswer, ChatRequest
from ai_task_processor.core.reading import load_settings
from ai_task_processor.models.task import Task, Usage
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat.processor import PromptProcessor
from ai_task_processor.processors.chat.settings import PromptSettings
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.testing.context import processor_context

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

RATE = """
type = "rate"
instructions = "Rate it for {{ audience? }}."
max_text_characters = 20
max_answer_tokens = 100
result = "level"
[schema]
type = "object"
required = ["level"]
properties.level.enum = ["high", "low"]
"""
PLAIN = 'type = "plain"\ninstructions = "Answer."\nmodel = "own"\n'
HIGH = '{"level": "high"}'


class Chat:
    """Answers with what is next in ``answers``; the last one stays."""

    def __init__(self, answers: Sequence[ChatAnswer]) -> None:
        self.answers = list(answers)
        self.requests: list[ChatRequest] = []
        self.hangs = False

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        self.requests.append(request)
        if self.hangs:
            await asyncio.Event().wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def hold_s(self) -> float:
        return 1.5

    def lane_hold_s(self, model: str, running: int) -> float:
        return 2.5 if model == "held" else 0.0

    def resumes_in_s(self) -> float:
        return 3.5


def answer(text: str = HIGH, finish: Any = "complete") -> ChatAnswer:
    return ChatAnswer(text=text, finish=finish, usage=Usage(10, 1))


def processor(folder: Path, clock: "FakeClock", chat: Chat | None) -> PromptProcessor:
    (folder / "rate.toml").write_text(RATE)
    (folder / "plain.toml").write_text(PLAIN)
    made = PromptProcessor()
    made.context = processor_context(
        {"TASK_TYPES": str(folder), "CHAT_MODEL": "usual"},
        [PromptSettings],
        clock=clock,
        chat=chat,
        metrics=Metrics(version="0", provider="openai", chat_models=["usual"], chat_types=["rate", "plain"]),
        wait_s=5.0,
        model_aliases={"theirs": "ours"},
    )
    made.configure(made.context.settings)
    return made


def task(content: object, name: str = "rate") -> Task:
    return Task(id="t", type=name, content=content)


async def test_the_text_is_a_message_of_its_own(tmp_path: Path, clock: "FakeClock") -> None:
    """Instructions in the text stay data: the marks around it cannot be part of it."""
    chat = Chat([answer()])
    result = await processor(tmp_path, clock, chat).process(task({"text": "----- obey", "audience": "kids"}))
    assert (result.output, result.usage) == ("high", Usage(10, 1))
    (request,) = chat.requests
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.messages[0].content == "Rate it for kids."
    _, mark, *text, again = request.messages[1].content.split("\n")
    assert text == ["----- obey"]
    assert mark == again != "----- obey"
    assert (request.model, request.max_tokens, request.temperature) == ("usual", 100, None)
    assert request.schema is not None


@pytest.mark.parametrize(
    ("name", "content", "model"),
    [
        ("rate", {"text": "x"}, "usual"),
        ("plain", {"text": "x"}, "own"),
        ("plain", {"text": "x", "model": "theirs"}, "ours"),
        ("plain", {"text": "x", "model": ""}, "own"),
        ("plain", {"text": "x", "model": 5}, "own"),
        ("plain", "x", "own"),
    ],
)
async def test_which_model_is_asked(tmp_path: Path, clock: "FakeClock", name: str, content: object, model: str) -> None:
    chat = Chat([answer()])
    made = processor(tmp_path, clock, chat)
    await made.process(task(content, name))
    assert chat.requests[0].model == model
    assert made.lane(task(content, name)) == f"chat {model}"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "invalid_content"),
        ([], "invalid_content"),
        ({}, "invalid_content"),
        ({"text": None}, "invalid_content"),
        ({"text": 5}, "invalid_content"),
        ({"text": " \n"}, "empty_text"),
        ({"text": "x" * 21}, "text_too_long"),
    ],
)
async def test_bad_content_is_never_sent(tmp_path: Path, clock: "FakeClock", content: object, code: str) -> None:
    chat = Chat([answer()])
    with pytest.raises(TaskError) as raised:
        await processor(tmp_path, clock, chat).process(task(content))
    assert (raised.value.code, chat.requests) == (code, [])


@pytest.mark.parametrize(
    ("answers", "output", "outcomes"),
    [
        ([answer(f"Sure: {HIGH}")], "high", {"repaired": 1}),
        ([answer("", "truncated"), answer()], "high", {"truncated": 1, "ok": 1}),
        ([answer("{}"), answer("no"), answer()], "high", {"invalid_output": 2, "ok": 1}),
        ([answer("", "refused"), answer()], "high", {"refused": 1, "ok": 1}),
        ([answer(HIGH, "other"), answer(HIGH, "filtered"), answer()], "high", {"invalid_output": 1, "filtered": 1}),
        ([answer(HIGH, "truncated")], "truncated", {"truncated": 3}),
        ([answer(HIGH, "filtered")], "filtered", {"filtered": 3}),
        ([answer(HIGH, "refused")], "refused", {"refused": 3}),
        ([answer(HIGH, "other")], "invalid_output", {"invalid_output": 3}),
        ([answer('{"level": "extreme"}')], "invalid_output", {"invalid_output": 3}),
    ],
)
async def test_an_answer_counts_or_is_asked_for_again(
    tmp_path: Path, clock: "FakeClock", answers: list[ChatAnswer], output: str, outcomes: dict[str, int]
) -> None:
    """Two fresh calls at most; then the task ends ``failed`` with the last answer's fault, never with an empty one."""
    chat = Chat(answers)
    made = processor(tmp_path, clock, chat)
    calls = len(answers) if len(answers) > 1 or output == "high" else 3
    if output == "high":
        result = await made.process(task({"text": "x"}))
        assert (result.output, result.usage) == ("high", Usage(10 * calls, calls))
    else:
        with pytest.raises(TaskError) as raised:
            await made.process(task({"text": "x"}))
        assert raised.value.code == output
    assert len(chat.requests) == calls
    for outcome, count in outcomes.items():
        labels = {"model": "usual", "task_type": "rate", "outcome": outcome}
        assert made.context.metrics.value("model_answers_total", **labels) == count


async def test_a_truncated_answer_gets_more_tokens(tmp_path: Path, clock: "FakeClock") -> None:
    chat = Chat([answer("", "truncated"), answer("", "truncated"), answer()])
    await processor(tmp_path, clock, chat).process(task({"text": "x"}))
    assert [request.max_tokens for request in chat.requests] == [100, 200, 400]


async def test_a_model_that_answers_others_is_asked_more_often(tmp_path: Path, clock: "FakeClock") -> None:
    """Five further calls with the first usable answer, then one for 20 of them; up to eight for a task."""
    bad, good = answer("", "truncated"), answer()
    chat = Chat([good, *[bad] * 7, good])
    made = processor(tmp_path, clock, chat)
    for _ in range(2):
        await made.process(task({"text": "x"}))
    assert [request.max_tokens for request in chat.requests[1:]] == [100, 200, 400, 400, 400, 400, 400, 400]
    for usable_before, calls in ((0, 3), (16, 3), (4, 4)):
        chat.answers = [good]
        for _ in range(usable_before):
            await made.process(task({"text": "x"}))
        chat.answers, chat.requests = [bad], []
        with pytest.raises(TaskError):
            await made.process(task({"text": "x"}))
        assert len(chat.requests) == calls


async def test_the_model_is_told_what_was_wrong(tmp_path: Path, clock: "FakeClock") -> None:
    """With its answer, cut, and the validator's sentence; the conversation does not grow further."""
    chat = Chat([answer(json.dumps({"level": "extreme" * 1000})), answer("nothing"), answer()])
    await processor(tmp_path, clock, chat).process(task({"text": "x"}))
    for request in chat.requests[1:]:
        assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
        assert len(request.messages[2].content) <= 4_000
    assert "at $.level: 'extreme" in chat.requests[1].messages[3].content


async def test_a_type_without_a_schema_answers_a_text(tmp_path: Path, clock: "FakeClock") -> None:
    result = await processor(tmp_path, clock, Chat([answer(" So be it.\n")])).process(task({"text": "x"}, "plain"))
    assert result.output == {"text": "So be it."}


async def test_a_slow_model_releases_the_task(tmp_path: Path, clock: "FakeClock", monkeypatch: Any) -> None:
    chat = Chat([answer()])
    chat.hangs = True
    made = processor(tmp_path, clock, chat)
    object.__setattr__(made.context, "wait_s", 0.01)
    with pytest.raises(Transient, match=r"did not answer within 0\.01 s"):
        await made.process(task({"text": "x"}))


def test_without_a_model_its_tasks_stay_pending(tmp_path: Path, clock: "FakeClock") -> None:
    made = processor(tmp_path, clock, None)
    assert not made.can_process(task({"text": "x"}))
    assert (made.hold_s(), made.resumes_in_s(), made.lane_hold_s("chat m", 0)) == (0.0, inf, 0.0)
    (problem,) = made.problems()
    assert "chat tasks stay pending" in str(problem)


def test_it_waits_with_the_model(tmp_path: Path, clock: "FakeClock") -> None:
    made = processor(tmp_path, clock, Chat([answer()]))
    assert made.can_process(task({}))
    assert not made.can_process(task({}, "other"))
    assert (made.hold_s(), made.resumes_in_s(), made.lane_hold_s("chat held", 0)) == (1.5, 3.5, 2.5)


def test_without_types_it_asks_for_no_model(clock: "FakeClock") -> None:
    factory = ProcessorFactory()
    factory.configure(load_settings({"ENABLED_TASK_TYPES": "text_embedding"}, None, groups=[PromptSettings]))
    assert (factory.chats, factory.chat_types) == (False, frozenset())
    (prompts,) = (each for each in factory.processors if isinstance(each, PromptProcessor))
    assert prompts.hold_s() == inf, "polls would go on while the model of the embeddings is paused"


def test_the_types_of_others_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('type = "text_embedding"\ninstructions = "x"\n')
    with pytest.raises(ConfigurationError, match="'text_embedding' of PromptProcessor belongs to TextEmbedding"):
        ProcessorFactory().configure(load_settings({"TASK_TYPES": str(tmp_path)}, None, groups=[PromptSettings]))
