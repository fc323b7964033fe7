"""The base class of processors, and everything else that the author of one imports."""

from abc import ABC, abstractmethod
from math import inf
from typing import ClassVar

from ai_task_processor.core import checks
from ai_task_processor.core.checks import Check
from ai_task_processor.core.component import Component, Problem
from ai_task_processor.core.errors import Retry, TaskError
from ai_task_processor.core.groups import Group, setting
from ai_task_processor.core.settings import Settings
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

    It is made without arguments and is given its context (``equip``) before its first task. ``run`` (see
    ``Component``) opens and closes what it needs.
    """

    context: ProcessorContext
    #: the task types it serves, for the metrics' closed label set; without it they count as ``other``
    task_types: frozenset[str] = frozenset()
    #: does it use ``context.chat``?
    chats: bool = False
    #: the remotes that it has circuits for (``context.services.gate``), for the metrics' closed label set
    services: tuple[str, ...] = ()
    #: the settings it reads, as ``context.settings[AGroup]``
    settings_groups: ClassVar[tuple[type[Group], ...]] = ()

    @property
    def kit(self) -> ProcessorContext:
        """The former name of ``context``."""
        return self.context

    @kit.setter
    def kit(self, context: ProcessorContext) -> None:
        self.context = context

    def equip(self, context: ProcessorContext) -> None:
        """Take the context, once; the place to build what depends on it, such as the client of a remote."""
        self.context = context

    def configure(self, settings: Settings) -> None:
        """Read what decides its task types, once, before everything else. Raises ``ConfigurationError``."""

    @abstractmethod
    def can_process(self, task: Task) -> bool:
        """Does it serve this task? Called for every listed task: cheap and without IO."""

    def hold_s(self) -> float:
        """Seconds for which none of its tasks should be claimed (a paused remote); 0 when they may be now."""
        return 0.0

    def lane(self, task: Task) -> str | None:  # noqa: ARG002 - for processors that know one
        """The lane of a task: a resource that many tasks share and that may be paused (a model); None for none.

        Called for every listed task: cheap and without IO.
        """
        return None

    def lane_hold_s(self, lane: str, running: int) -> float:  # noqa: ARG002 - as above
        """Seconds for which no task of this lane should start while ``running`` of them run; 0 when one may now."""
        return 0.0

    def resumes_in_s(self) -> float:
        """Seconds until a paused lane may be tried again; infinite when none is paused."""
        return inf

    @abstractmethod
    async def process(self, task: Task) -> TaskResult:
        """Make the result; awaits must be cancellable.

        Raise ``TaskError(code, message)`` when the task itself is at fault: it ends ``failed``. Raise
        ``Retry(delay_s)`` to release it without counting an attempt. Any other exception, or the ``TASK_TIMEOUT``,
        counts as an attempt: after three the task ends ``failed`` with ``processor_error``.
        """
