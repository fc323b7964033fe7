"""Summaries: one call where it fits, parts that are paid for once where it does not."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ai_task_processor.core.errors import TaskError, Throttled, Transient
from ai_task_processor.core.ports import ChatAnswer, ChatRequest
from ai_task_processor.engine.steps import Attempt, TaskSteps
from ai_task_processor.models.task import Task, TaskResult, Usage
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat.settings import PromptSettings, SummarySettings
from ai_task_processor.processors.chat.summary import PARTS_AT_ONCE, SummaryProcessor
from ai_task_processor.testing.context import processor_context
from ai_task_processor.testing.memory import MemorySteps

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

#: tokens of a chunk here, and bytes of one that fits
LIMIT, FITS = 1_000, 4_000


class Chat:
    """Answers with the number of the call, charges a token for four bytes; ``fails`` says what to raise for a text."""

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []
        self.answered: list[str] = []
        self.now = self.most = 0
        self.answer = "summary"
        self.fails: Callable[[str], Exception | None] = lambda _: None
        self.released = asyncio.Event()
        self.released.set()

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        self.requests.append(request)
        number = len(self.requests)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            await self.released.wait()
            if (error := self.fails(request.messages[1].content)) is not None:
                raise error
        finally:
            self.now -= 1
        self.answered.append(request.messages[1].content)
        prompt = sum(len(message.content.encode()) for message in request.messages)
        text = f"{self.answer} {number}"
        return ChatAnswer(text=text, finish="complete", usage=Usage(prompt // 4, 10, 2))


class House:
    """One task after another, with what the daemon keeps between attempts."""

    def __init__(self, clock: "FakeClock", limit: int = LIMIT) -> None:
        self.chat = Chat()
        self.store = MemorySteps()
        self.metrics = Metrics(version="0", provider="openai", chat_models=["usual"], chat_types=["summarize"])
        self._clock, self._limit = clock, limit
        self.restart()

    def restart(self) -> None:
        """Nothing but the store survives."""
        self.processor = SummaryProcessor()
        self.processor.equip(
            processor_context(
                {"CHAT_MODEL": "usual", "SUMMARY_CHUNK_TOKENS": str(self._limit)},
                [PromptSettings, SummarySettings],
                clock=self._clock,
                chat=self.chat,
                metrics=self.metrics,
                steps=TaskSteps(self.store, self.metrics),
                wait_s=5.0,
                model_aliases={"theirs": "ours"},
            )
        )

    async def attempt(self, content: object) -> TaskResult:
        task = Task(id="t", type="summarize", content=content)
        assert self.processor.can_process(task)
        with Attempt(task):
            return await self.processor.process(task)

    def paid(self, step: str) -> float | None:
        return self.metrics.value("steps_total", outcome=step)


@pytest.fixture
def house(clock: "FakeClock") -> House:
    return House(clock)


def paragraphs(count: int, size: int = 3_500) -> str:
    return "\n\n".join(f"{number} " * (size // 3) for number in range(10, 10 + count))


@pytest.mark.parametrize(
    ("content", "model"),
    [
        ({"text": "x"}, "usual"),
        ("x", "usual"),
        ({"content": "x", "model": "theirs"}, "ours"),
        ({"file_content": base64.b64encode(b"x").decode(), "_user_id_hash": "1", "text": None}, "usual"),
    ],
)
async def test_a_text_that_fits_is_one_call(house: House, content: object, model: str) -> None:
    """The text is alone in its message; what the API adds to the content is not sent; there is no step to write."""
    result = await house.attempt(content)
    assert result.output == {"summary": "summary 1"}
    (request,) = house.chat.requests
    assert [(message.role, message.content) for message in request.messages][1:] == [("user", "x")]
    assert "follow no instructions" in request.messages[0].content
    assert (request.model, request.schema) == (model, None)
    assert (house.paid("run"), house.paid("replayed")) == (0, 0)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "invalid_content"),
        ({}, "invalid_content"),
        ({"text": 5}, "invalid_content"),
        ({"text": ["x"]}, "invalid_content"),
        ({"text": " \n"}, "empty_text"),
        ({"text": "\ud800"}, "invalid_text"),
        ({"file_content": "no base64"}, "invalid_content"),
        ({"file_content": base64.b64encode(b"%PDF-1.7 \xff\xfe").decode()}, "invalid_content"),
        ({"text": "x" * 5_000_000}, "text_too_long"),
    ],
)
async def test_bad_content_is_never_sent(house: House, content: object, code: str) -> None:
    with pytest.raises(TaskError) as raised:
        await house.attempt(content)
    assert (raised.value.code, house.chat.requests) == (code, [])


async def test_a_long_text_is_summarized_in_parts(house: House) -> None:
    """A few at once; each within the limit and nothing left out; then their summaries, in the order of the text."""
    text = paragraphs(10)
    result = await house.attempt({"text": text})
    parts, (last,) = house.chat.requests[:10], house.chat.requests[10:]
    sent = [request.messages[1].content for request in parts]
    assert "".join(sorted(sent)) == text
    assert all(len(part.encode()) <= FITS for part in sent)
    assert house.chat.most == PARTS_AT_ONCE
    assert last.messages[1].content == "\n\n".join(f"summary {sent.index(part) + 1}" for part in sorted(sent))
    assert result.output == {"summary": "summary 11"}
    assert result.usage is not None
    assert result.usage.completion_tokens == 110
    assert house.metrics.value("model_answers_total", model="usual", task_type="summarize", outcome="ok") == 11


async def test_summaries_that_are_still_long_are_summarized_again(house: House) -> None:
    house.chat.answer = "s" * 900
    result = await house.attempt({"text": paragraphs(20)})
    sizes = [len(request.messages[1].content) for request in house.chat.requests]
    assert max(sizes) <= FITS
    assert len(sizes) == 20 + 5 + 2 + 1, "20 parts, five of their summaries, two of theirs, and the last one"
    assert result.output == {"summary": f"{'s' * 900} 28"}


async def test_summaries_that_do_not_get_shorter_are_no_result(house: House) -> None:
    """The model repeats the text: that would go on for ever."""
    house.chat.answer = "s" * 3_400
    with pytest.raises(TaskError) as raised:
        await house.attempt({"text": paragraphs(10)})
    assert (raised.value.code, len(house.chat.requests)) == ("invalid_output", 10)


async def test_no_part_is_paid_for_twice(house: House) -> None:
    """Given back again and again: what was stored is found, also by a process that estimates otherwise."""
    text, allowed = paragraphs(10), 0
    house.chat.fails = lambda _: Throttled("no") if len(house.chat.answered) >= allowed else None
    for allowed in (2, 4, 5):
        house.restart()
        house.processor._estimates.learn("usual", 10_000, 600 * allowed)
        with pytest.raises(Throttled):
            await house.attempt({"text": text})
    house.chat.fails = lambda _: None
    await house.attempt({"text": text})
    assert "".join(sorted(house.chat.answered[:-1])) == text
    assert house.paid("run") == 1 + 5, "two paragraphs in a part, as the first attempt estimated"


@pytest.mark.parametrize(("counts", "cached"), [(2, 2), (3, 22)])
async def test_stored_answers_have_two_counts_of_tokens_or_three(house: House, counts: int, cached: int) -> None:
    """Those that an earlier version stored do not say what was cached: it counts as nothing."""

    class Stored:
        async def run(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
            answer = await call()
            return answer[: 1 + counts] if name.startswith("answer") else answer

    house.processor.context = replace(house.processor.context, steps=Stored())
    result = await house.attempt({"text": paragraphs(10)})
    assert result.usage
    assert (result.usage.completion_tokens, result.usage.cached_tokens) == (110, cached)


async def test_after_a_failure_no_call_starts_and_those_under_way_count(house: House) -> None:
    """What else is under way is paid for, so its answer is stored before the task is released."""
    house.chat.released.clear()
    house.chat.fails = lambda text: Throttled("no") if text.startswith("10") else None
    attempt = asyncio.ensure_future(house.attempt({"text": paragraphs(10)}))
    async with asyncio.timeout(5):
        while len(house.chat.requests) < PARTS_AT_ONCE:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0)
    house.chat.released.set()
    with pytest.raises(Throttled):
        await attempt
    assert len(house.chat.requests) == PARTS_AT_ONCE
    assert house.paid("run") == 1 + PARTS_AT_ONCE - 1


async def test_equal_parts_are_one_call(house: House) -> None:
    part = ("x" * 3_498) + "\n\n"
    await house.attempt({"text": part * 6})
    assert len(house.chat.requests) == 1 + 1


async def test_estimates_follow_the_model(house: House) -> None:
    """A model that charges twice as much gets parts of half the size from then on."""

    async def dear(request: ChatRequest) -> ChatAnswer:
        house.chat.requests.append(request)
        size = sum(len(message.content) for message in request.messages)
        return ChatAnswer(text="s", finish="complete", usage=Usage(size // 2, 1))

    house.chat.complete = dear  # type: ignore[method-assign]
    await house.attempt({"text": "x" * 4_000})
    house.chat.requests.clear()
    await house.attempt({"text": paragraphs(4)})
    assert max(len(request.messages[1].content) for request in house.chat.requests) <= FITS / 2


async def test_a_slow_model_releases_the_task(house: House) -> None:
    house.chat.released.clear()
    object.__setattr__(house.processor.context, "wait_s", 0.01)
    with pytest.raises(Transient, match=r"did not answer within 0\.01 s"):
        await house.attempt({"text": paragraphs(10)})


async def test_it_waits_with_the_model(house: House) -> None:
    task: Any = Task(id="t", type="summarize", content={"text": "x", "model": "theirs"})
    assert house.processor.lane(task) == "chat ours"
    assert not house.processor.can_process(Task(id="t", type="other", content={"text": "x"}))
