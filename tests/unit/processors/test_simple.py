"""echo, sleep and simulate: results, limits and codes of the upstream that has them."""

from typing import TYPE_CHECKING

import pytest

from ai_task_processor.core.errors import ConfigurationError, TaskError
from ai_task_processor.models.task import Task
from ai_task_processor.processors.base import BaseProcessor
from ai_task_processor.processors.simple import EchoProcessor, SimulateProcessor, SimulationSettings, SleepProcessor
from ai_task_processor.testing.context import processor_context

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

REJECTED, EXCEEDED = "task_rejected_invalid_params", "task_runtime_exceeded"


async def run(processor: BaseProcessor, clock: "FakeClock", content: object, **environ: str) -> object:
    processor.equip(processor_context(environ, [SimulationSettings], clock=clock))
    (task_type,) = processor.task_types
    task = Task(id="t", type=task_type, content=content)
    assert processor.can_process(task)
    assert not processor.can_process(Task(id="t", type="other", content=content))
    return (await processor.process(task)).output


@pytest.mark.parametrize("content", [{}, {"msg": "héllo", "n": [1, None]}])
async def test_echo(clock: "FakeClock", content: object) -> None:
    assert await run(EchoProcessor(), clock, content) == content


@pytest.mark.parametrize("seconds", [0, 2, 0.5])
async def test_sleep(clock: "FakeClock", seconds: float) -> None:
    began = clock.monotonic()
    assert await run(SleepProcessor(), clock, {"seconds": seconds}) == {"slept_seconds": seconds}
    assert clock.monotonic() - began == seconds


async def test_simulated_work_takes_what_is_set(clock: "FakeClock") -> None:
    """Within the range, or exactly the number, whatever the content."""
    for setting, least, most in (("", 6, 7), ("0.1-0.2", 0.1, 0.2), ("3", 3, 3)):
        began = clock.monotonic()
        found = await run(SimulateProcessor(), clock, None, **{"SIMULATED_WORK_SECONDS": setting} if setting else {})
        assert found == {"worked_seconds": pytest.approx(clock.monotonic() - began)}
        assert least <= clock.monotonic() - began <= most


@pytest.mark.parametrize(
    ("processor", "content", "environ", "code"),
    [
        (EchoProcessor(), None, {}, REJECTED),
        (EchoProcessor(), "x", {}, REJECTED),
        (EchoProcessor(), [1], {}, REJECTED),
        (SleepProcessor(), {}, {}, REJECTED),
        (SleepProcessor(), 5, {}, REJECTED),
        (SleepProcessor(), {"seconds": True}, {}, REJECTED),
        (SleepProcessor(), {"seconds": "5"}, {}, REJECTED),
        (SleepProcessor(), {"seconds": -1}, {}, REJECTED),
        (SleepProcessor(), {"seconds": float("nan")}, {}, REJECTED),
        (SleepProcessor(), {"seconds": 10**400}, {}, REJECTED),
        (SleepProcessor(), {"seconds": 300}, {}, EXCEEDED),
        (SleepProcessor(), {"seconds": 601}, {"TASK_TIMEOUT": "3000"}, EXCEEDED),
        (SimulateProcessor(), {}, {"TASK_TIMEOUT": "5"}, EXCEEDED),
    ],
)
async def test_what_cannot_be_done_fails_at_once(
    clock: "FakeClock", processor: BaseProcessor, content: object, environ: dict[str, str], code: str
) -> None:
    began = clock.monotonic()
    with pytest.raises(TaskError) as raised:
        await run(processor, clock, content, **environ)
    assert (raised.value.code, clock.monotonic()) == (code, began)


@pytest.mark.parametrize("text", ["7-6", "-1", "x", "1-2-3", "nan", "0-601", "inf"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="SIMULATED_WORK_SECONDS"):
        processor_context({"SIMULATED_WORK_SECONDS": text}, [SimulationSettings])
