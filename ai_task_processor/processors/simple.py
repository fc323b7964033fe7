"""Processors that call nobody: ``echo``, ``sleep`` and ``simulate``, for trials of an API and its daemon.

Their results, limits and error codes are those of the upstream ``task-runner``.
"""

import random
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from ai_task_processor.core.errors import TaskError
from ai_task_processor.core.groups import Group, setting
from ai_task_processor.models.task import Task, TaskResult, TaskType
from ai_task_processor.processors.base import BaseProcessor

#: the longest run of a task there, seconds
MAX_RUNTIME_S = 600.0
REJECTED, TOO_LONG = "task_rejected_invalid_params", "task_runtime_exceeded"


def _range(text: str) -> tuple[float, float]:
    first, _, last = text.partition("-")
    try:
        least, most = float(first), float(last or first)
    except ValueError:
        least = most = -1.0
    if not 0 <= least <= most <= MAX_RUNTIME_S:
        raise ValueError(f"must be seconds, or two with - between, from 0 to {MAX_RUNTIME_S:g}")
    return least, most


class SimulationSettings(Group):
    """How long the type ``simulate`` works."""

    section = "Other types"

    work_s: Annotated[tuple[float, float], BeforeValidator(_range)] = setting(
        "SIMULATED_WORK_SECONDS", "seconds of work of a task of the type simulate, or a range like 6-7", "6-7"
    )


class _Simple(BaseProcessor):
    def can_process(self, task: Task) -> bool:
        return task.type in self.task_types

    async def _work(self, seconds: float) -> None:
        """Raises ``TaskError`` when the time does not suffice: no later attempt would have more."""
        longest_s = min(MAX_RUNTIME_S, self.context.settings.worker.task_timeout_s)
        if seconds >= longest_s:
            raise TaskError(TOO_LONG, f"{seconds:g} s are more than a task may take ({longest_s:g} s)")
        await self.context.clock.sleep(seconds)


class EchoProcessor(_Simple):
    """Any object; the result is the same object."""

    task_types = frozenset({TaskType.ECHO})

    async def process(self, task: Task) -> TaskResult:
        if not isinstance(task.content, Mapping):
            raise TaskError(REJECTED, "content is no object")
        return TaskResult(task.content)


class SleepProcessor(_Simple):
    """``content``: ``seconds``. Result: ``{"slept_seconds": seconds}``."""

    task_types = frozenset({TaskType.SLEEP})

    async def process(self, task: Task) -> TaskResult:
        seconds = task.content.get("seconds") if isinstance(task.content, Mapping) else None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
            raise TaskError(REJECTED, "seconds is no number from 0 on")
        await self._work(seconds)
        return TaskResult({"slept_seconds": seconds})


class SimulateProcessor(_Simple):
    """A stand-in for work of ``SIMULATED_WORK_SECONDS``, whatever the content. Result: ``{"worked_seconds": 6.5}``."""

    task_types = frozenset({TaskType.SIMULATE})
    settings_groups: ClassVar = (SimulationSettings,)

    def __init__(self) -> None:
        self._rng = random.Random()  # noqa: S311 - how long it works, not secrets

    async def process(self, task: Task) -> TaskResult:  # noqa: ARG002 - its content does not matter
        seconds = round(self._rng.uniform(*self.context.settings[SimulationSettings].work_s), 3)
        await self._work(seconds)
        return TaskResult({"worked_seconds": seconds})
