"""``in_progress`` while a task is being worked on: a word for people and dashboards, and no claim.

It has no owner and no expiry upstream, and it takes the task out of the pending list: whoever says it must
take it back, even after a kill. So the store remembers what was marked, what does not end settled is set to
``pending`` again, and a mark whose answer was lost is followed, after the outcome was acknowledged, by the
bare final state: such a mark may arrive late, and a state without a result runs no callback.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf

from ai_task_processor.core.errors import Ambiguous, OutboxUnwritable, Rejected, RemoteError
from ai_task_processor.core.ports import Admission, Clock, SourceMemory
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.ops.logs import get_logger

TEND_S = 1.0
#: a claimed task runs after so long, or never
STARTED_AFTER_S = 5.0

log = get_logger(__name__)


class Marks:
    """``patch`` sets a bare state; ``late_s``: after so long a request without an answer is over.

    ``admission`` knows which tasks run or wait for their report: those stay marked.
    """

    def __init__(
        self,
        patch: Callable[[str, TaskStatus], Awaitable[None]],
        memory: SourceMemory,
        admission: Admission,
        *,
        late_s: float,
        clock: Clock,
    ) -> None:
        self._patch = patch
        self._memory = memory
        self._admission = admission
        self._late_s = late_s
        self._clock = clock
        #: marked and neither acknowledged nor set back
        self._marked: set[str] = set()
        #: claimed a moment ago: until when they need not be running yet
        self._claimed: dict[str, float] = {}
        self._unsure: set[str] = set()
        self._withdrawing: set[str] = set()
        self._repairs: dict[str, tuple[TaskStatus, float]] = {}

    async def begin(self, task_ids: Sequence[str]) -> list[bool]:
        """Mark these tasks; false for those that the source says are gone or somebody else's.

        Raises ``OutboxUnwritable``: then none is marked.
        """
        await self._memory.remember(task_ids, inf)
        self._marked.update(task_ids)
        self._claimed |= dict.fromkeys(task_ids, self._clock.monotonic() + STARTED_AFTER_S)
        return await asyncio.gather(*map(self._begin, task_ids))

    async def _begin(self, task_id: str) -> bool:
        try:
            await self._patch(task_id, TaskStatus.IN_PROGRESS)
        except Rejected as error:
            await self._forget(task_id)
            log.info("task.taken", task_id=task_id, reason=str(error))
            return False
        except Ambiguous:
            self._unsure.add(task_id)
        except RemoteError:
            pass  # the mark is a courtesy: work goes on without it
        return True

    async def withdraw(self, task_id: str) -> None:
        """Pending again; what does not succeed is tried again by ``run``.

        Once at a time: a second ``pending`` could arrive when the task has been started again.
        """
        if task_id in self._withdrawing or task_id not in self._marked:
            return
        self._withdrawing.add(task_id)
        self._claimed.pop(task_id, None)
        try:
            await self._patch(task_id, TaskStatus.PENDING)
        except Rejected:
            pass  # deleted, or final by somebody else's word
        except RemoteError:
            return
        finally:
            self._withdrawing.discard(task_id)
        self._unsure.discard(task_id)
        await self._forget(task_id)

    async def acknowledged(self, task_id: str, state: TaskStatus) -> None:
        """The upstream has the outcome. A mark that may still be on its way would overwrite it."""
        if task_id in self._unsure:
            self._unsure.discard(task_id)
            self._repairs[task_id] = state, self._clock.monotonic() + self._late_s
        await self._forget(task_id)

    async def run(self) -> None:
        """Repair until cancelled."""
        self._marked.update(await self._memory.remembered())
        while True:
            await self.tend()
            await self._clock.sleep(TEND_S)

    async def tend(self, *, leaving: bool = False) -> None:
        """Give back what is marked and not under way, and repeat final states when their time has come, or now."""
        busy, now = await self._admission.busy(list(self._marked)), self._clock.monotonic()
        for task_id in list(self._marked):
            if busy.get(task_id) in ("running", "in_outbox"):
                self._claimed.pop(task_id, None)
            elif leaving or now >= self._claimed.get(task_id, now):
                await self.withdraw(task_id)
        for task_id, (state, due_at) in list(self._repairs.items()):
            if leaving or now >= due_at:
                await self._repair(task_id, state)

    async def _forget(self, task_id: str) -> None:
        if task_id in self._marked:
            self._marked.discard(task_id)
            self._claimed.pop(task_id, None)
            with suppress(OutboxUnwritable):  # then the next start sets it to pending, which the API refuses
                await self._memory.forget([task_id])

    async def _repair(self, task_id: str, state: TaskStatus) -> None:
        try:
            await self._patch(task_id, state)
        except Rejected:
            pass
        except RemoteError:
            return
        del self._repairs[task_id]
        log.info("task.state_repaired", task_id=task_id, state=state)
