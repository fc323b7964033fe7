"""Decides whether a listed task may start now, and why not."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from ai_task_processor.core import codec
from ai_task_processor.core.ports import Held, Outbox, SkipReason
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.models.task import Claim, Task

NO_LIMITS: Mapping[str, int] = MappingProxyType({})


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
    """The tasks in slots by id, and their numbers per lane and per type."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Counter[str] = Counter()
        self.types: Counter[str] = Counter()

    def __setitem__(self, task_id: str, task: Running) -> None:
        super().__setitem__(task_id, task)
        self.types[task.claim.task.type] += 1
        if task.lane is not None:
            self.lanes[task.lane] += 1

    def __delitem__(self, task_id: str) -> None:
        self.pop(task_id)

    def pop(self, task_id: str) -> Running:  # type: ignore[override]  # without a default: it must be there
        """Take a task out of its slot."""
        task = super().pop(task_id)
        task_type = task.claim.task.type
        self.types[task_type] -= 1
        if not self.types[task_type]:
            del self.types[task_type]
        if task.lane is not None:
            self.lanes[task.lane] -= 1
            if not self.lanes[task.lane]:
                del self.lanes[task.lane]
        return task


#: whether tasks of a processor and a lane must wait while so many of the lane are admitted: looked up once for a page
_Paused = dict[tuple[Holding, str | None], tuple[int, bool]]


class Admitted:
    """The tasks that one claim has let start, at most ``limit``: they do not run yet, and count like those that do.

    Further ones are not for this claim but candidates for later ones: once it is ``full`` nothing counts.
    ``limited``: how many tasks of each type its limit kept out.
    """

    def __init__(self, limit: int = 0) -> None:
        self.full = limit <= 0
        self.ids: set[str] = set()
        self.limited: Counter[str] = Counter()
        self._limit = limit
        self._lanes: dict[str | None, int] = {}
        self._types: dict[str, int] = {}

    def add(self, task: Task, lane: str | None) -> None:
        """Count a task that may start now."""
        self.ids.add(task.id)
        self._lanes[lane] = self._lanes.get(lane, 0) + 1
        self._types[task.type] = self._types.get(task.type, 0) + 1
        self.full = len(self.ids) >= self._limit

    def of_lane(self, lane: str | None) -> int:
        """How many of a lane count; 0 for tasks without one."""
        return 0 if self.full or lane is None else self._lanes.get(lane, 0)

    def of_type(self, task_type: str) -> int:
        """How many of a type count."""
        return 0 if self.full else self._types.get(task_type, 0)


class EngineAdmission:
    """``ports.Admission``: skips tasks that run, are in the outbox, or have no processor that accepts work now.

    A task that was in flight at two crashes waits for an isolated run; ``recovery`` decides when. ``limits``: the most
    tasks at once of some types. While ``stopped`` returns true nothing may start. ``begin`` announces the next claim.
    """

    def __init__(
        self,
        running: RunningTasks,
        outbox: Outbox,
        find: Callable[[Task], Holding | None],
        recovery: Recovery,
        *,
        limits: Mapping[str, int] = NO_LIMITS,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._running = running
        self._outbox = outbox
        self._recovery = recovery
        self._find = find
        self._limits = limits
        self._stopped = stopped
        self._admitted = Admitted()

    def begin(self, limit: int) -> None:
        """A claim of at most ``limit`` tasks begins: what ``refuse`` lets start is counted from now on."""
        self._admitted = Admitted(limit)

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
        if task.id in self._running:
            return "running"
        processor = self._find(task)
        if processor is None:
            return "unknown_type"
        waits = self._is_full(task.type, 0) or self._is_paused(processor, processor.lane(task), 0)
        return "paused" if waits else self._recovery.refuse(task.id)

    def _refuse(self, task: Task, held: Held | None, paused: _Paused) -> SkipReason | None:
        if task.id in self._running:
            return "running"
        # Dead letters and quarantine hold only for the same content: an edited task is a new one.
        if held is not None and (held.standing == "in_outbox" or held.fingerprint == codec.fingerprint(task.content)):
            return held.standing
        processor = self._find(task)
        if processor is None:
            return "unknown_type"
        admitted = self._admitted
        if task.id in admitted.ids:
            return None
        if task.type in self._limits and self._is_full(task.type, admitted.of_type(task.type)):
            admitted.limited[task.type] += 1
            return "paused"
        lane = processor.lane(task)
        key, count = (processor, lane), admitted.of_lane(lane)
        known = paused.get(key)
        if known is None or known[0] != count:
            known = paused[key] = count, self._is_paused(processor, lane, count)
        reason = "paused" if known[1] else self._recovery.refuse(task.id)
        if reason is None and not admitted.full:
            admitted.add(task, lane)
        return reason

    def lane(self, task: Task) -> str | None:
        """The lane that a task takes a slot for."""
        processor = self._find(task)
        return None if processor is None else processor.lane(task)

    @property
    def limited(self) -> Mapping[str, int]:
        """How many tasks of each type the last claim left because of its limit."""
        return self._admitted.limited

    @property
    def limitation(self) -> str | None:
        """Why tasks of some types wait although slots are free; None when none do."""
        running, limited = self._running.types, self._admitted.limited
        found = [
            f"{running[name]} of {self._limits[name]} {name} tasks run (CONCURRENCY_LIMITS), {count} wait"
            for name, count in limited.items()
            if running[name] >= self._limits[name]
        ]
        return "; ".join(found) or None

    def _is_full(self, task_type: str, admitted: int) -> bool:
        limit = self._limits.get(task_type)
        return limit is not None and self._running.types[task_type] + admitted >= limit

    def _is_paused(self, processor: Holding, lane: str | None, admitted: int) -> bool:
        if self._stopped() or processor.hold_s() > 0:
            return True
        return lane is not None and processor.lane_hold_s(lane, self._running.lanes[lane] + admitted) > 0
