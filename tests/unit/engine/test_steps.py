"""Steps: each call of a task is made once, whatever happens between its answer and the task's outcome."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from ai_task_processor.core.errors import OutboxUnwritable, Transient
from ai_task_processor.engine import steps as engine_steps
from ai_task_processor.engine.steps import Attempt, TaskSteps
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.testing.memory import MemorySteps
from tests.unit.engine.parts import events, task


class Store(MemorySteps):
    """Counts commits; while ``broken`` it can neither be read nor written, and raises ``error``."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.error: BaseException = OutboxUnwritable("disk full")
        self.saved: list[tuple[str, str]] = []

    async def load(self, task_id: str, fingerprint: str) -> Any:
        self._check()
        return await super().load(task_id, fingerprint)

    def save(self, task_id: str, fingerprint: str, name: str, answer: bytes) -> asyncio.Future[None]:
        self._check()
        self.saved.append((task_id, name))
        return super().save(task_id, fingerprint, name, answer)

    async def erase(self, task_id: str) -> None:
        self._check()
        await super().erase(task_id)

    def _check(self) -> None:
        if self.broken:
            raise self.error


class Calls:
    """Makes calls that answer what they are told, and counts them."""

    def __init__(self) -> None:
        self.made: list[object] = []

    def __call__(self, answer: object, *, wait: asyncio.Event | None = None) -> Callable[[], Any]:
        async def call() -> object:
            self.made.append(answer)
            if wait is not None:
                await wait.wait()
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="0", provider="none")


@pytest.fixture
def steps(store: Store, metrics: Metrics) -> TaskSteps:
    return TaskSteps(store, metrics)


@pytest.fixture
def calls() -> Calls:
    return Calls()


class Shape(BaseModel):
    size: int


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("text \u2028 😀", "text \u2028 😀"),
        (None, None),
        ((1, 2**70), [1, 2**70]),
        ({"shape": Shape(size=3)}, {"shape": {"size": 3}}),
    ],
)
async def test_a_later_attempt_finds_the_answer(
    steps: TaskSteps, metrics: Metrics, calls: Calls, answer: object, read: object
) -> None:
    """The answer looks the same whether its call was made or not."""
    for _ in range(2):
        with Attempt(task(content={"text": "x"})):
            assert await steps.run("one", calls(answer)) == read
            assert await steps.run("one", calls(answer)) == read
    assert calls.made == [answer]
    assert metrics.value("steps_total", outcome="run") == 1
    assert metrics.value("steps_total", outcome="replayed") == 3


@pytest.mark.parametrize("other", [{"task_id": "b"}, {"content": "edited"}, {"type": "other"}])
async def test_another_task_has_steps_of_its_own(steps: TaskSteps, calls: Calls, other: dict[str, Any]) -> None:
    """Also one with the same id and other content: the answer would belong to the earlier text."""
    with Attempt(task(content="first")):
        assert await steps.run("one", calls("mine")) == "mine"
    with Attempt(task(**{"content": "first", **other})):
        assert await steps.run("one", calls("theirs")) == "theirs"


async def test_tasks_at_once_do_not_mix(steps: TaskSteps, calls: Calls) -> None:
    """Neither concurrent tasks nor the tasks of their groups: each step belongs to the attempt that started it."""

    async def process(task_id: str) -> list[str]:
        with Attempt(task(task_id)):
            async with asyncio.TaskGroup() as group:
                parts = [
                    group.create_task(steps.run(f"part {n}", calls(f"{task_id}{n}", wait=await _soon())))
                    for n in range(3)
                ]
            return [part.result() for part in parts]

    for _ in range(2):
        found = await asyncio.gather(*(process(task_id) for task_id in "abc"))
        assert found == [[f"{task_id}{n}" for n in range(3)] for task_id in "abc"]
    assert len(calls.made) == 9


async def _soon() -> asyncio.Event:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0, event.set)
    return event


async def test_a_name_that_is_under_way_is_waited_for(steps: TaskSteps, calls: Calls) -> None:
    """One call for both; when it fails, the second makes its own."""
    with Attempt(task()):
        wait = await _soon()
        both = await asyncio.gather(*(steps.run("one", calls("x", wait=wait)) for _ in range(2)))
        assert (both, calls.made) == (["x", "x"], ["x"])
        first = asyncio.ensure_future(steps.run("two", calls(Transient("no"), wait=await _soon())))
        await asyncio.sleep(0)
        assert await steps.run("two", calls("y")) == "y"
        with pytest.raises(Transient):
            await first


async def test_a_call_that_fails_is_made_again(steps: TaskSteps, store: Store, calls: Calls) -> None:
    """Nothing is stored, also when the answer is not JSON."""
    with Attempt(task()):
        with pytest.raises(Transient):
            await steps.run("one", calls(Transient("no")))
        with pytest.raises(ValueError, match="JSON"):
            await steps.run("one", calls(float("nan")))
        with pytest.raises(ValueError, match="not JSON"):
            await steps.run("one", calls(object()))
        assert store.saved == []
        assert await steps.run("one", calls("x")) == "x"


@pytest.mark.parametrize(
    "error", [OutboxUnwritable("disk full"), KeyError("no"), SystemExit(), asyncio.CancelledError()]
)
async def test_a_broken_disk_fails_no_task(steps: TaskSteps, store: Store, calls: Calls, error: BaseException) -> None:
    """An answer is used although it is not stored; when earlier answers cannot be read, the task is released. So it is
    with whatever the store of a package raises."""
    store.error = error
    with Attempt(task()), capture_logs() as logs:
        assert await steps.run("one", calls(1)) == 1
        store.broken = True
        for name in ("two", "three", "two"):
            assert await steps.run(name, calls(2)) == 2
        store.broken = False
        assert await steps.run("four", calls(3)) == 3
    assert calls.made == [1, 2, 2, 3], "an answer in memory serves the same attempt"
    assert events(logs) == ["steps.failed", "steps.restored"]
    store.broken = True
    with Attempt(task()), pytest.raises(Transient, match="cannot be read"):
        await steps.run("one", calls(4))
    await steps.erase("a")
    store.broken = False
    with Attempt(task()):
        assert await steps.run("one", calls(5)) == 1


async def test_a_cancellation_is_no_failure_of_the_disk(steps: TaskSteps, store: Store, calls: Calls) -> None:
    """It ends the attempt, whatever the store makes of it."""

    class Slow(Store):
        def save(self, *_: object) -> Any:
            async def commit() -> None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise KeyError from None

            return commit()

    with Attempt(task()), capture_logs() as logs:
        work = asyncio.ensure_future(TaskSteps(Slow(), steps._metrics).run("one", calls(1)))
        for _ in range(5):
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert logs == []


async def test_a_large_answer_is_not_stored(
    steps: TaskSteps, store: Store, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is too large, and those after which the task would have too much, are returned all the same."""
    monkeypatch.setattr(engine_steps, "MAX_ANSWER_BYTES", 102)
    monkeypatch.setattr(engine_steps, "MAX_TASK_BYTES", 204)
    for _ in range(2):
        with Attempt(task()), capture_logs() as logs:
            for name, size in (("much", 101), ("a", 100), ("b", 100), ("c", 1)):
                assert await steps.run(name, calls("x" * size)) == "x" * size
        assert [(line["event"], line["bytes"]) for line in logs] == [("step.not_stored", 103)]
    assert store.saved == [("a", "a"), ("a", "b")]
    assert [len(str(answer)) for answer in calls.made] == [101, 100, 100, 1, 101, 1]


async def test_steps_end_with_their_attempt(steps: TaskSteps, store: Store, calls: Calls) -> None:
    """Outside of one there is no task to keep an answer for; a call that outlives it stores nothing."""
    with pytest.raises(RuntimeError, match="while a processor works on a task"):
        await steps.run("one", calls(1))
    wait = asyncio.Event()
    with Attempt(task()):
        left = asyncio.ensure_future(steps.run("one", calls(1, wait=wait)))
        late = asyncio.ensure_future(_after(wait, lambda: steps.run("two", calls(2))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for name in ("", "x" * 201, "é" * 101, "\ud800"):
            with pytest.raises(ValueError, match=r"the name of a step|surrogates"):
                await steps.run(name, calls(1))
    wait.set()
    assert await left == 1
    with pytest.raises(RuntimeError):
        await late
    assert store.saved == []


async def _after(wait: asyncio.Event, call: Callable[[], Any]) -> Any:
    await wait.wait()
    return await call()
