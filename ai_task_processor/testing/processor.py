"""The contract suite of processors (``processors.base.BaseProcessor``): ``check_processor``."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from ai_task_processor.core.errors import TaskError
from ai_task_processor.core.records import to_outcome, to_record
from ai_task_processor.models.task import Completed, Receipt, Task, TaskResult
from ai_task_processor.processors.base import BaseProcessor

#: unusual contents that a task may have
STRANGE: Sequence[object] = (None, "", 0, [], {}, {"text": None}, {"text": "\ud800"}, [[[]]], "x" * 100_000)


@dataclass
class ProcessorCase:
    """A processor with its context. ``good`` tasks end with a result, ``bad`` ones with a ``TaskError``."""

    processor: BaseProcessor
    good: Sequence[Task]
    bad: Sequence[Task] = ()


ProcessorPromise = Callable[[ProcessorCase], Awaitable[None]]


async def check_processor(make: Callable[[], AbstractAsyncContextManager[ProcessorCase]]) -> None:
    """Run every promise. Raises ``AssertionError``."""
    for promise in PROCESSOR_PROMISES:
        async with make() as case:
            await promise(case)


async def it_knows_its_tasks(case: ProcessorCase) -> None:
    """It accepts its types, whatever the content; strange content and unknown types raise nothing."""
    for task in (*case.good, *case.bad):
        assert case.processor.can_process(task)
        assert case.processor.hold_s() >= 0
        lane = case.processor.lane(task)
        assert lane is None or case.processor.lane_hold_s(lane, 0) >= 0
    for content in STRANGE:
        assert not case.processor.can_process(Task(id="x", type="a type that nobody has", content=content))
        case.processor.lane(Task(id="x", type=case.good[0].type, content=content))


async def good_tasks_have_results_that_can_be_stored(case: ProcessorCase) -> None:
    """The results are JSON without NaN, and can be read back."""
    for task in case.good:
        result = await case.processor.process(task)
        assert isinstance(result, TaskResult)
        record = to_record(task, Receipt("testing", task.id), Completed(result), 0.0)
        assert isinstance(to_outcome(record), Completed)


async def bad_tasks_fail_with_a_code(case: ProcessorCase) -> None:
    """The task's own fault is a ``TaskError`` with a short constant code."""
    for task in case.bad:
        code = ""
        try:
            await case.processor.process(task)
        except TaskError as error:
            code = error.code
        assert 0 < len(code) <= 64, f"{task.id} has no short code"


PROCESSOR_PROMISES: Sequence[ProcessorPromise] = (
    it_knows_its_tasks,
    good_tasks_have_results_that_can_be_stored,
    bad_tasks_fail_with_a_code,
)
