"""Text embedding: which contents are understood, which model is asked, and what the result looks like."""

from typing import Any

import pytest

from ai_task_processor.core.errors import InputRefused, TaskError, Transient
from ai_task_processor.models.task import Task, TaskResult, TaskType
from ai_task_processor.processors.embedding.processor import TextEmbeddingProcessor
from ai_task_processor.testing.context import processor_context
from tests.unit.conftest import FakeClock
from tests.unit.processors.embedder import USAGE, VECTOR, Embedder


@pytest.fixture
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def processor(clock: FakeClock, embedder: Embedder) -> TextEmbeddingProcessor:
    return equipped(clock, embedder)


def equipped(clock: FakeClock, embedder: Embedder | None, **changes: Any) -> TextEmbeddingProcessor:
    processor = TextEmbeddingProcessor()
    options = {"wait_s": 5.0, "default_model": "usual", "model_aliases": {"theirs": "ours", "usual": "really"}}
    processor.kit = processor_context(clock=clock, embedder=embedder, **{**options, **changes})
    return processor


def task(content: object, kind: TaskType | str = TaskType.TEXT_EMBEDDING) -> Task:
    return Task(id="a", type=kind, content=content)


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        ("plain", ("plain", "really")),
        ({"text": "t"}, ("t", "really")),
        ({"text": "t", "model": None}, ("t", "really")),
        ({"text": "t", "model": ""}, ("t", "really")),
        ({"text": "t", "model": "another"}, ("t", "another")),
        ({"text": "t", "model": "theirs"}, ("t", "ours")),
        ({"text": "t", "model": "m" * 256}, ("t", "m" * 256)),
        ({"text": " ", "more": {"is": "ignored"}}, (" ", "really")),
    ],
)
async def test_forms_of_content(
    processor: TextEmbeddingProcessor, embedder: Embedder, content: object, asked: tuple[str, str]
) -> None:
    """A plain string or an object with a text; the model is the task's or the default, by its provider's name."""
    assert await processor.process(task(content)) == TaskResult(usage=USAGE, vector=VECTOR)
    assert embedder.asked == [asked]


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("", "empty_text", "the text is empty"),
        ({"text": ""}, "empty_text", "the text is empty"),
        ({}, "invalid_content", "not a valid text embedding content: text"),
        ({"text": 7}, "invalid_content", "not a valid text embedding content: text"),
        ({"text": None}, "invalid_content", "not a valid text embedding content: text"),
        ({"text": b"x"}, "invalid_content", "not a valid text embedding content: text"),
        ({"text": "t", "model": 7}, "invalid_content", "not a valid text embedding content: model"),
        ({"text": "t", "model": "m" * 257}, "invalid_content", "not a valid text embedding content: model"),
        ({"text": [], "model": {}}, "invalid_content", "not a valid text embedding content: model, text"),
        (["text"], "invalid_content", "not a valid text embedding content: content"),
        (None, "invalid_content", "not a valid text embedding content: content"),
        (7, "invalid_content", "not a valid text embedding content: content"),
    ],
)
async def test_other_content_is_the_tasks_own_fault(
    processor: TextEmbeddingProcessor, embedder: Embedder, content: object, code: str, message: str
) -> None:
    """The failure names the field, repeats nothing of it, and no model is asked."""
    with pytest.raises(TaskError) as caught:
        await processor.process(task(content))
    assert (caught.value.code, caught.value.message) == (code, message)
    assert caught.value.__cause__ is None
    assert embedder.asked == []


async def test_the_result_as_an_object(clock: FakeClock, embedder: Embedder) -> None:
    """On request the vector stands beside its model (by the name in the task), its dimensions and the usage."""
    processor = equipped(clock, embedder, result_as_object=True)
    result = await processor.process(task({"text": "t", "model": "theirs"}))
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    assert result == TaskResult({"model": "theirs", "dimensions": 3, "usage": usage}, usage=USAGE, vector=VECTOR)


async def test_a_slow_model_is_not_the_tasks_fault(clock: FakeClock, embedder: Embedder) -> None:
    embedder.hangs = True
    with pytest.raises(Transient, match=r"within 0\.01 s"):
        await equipped(clock, embedder, wait_s=0.01).process(task("t"))


async def test_a_refused_text_is_the_tasks_fault(processor: TextEmbeddingProcessor, embedder: Embedder) -> None:
    embedder.error = InputRefused("text_too_long")
    with pytest.raises(InputRefused):
        await processor.process(task("t"))


def test_whose_tasks_it_takes(clock: FakeClock, embedder: Embedder) -> None:
    """Text embeddings, by either spelling, as long as a model is configured."""
    processor = equipped(clock, embedder)
    assert processor.can_process(task("t", TaskType.named("text-embedding")))
    assert not processor.can_process(task("t", "image_caption"))
    assert not equipped(clock, None).can_process(task("t"))
    assert processor.task_types == {"text_embedding"}


def test_it_holds_as_long_as_its_model_does(clock: FakeClock, embedder: Embedder) -> None:
    """A paused model pauses claiming; without a model there is nothing to wait for."""
    embedder.held_s = 3.0
    assert equipped(clock, embedder).hold_s() == 3.0
    assert equipped(clock, None).hold_s() == 0.0
