"""Decides whether a listed task may start now, and why not."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ai_task_processor.core import codec
from ai_task_processor.core.ports import Held, Outbox, SkipReason
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.models.task import Claim, Task


class Holding(Protocol):
    """The part of a processor that admission needs."""

    def hold_s(self) -> float:
        """Seconds for which none of its tasks should be claimed."""

    def lane(self, task: Task) -> str | None:
        """The key of the limit that the task shares with others (such as its model); None for no limit."""

    def lane_hold_s(self, lane: str, running: int) -> float:
        """Seconds for which no task of this lane should be started while ``running`` of its tasks run."""


@dataclass(frozen=True, slots=True)
class Running:
    """A claim in its slot; ``started_at`` is on the monotonic clock."""

    claim: Claim
    started_at: float
    lane: str | None = None


class RunningTasks(dict[str, Running]):
    """The tasks in slots by id, and their number per lane."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Counter[str] = Counter()

    def __setitem__(self, task_id: str, task: Running) -> None:
        super().__setitem__(task_id, task)
        if task.lane is not None:
            self.lanes[task.lane] += 1

    def __delitem__(self, task_id: str) -> None:
        self.pop(task_id)

    def pop(self, task_id: str) -> Running:  # type: ignore[override]  # without a default: it must be there
        """Take a task out of its slot."""
        task = super().pop(task_id)
        if task.lane is not None:
            self.lanes[task.lane] -= 1
            if not self.lanes[task.lane]:
                del self.lanes[task.lane]
        return task


#: whether tasks of a processor and a lane must wait: looked up once for a page
_Paused = dict[tuple[Holding, str | None], bool]


class EngineAdmission:
    """``ports.Admission``: skips tasks that run, are in the outbox, or have no processor that accepts work now.

    A task that was in flight at two crashes waits for an isolated run; ``recovery`` decides when.
    """

    def __init__(
        self,
        running: RunningTasks,
        outbox: Outbox,
        find: Callable[[Task], Holding | None],
        recovery: Recovery,
    ) -> None:
        self._running = running
        self._outbox = outbox
        self._recovery = recovery
        self._find = find

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        held, found = await self._outbox.held(task_ids), dict[str, SkipReason]()
        for task_id in task_ids:
            if task_id in self._running:
                found[task_id] = "running"
            elif task_id in held and held[task_id].standing == "in_outbox":
                found[task_id] = "in_outbox"
            elif reason := self._recovery.refuse(task_id):
                found[task_id] = reason
        return found

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        held, paused = await self._outbox.held([task.id for task in tasks]), _Paused()
        return [self._refuse(task, held.get(task.id), paused) for task in tasks]

    def starts(self, task: Task) -> SkipReason | None:
        """Repeat ``refuse`` for a claimed task right before its start: tasks started since may have filled its lane."""
        return self._starts(task, {})

    def _starts(self, task: Task, paused: _Paused) -> SkipReason | None:
        if task.id in self._running:
            return "running"
        processor = self._find(task)
        if processor is None:
            return "unknown_type"
        key = processor, processor.lane(task)
        if key not in paused:
            paused[key] = self._is_paused(*key)
        return "paused" if paused[key] else self._recovery.refuse(task.id)

    def _refuse(self, task: Task, held: Held | None, paused: _Paused) -> SkipReason | None:
        if task.id in self._running:
            return "running"
        # Dead letters and quarantine hold only for the same content: an edited task is a new one.
        if held is not None and (held.standing == "in_outbox" or held.fingerprint == codec.fingerprint(task.content)):
            return held.standing
        return self._starts(task, paused)

    def lane(self, task: Task) -> str | None:
        """The lane that a task takes a slot for."""
        processor = self._find(task)
        return None if processor is None else processor.lane(task)

    def _is_paused(self, processor: Holding, lane: str | None) -> bool:
        if processor.hold_s() > 0:
            return True
        return lane is not None and processor.lane_hold_s(lane, self._running.lanes[lane]) > 0
