"""Slots: the tasks that run, from the reserved slot to its release.

A slot is one running task. It is free again as soon as the outcome of its task is durable.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

from ai_task_processor.core.errors import OutboxUnwritable
from ai_task_processor.core.ports import Clock, Journal, TaskSource
from ai_task_processor.engine.admission import EngineAdmission, Running, RunningTasks
from ai_task_processor.engine.faults import Faults, Nonsense, all_of
from ai_task_processor.engine.guard import RAISED
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.engine.runner import TaskRunner
from ai_task_processor.models.task import Claim, Receipt, Tries
from ai_task_processor.ops.log_context import task_context
from ai_task_processor.ops.logs import get_logger

#: how long a claimed task waits for a slot whose last result is being committed, and how often it checks
LONGEST_SETTLING_S, SETTLING_POLL_S = 1.0, 0.001

log = get_logger(__name__)


class Slots:
    """``total`` slots. ``running``: the tasks in them, shared with admission.

    ``freed`` is set when a slot is free, or about to be. ``released``: tasks in a row that did not get done.
    ``cut``: receipts of the tasks that a drain cut off.
    """

    def __init__(
        self,
        total: int,
        *,
        source: TaskSource,
        runner: TaskRunner,
        running: RunningTasks,
        journal: Journal,
        admission: EngineAdmission,
        recovery: Recovery,
        faults: Faults,
        clock: Clock,
    ) -> None:
        self.total = total
        self.running = running
        self.freed = asyncio.Event()
        self.released = 0
        self.cut: list[Receipt] = []
        self._source = source
        self._runner = runner
        self._journal = journal
        self._admission = admission
        self._recovery = recovery
        self._faults = faults
        self._clock = clock
        self._work_by_id: dict[str, asyncio.Task[None]] = {}
        self._revoked: dict[str, Literal["lost", "cancelled"]] = {}
        #: called with the type of each task that has left its slot
        self.on_ended: Callable[[str], None] = lambda _: None
        runner.on_settling = self.freed.set

    @property
    def free(self) -> int:
        """How many tasks may start; 0 during isolated runs."""
        return 0 if self._recovery.isolating else self.total - len(self.running)

    @property
    def open(self) -> int:
        """How many tasks to request: free slots, and those that will be free by the time of the answer."""
        return self.free + self._runner.settling

    @property
    def ages_s(self) -> list[float]:
        """Seconds for which each task has been running."""
        now = self._clock.monotonic()
        return [now - task.started_at for task in self.running.values()]

    async def wait(self) -> None:
        """Until a slot is open."""
        while self.open <= 0:
            self.freed.clear()
            await self.freed.wait()

    async def start_all(self, group: asyncio.TaskGroup, claims: Sequence[Claim]) -> None:
        """Start each claim in a slot of its own. A claim whose slot does not become free soon is released."""
        ends_at = self._clock.monotonic() + LONGEST_SETTLING_S
        while claims:
            while self.free <= 0 and self._clock.monotonic() < ends_at:
                await self._clock.sleep(SETTLING_POLL_S)
            count = self.free
            if count <= 0:
                break
            await self.start(group, claims[:count])
            claims = claims[count:]
        await self.release(claims)

    async def start(self, group: asyncio.TaskGroup, claims: Sequence[Claim]) -> int:
        """Start the claims that may still start, and release the others; returns how many have started."""
        begun: list[Claim] = []
        for claim in claims:
            # Checked again for each: the one started before may have filled its lane.
            if self._admission.starts(claim.task) is None:
                lane = self._admission.lane(claim.task)
                self.running[claim.task.id] = Running(claim, self._clock.monotonic(), lane)
                begun.append(claim)
                continue
            self.released += 1  # a source that brings such claims again and again is not polled without a pause
            if claim.receipt not in (task.claim.receipt for task in self.running.values()):
                await self.release([claim])
        if not begun:
            return 0
        tries: list[Tries] = []
        try:
            with self._faults.of(self._journal, "begin"), suppress(OutboxUnwritable):
                counted = all_of(Tries, await self._journal.begin([claim.task for claim in begun]))
                if len(counted) != len(begun):
                    raise Nonsense(f"it returned {len(counted)} counts for {len(begun)} tasks")
                tries = counted
        finally:
            if not tries:
                for claim in begun:
                    del self.running[claim.task.id]
        if not tries:
            # An attempt that the journal cannot record must not start; the next poll waits for the disk.
            await self.release(begun)
            self.released += len(begun)
            return 0
        for claim, earlier in zip(begun, tries, strict=True):
            work = group.create_task(self._work(claim, earlier), name=f"task {claim.task.id}")
            self._work_by_id[claim.task.id] = work
        return len(begun)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims that have not started back to the source."""
        for claim in claims:
            await self._faults.release(self._source, claim.receipt, 0.0)

    def revoke(self, task_id: str, reason: Literal["lost", "cancelled"]) -> None:
        """Stop a running task: another owner has its claim (``lost``), or it was ``cancelled``."""
        work = self._work_by_id.get(task_id)
        if work is not None and task_id not in self._revoked:
            self._revoked[task_id] = reason
            work.cancel()

    async def _work(self, claim: Claim, tries: Tries) -> None:
        task_id, settled = claim.task.id, False
        try:
            with task_context(task_id):
                settled = await self._runner.run(claim, tries)
        except asyncio.CancelledError:
            if task_id not in self._revoked:
                self.cut.append(claim.receipt)
                raise
            await self._abandon(claim)
        except RAISED as error:  # the boundary of one task: a bug must not end the others
            log.error("task.crashed", task_id=task_id, exc_info=error)
        finally:
            del self._work_by_id[task_id]
            self._revoked.pop(task_id, None)
            self._recovery.ended(self._clock.monotonic() - self.running.pop(task_id).started_at)
            self.released = 0 if settled else self.released + 1
            self.freed.set()
            self.on_ended(claim.task.type)

    async def _abandon(self, claim: Claim) -> None:
        reason, task = self._revoked[claim.task.id], asyncio.current_task()
        if task is not None:
            task.uncancel()
        log.info("task.revoked", task_id=claim.task.id, task_type=claim.task.type, reason=reason)
        with self._faults.of(self._journal, "settle"):
            await (self._runner.cancel if reason == "cancelled" else self._runner.lost)(claim)
