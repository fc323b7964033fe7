"""The engine's word on a listed task: may it start now, and if not, why not."""

from collections.abc import Callable, Container
from typing import Protocol

from ai_task_processor import codec
from ai_task_processor.models.task import Task
from ai_task_processor.ports import Outbox, SkipReason
from ai_task_processor.recovery import Recovery


class Holding(Protocol):
    """A processor, as far as admission cares."""

    def hold_s(self) -> float:
        """For how many seconds none of its tasks should be claimed."""


class EngineAdmission:
    """``ports.Admission``: not what runs, not what is in the outbox, only what somebody can process now.

    What was in flight at two crashes waits for an isolated run: ``recovery`` says when.
    """

    def __init__(
        self,
        running: Container[str],
        outbox: Outbox,
        find: Callable[[Task], Holding | None],
        recovery: Recovery,
    ) -> None:
        self._running = running
        self._outbox = outbox
        self._recovery = recovery
        self._find = find

    def busy(self, task_id: str) -> SkipReason | None:
        if task_id in self._running:
            return "running"
        return "in_outbox" if self._outbox.holds(task_id) == "in_outbox" else self._recovery.refuse(task_id)

    def refuse(self, task: Task) -> SkipReason | None:
        if task.id in self._running:
            return "running"
        held = self._outbox.holds(task.id)
        if held in ("dead_letter", "quarantined"):
            # It stands for the content it was made of: an edited task is a new one.
            held = self._outbox.holds(task.id, codec.fingerprint(task.content))
        if held is not None:
            return held
        processor = self._find(task)
        if processor is None:
            return "unknown_type"
        return "paused" if processor.hold_s() > 0 else self._recovery.refuse(task.id)
