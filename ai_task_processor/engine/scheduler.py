"""TaskScheduler: reserves a slot, then claims. It polls at once while there is work, and with pauses otherwise.

A slot is one running task. Each slot is refilled as soon as it is free: there are no batches to wait for.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from math import inf
from typing import Literal

from ai_task_processor.core.errors import OutboxUnwritable, RemoteError
from ai_task_processor.core.ports import Clock, Journal, TaskSource, Want
from ai_task_processor.engine.admission import EngineAdmission, Running
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.engine.runner import TaskRunner
from ai_task_processor.models.task import Claim, Receipt, Tries
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger, task_context
from ai_task_processor.ops.metrics import Metrics

FIRST_PAUSE_S = 0.5
#: the longest pause while polls bring tasks, but all of them are released at once
LONGEST_FRUITLESS_S = 2.0
#: The pause after a wake-up whose poll found nothing. It bounds polls to 40 a second (a tenth of a core), and is the
#: longest delay of a task whose wake-up comes during the pause.
WOKEN_PAUSE_S = 0.025
#: the poll loop shows that it is alive at least this often, whatever it waits for
TICK_S = 5.0
#: how long a claimed task waits for a slot whose last result is being committed, and how often it checks
LONGEST_SETTLING_S, SETTLING_POLL_S = 1.0, 0.001
#: how often a stretch of isolated runs checks whether the running tasks have ended
ISOLATION_LOOK_S = 0.02
#: a poll may make several requests; one that takes longer than this hangs
LONGEST_POLL_S = 600.0

log = get_logger(__name__)


def next_pause_s(idle_polls: int, interval_s: float, rng: random.Random) -> float:
    """The pause after this many consecutive polls that started nothing: doubles up to the interval, with jitter."""
    return min(FIRST_PAUSE_S * 2.0 ** min(idle_polls - 1, 16), interval_s) * rng.uniform(0.75, 1.0)


class TaskScheduler:
    """Fills ``slots`` with tasks from the source until ``drain``.

    ``running``: the tasks in slots, shared with admission. ``hold_s`` returns for how many seconds nothing may be
    claimed (outbox full, circuit open), 0 when something may; ``resumes_in_s``: when some skipped tasks may start.
    ``types``: the types to claim, None for all. ``idle``: nothing runs, and a poll that began when nothing ran found
    nothing to start. ``cut``: receipts of the tasks that a drain cut off.
    """

    def __init__(
        self,
        source: TaskSource,
        runner: TaskRunner,
        *,
        running: dict[str, Running],
        recovery: Recovery,
        slots: int,
        interval_s: float,
        hold_s: Callable[[], float],
        journal: Journal,
        admission: EngineAdmission,
        types: frozenset[str] | None = None,
        resumes_in_s: Callable[[], float] = lambda: inf,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.running = running
        self.slots = slots
        self.draining = False
        self.idle = False
        self.cut: list[Receipt] = []
        self.ticked_at = clock.monotonic()
        self.polled_at: float | None = None
        self._source = source
        self._runner = runner
        self._recovery = recovery
        self._interval_s = interval_s
        self._hold_s = hold_s
        self._journal = journal
        self._admission = admission
        self._types = types
        self._resumes_in_s = resumes_in_s
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._condition = Condition("poll.failed", "poll.recovered")
        self._claiming = False
        self._poll_ends_at = 0.0
        self._plenty = False
        self._idle_polls = 0
        self._given_back = 0
        self._woken = False
        self._freed = asyncio.Event()
        self._work_by_id: dict[str, asyncio.Task[None]] = {}
        self._revoked: dict[str, Literal["lost", "cancelled"]] = {}
        runner.on_settling = self._freed.set
        self._intake: list[asyncio.Task[None]] = []
        metrics.slots(slots)
        metrics.in_flight(lambda: len(self.running))
        metrics.poll_interval(interval_s)

    @property
    def free(self) -> int:
        """How many tasks may start; 0 during isolated runs."""
        return 0 if self._recovery.isolating else self.slots - len(self.running)

    @property
    def problem(self) -> str | None:
        """Why the last poll failed; None when it did not."""
        return self._condition.reason

    def refilling(self) -> bool:
        """Whether more tasks are about to start in free slots: only while polls bring as many as were requested."""
        return self._plenty and not self.draining and (self._claiming or self._runner.settling > 0 or self.free > 0)

    async def run(self) -> None:
        """Claim and process until drained; returns when the last running task has settled."""
        async with asyncio.TaskGroup() as group:
            self._intake.append(group.create_task(self._poll_loop(group), name="intake"))
            self._intake.append(group.create_task(self._beat(), name="intake-beat"))
            if self.draining:
                self.drain()

    def drain(self) -> None:
        """Claim nothing more; what runs goes on."""
        self.draining = True
        for task in self._intake:
            task.cancel()

    async def _poll_loop(self, group: asyncio.TaskGroup) -> None:
        self._woken = await self._pause(self._rng.uniform(0.0, min(1.0, self._interval_s / 20)))
        while True:
            await self._wait_for_slot()
            hold_s = self._hold_s()
            if hold_s > 0:
                await self._pause(min(hold_s, self._interval_s), ignore_wakes=True)
                continue
            claims = await self._claim()
            await self._start_all(group, claims)
            isolated = await self._isolate(group)
            await self._wait_for_next_poll(started=bool(claims) or isolated)

    async def _claim(self) -> Sequence[Claim]:
        wanted, quiet = self._open_slots, not self.running
        self._recovery.look(self._ages)
        self.idle = False
        self._claiming = True
        self._poll_ends_at = self._clock.monotonic() + LONGEST_POLL_S
        try:
            claims = await self._source.claim(Want(wanted, self._admission, self._types))
        except RemoteError as error:
            return self._failed(str(error))
        except Exception as error:  # the boundary of one poll: a listed record must not stop delivery
            log.error("poll.crashed", exc_info=error)
            return self._failed(f"the poll crashed: {type(error).__name__}")
        finally:
            self._claiming = False
            self._poll_ends_at = 0.0
        self._condition.note(None)
        self.polled_at = self._clock.monotonic()
        self.idle = quiet and not claims
        self._plenty = len(claims) >= wanted
        return self._recovery.isolate(claims, self._ages)

    def _failed(self, reason: str) -> Sequence[Claim]:
        self._condition.note(reason)
        return ()

    async def _wait_for_next_poll(self, *, started: bool) -> None:
        """Pause until the next poll. There is no pause while polls bring tasks that get done.

        A wake-up ends the pause. After a woken poll that found nothing, wake-ups are ignored for ``WOKEN_PAUSE_S``,
        after one that failed for the whole pause: many wake-ups must not cause as many polls.
        """
        if self._given_back < self.slots and (started or self._recovery.wants_poll):
            self._idle_polls, self._woken = 0, False
            return
        well = not started and self.problem is None
        if well and self._woken:
            self._idle_polls = 0  # the wake-up may have been sent before its transaction was committed
        self._idle_polls += 1
        longest_s = min(self._interval_s, LONGEST_FRUITLESS_S) if started else self._interval_s
        pause_s = min(next_pause_s(self._idle_polls, longest_s, self._rng), max(FIRST_PAUSE_S, self._resumes_in_s()))
        if self._woken:
            fixed_s = min(WOKEN_PAUSE_S, pause_s) if well else pause_s
            await self._pause(fixed_s, ignore_wakes=True)
            pause_s -= fixed_s
        self._woken = await self._pause(pause_s)

    async def _start_all(self, group: asyncio.TaskGroup, claims: Sequence[Claim]) -> None:
        """Start each claim in a slot of its own. A claim whose slot does not become free soon is released."""
        ends_at = self._clock.monotonic() + LONGEST_SETTLING_S
        while claims:
            while self.free <= 0 and self._clock.monotonic() < ends_at:
                await self._clock.sleep(SETTLING_POLL_S)
            count = self.free
            if count <= 0:
                break
            await self._start(group, claims[:count])
            claims = claims[count:]
        for claim in claims:
            await self._source.release(claim.receipt, 0.0)

    async def _isolate(self, group: asyncio.TaskGroup) -> bool:
        """Run the isolated tasks, one at a time; true when one was run."""
        ran = False
        while self._recovery.isolating:
            self._plenty = False
            claim = self._recovery.step(self._ages, self.slots)
            if claim is not None and await self._start(group, [claim]):
                log.info("task.isolated", task_id=claim.task.id, task_type=claim.task.type)
                ran = True
            if self._recovery.isolating:
                await self._clock.sleep(ISOLATION_LOOK_S)
        for claim in self._recovery.left_over():
            await self._source.release(claim.receipt, 0.0)
        return ran

    async def _start(self, group: asyncio.TaskGroup, claims: Sequence[Claim]) -> int:
        """Start the claims that may still start, and release the others; returns how many have started."""
        begun: list[Claim] = []
        for claim in claims:
            # Checked again for each: the one started before may have filled its lane.
            if self._admission.starts(claim.task) is None:
                lane = self._admission.lane(claim.task)
                self.running[claim.task.id] = Running(claim, self._clock.monotonic(), lane)
                begun.append(claim)
            else:
                await self._source.release(claim.receipt, 0.0)
        try:
            tries = await self._journal.begin([claim.task for claim in begun]) if begun else ()
        except BaseException as error:
            for claim in begun:
                del self.running[claim.task.id]
            if not isinstance(error, OutboxUnwritable):
                raise
            # An attempt that the journal cannot record must not start; the next poll waits for the disk.
            for claim in begun:
                await self._source.release(claim.receipt, 0.0)
            self._given_back += len(begun)
            return 0
        for claim, earlier in zip(begun, tries, strict=True):
            work = group.create_task(self._work(claim, earlier), name=f"task {claim.task.id}")
            self._work_by_id[claim.task.id] = work
        return len(begun)

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
        except Exception as error:  # the boundary of one task: a bug must not end the others
            log.error("task.crashed", task_id=task_id, exc_info=error)
        finally:
            del self._work_by_id[task_id]
            self._revoked.pop(task_id, None)
            self._recovery.ended(self._clock.monotonic() - self.running.pop(task_id).started_at)
            self._given_back = 0 if settled else self._given_back + 1
            self._freed.set()

    def revoke(self, task_id: str, reason: Literal["lost", "cancelled"]) -> None:
        """Stop a running task: another owner has its claim (``lost``), or it was ``cancelled``."""
        work = self._work_by_id.get(task_id)
        if work is not None and task_id not in self._revoked:
            self._revoked[task_id] = reason
            work.cancel()

    async def _abandon(self, claim: Claim) -> None:
        reason, task = self._revoked[claim.task.id], asyncio.current_task()
        if task is not None:
            task.uncancel()
        log.info("task.revoked", task_id=claim.task.id, task_type=claim.task.type, reason=reason)
        if reason == "cancelled":
            await self._runner.cancel(claim)
        else:
            await self._journal.settle(claim.task.id)

    @property
    def _open_slots(self) -> int:
        """How many tasks to request: free slots, and those that will be free by the time of the answer."""
        return self.free + self._runner.settling

    @property
    def _ages(self) -> list[float]:
        """Seconds for which each task has been running."""
        now = self._clock.monotonic()
        return [now - task.started_at for task in self.running.values()]

    async def _wait_for_slot(self) -> None:
        while self._open_slots <= 0:
            self._freed.clear()
            await self._freed.wait()
        self._tick()

    async def _pause(self, seconds: float, *, ignore_wakes: bool = False) -> bool:
        """Wait, in pieces with a tick each; true, early, after a wake-up of the source.

        With ``ignore_wakes`` it waits the full time; a wake-up meanwhile ends the next pause.
        """
        self._plenty = False
        ends_at, called = self._clock.monotonic() + seconds, False
        while not called and (left_s := ends_at - self._clock.monotonic()) > 0:
            self._tick()
            piece_s = min(left_s, TICK_S)
            if ignore_wakes:
                await self._clock.sleep(piece_s)
            else:
                called = await self._source.wait(piece_s)
        self._tick()
        return called

    async def _beat(self) -> None:
        """Tick for the poll loop while it waits for a free slot, or for a poll within ``LONGEST_POLL_S``."""
        while True:
            await self._clock.sleep(TICK_S)
            if self.free <= 0 or self._clock.monotonic() < self._poll_ends_at:
                self._tick()

    def _tick(self) -> None:
        self.ticked_at = self._clock.monotonic()
