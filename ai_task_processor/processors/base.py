"""The door for processors: everything a plug-in author imports stands here."""

from abc import ABC, abstractmethod
from math import inf
from typing import ClassVar

from ai_task_processor.core import checks
from ai_task_processor.core.checks import Check
from ai_task_processor.core.component import Component, Problem
from ai_task_processor.core.errors import Retry, TaskError
from ai_task_processor.core.groups import Group, setting
from ai_task_processor.models.task import Task, TaskResult, Usage, Vector
from ai_task_processor.processors.context import Kit, ProcessorContext

__all__ = [
    "BaseProcessor",
    "Check",
    "Group",
    "Kit",
    "Problem",
    "ProcessorContext",
    "Retry",
    "Task",
    "TaskError",
    "TaskResult",
    "Usage",
    "Vector",
    "checks",
    "setting",
]


class BaseProcessor(Component, ABC):
    """Turns tasks of some types into results. One instance serves many tasks at the same time.

    It is made without arguments; ``context`` is set before its first task, and ``run`` (see ``Component``) is its
    life, for what it has to open and close.
    """

    context: ProcessorContext
    #: the task types it serves, for the metrics' closed label set; without it they count as ``other``
    task_types: ClassVar[frozenset[str]] = frozenset()
    #: the settings it reads, as ``context.settings[AGroup]``
    settings_groups: ClassVar[tuple[type[Group], ...]] = ()

    @property
    def kit(self) -> ProcessorContext:
        """``context`` by its name of before."""
        return self.context

    @kit.setter
    def kit(self, context: ProcessorContext) -> None:
        self.context = context

    @abstractmethod
    def can_process(self, task: Task) -> bool:
        """Is this task ours? Cheap and without IO: asked for every listed task."""

    def hold_s(self) -> float:
        """For how many seconds none of its tasks should be claimed (a paused remote); 0 for now."""
        return 0.0

    def lane(self, task: Task) -> str | None:  # noqa: ARG002 - for processors that know one
        """What the task shares with others of its kind, and may hold up all of them (a model); None for nothing.

        Cheap and without IO: asked for every listed task.
        """
        return None

    def lane_hold_s(self, lane: str, running: int) -> float:  # noqa: ARG002 - as above
        """For how many seconds no task of this lane should be started, when so many run; 0 for now."""
        return 0.0

    def resumes_in_s(self) -> float:
        """Seconds until some lane that is held may be tried again; infinite when none is."""
        return inf

    @abstractmethod
    async def process(self, task: Task) -> TaskResult:
        """Make the result; awaits must be cancellable.

        Raise ``TaskError(code, message)`` when the task itself is at fault: it ends ``failed``. Raise
        ``Retry(delay_s)`` to give it back untried. Any other exception, or the ``TASK_TIMEOUT``, is an
        attempt: after three the task ends ``failed`` with ``processor_error``.
        """
