"""Marks tasks as ``in_progress`` while they run: information for people and dashboards, or a claim (``exclusive``).

The state has no owner and no expiry upstream, and removes the task from the pending list: it must be reset even after a
kill. So the store persists the marks, and a task that is not settled is set to ``pending`` again. After a mark without
an answer, which may arrive late, the final state is sent once more when the outcome was acknowledged; without a result
it runs no callback.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf

from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import Ambiguous, OutboxUnwritable, Rejected, RemoteError
from ai_task_processor.core.ports import Admission, Clock, SourceMemory
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.ops.logs import get_logger

TEND_S = 1.0
#: a claimed task that does not run after so long never will, seconds
STARTED_AFTER_S = 5.0

log = get_logger(__name__)


class Marks:
    """``patch`` sets a bare state; ``late_s``: a request without an answer cannot arrive later than this, seconds.

    ``within_s``: a mark without an answer holds up its task no longer than this. ``admission`` knows which tasks run or
    wait for their report: those stay marked. ``exclusive``: only a
    task whose mark was accepted starts. One whose mark had no clear answer is set to pending again: should another
    worker hold it by then it runs twice, where it would be lost otherwise.
    """

    def __init__(
        self,
        patch: Callable[[str, TaskStatus], Awaitable[None]],
        memory: SourceMemory,
        admission: Admission,
        *,
        late_s: float,
        within_s: float = inf,
        clock: Clock,
        exclusive: bool = False,
    ) -> None:
        self._patch = patch
        self._memory = memory
        self._admission = admission
        self._late_s = late_s
        self._exclusive = exclusive
        self._within_s = within_s
        self._clock = clock
        #: marked, and neither acknowledged nor set to pending
        self._marked: set[str] = set()
        #: claimed a moment ago: the moment from which they must be running
        self._claimed: dict[str, float] = {}
        #: marks without an answer; until when those that did not wait for it may arrive
        self._unsure: dict[str, float] = {}
        self._withdrawing: set[str] = set()
        self._repairs: dict[str, tuple[TaskStatus, float]] = {}

    async def recover(self) -> None:
        """Set to pending what an earlier process has left marked, unless its outcome waits. Call it once, first."""
        self._marked.update(await self._memory.remembered())
        busy = await self._admission.busy(list(self._marked))
        await asyncio.gather(*(self.withdraw(task_id) for task_id in self._marked if task_id not in busy))

    async def begin(self, task_ids: Sequence[str]) -> list[bool]:
        """Mark these tasks; false for those that are gone or taken according to the API.

        Raises ``OutboxUnwritable``: then none is marked.
        """
        await self._memory.remember(task_ids, inf)
        self._marked.update(task_ids)
        self._claimed |= dict.fromkeys(task_ids, self._clock.monotonic() + STARTED_AFTER_S)
        return await asyncio.gather(*map(self._begin, task_ids))

    async def _begin(self, task_id: str) -> bool:
        try:
            with Deadline(self._within_s):
                await self._patch(task_id, TaskStatus.IN_PROGRESS)
        except Rejected as error:
            await self._forget(task_id)
            log.info("task.taken", task_id=task_id, reason=str(error))
            return False
        except Ambiguous:
            return self._begun_unsure(task_id, 0.0)
        except TimeoutError:
            return self._begun_unsure(task_id, self._clock.monotonic() + self._late_s)
        except RemoteError:
            if self._exclusive:
                await self._forget(task_id)
                return False
        return True

    def _begun_unsure(self, task_id: str, until: float) -> bool:
        self._unsure[task_id] = until
        if self._exclusive:
            self._claimed.pop(task_id, None)
        return not self._exclusive

    async def withdraw(self, task_id: str) -> None:
        """Set to pending; ``run`` retries it after a failure.

        One request at a time: a second ``pending`` could arrive after the task was started again.
        """
        if task_id in self._withdrawing or task_id not in self._marked:
            return
        self._withdrawing.add(task_id)
        self._claimed.pop(task_id, None)
        try:
            await self._patch(task_id, TaskStatus.PENDING)
        except Rejected:
            pass  # deleted, or set to a final state by somebody else
        except RemoteError:
            return
        finally:
            self._withdrawing.discard(task_id)
        if (until := self._unsure.get(task_id, 0.0)) > self._clock.monotonic():
            self._claimed[task_id] = until  # then ``tend`` does it once more
            return
        self._unsure.pop(task_id, None)
        await self._forget(task_id)

    async def acknowledged(self, task_id: str, state: TaskStatus) -> None:
        """The upstream has the outcome. A mark without an answer may arrive later and overwrite it: repair it then."""
        if self._unsure.pop(task_id, None) is not None:
            self._repairs[task_id] = state, self._clock.monotonic() + self._late_s
        await self._forget(task_id)

    async def run(self) -> None:
        """Maintain the marks until cancelled."""
        while True:
            await self.tend()
            await self._clock.sleep(TEND_S)

    async def tend(self, *, leaving: bool = False) -> None:
        """Reset marks of tasks that do not run, and repeat final states that are due; ``leaving``: all of them now."""
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
