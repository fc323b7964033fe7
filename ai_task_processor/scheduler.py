"""TaskScheduler: reserve a slot, then claim; polls at once while there is work and calmly when there is none.

A slot is one running task. Slots are refilled one by one: nobody waits for the slowest of a batch.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ai_task_processor.errors import NeighbourError
from ai_task_processor.lifecycle import TaskRunner
from ai_task_processor.logs import get_logger, task_context
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Claim
from ai_task_processor.ports import Clock, TaskSource

FIRST_PAUSE_S = 0.5
#: the poll loop shows that it is alive at least this often, whatever it waits for
TICK_S = 5.0

log = get_logger(__name__)


def next_pause_s(idle_polls: int, interval_s: float, rng: random.Random) -> float:
    """The pause after so many polls in a row that started nothing: doubling up to the interval, with jitter."""
    return min(FIRST_PAUSE_S * 2.0 ** min(idle_polls - 1, 16), interval_s) * rng.uniform(0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Running:
    """A task in its slot; ``started_at`` is on the monotonic clock."""

    task_type: str
    started_at: float


class TaskScheduler:
    """Fills ``slots`` with tasks from the source until it is told to drain.

    ``running`` is its ledger of tasks in slots, which admission reads too. ``hold_s`` answers for how
    many seconds nothing may be claimed (outbox full, circuit open): 0 for now.
    """

    def __init__(
        self,
        source: TaskSource,
        runner: TaskRunner,
        *,
        running: dict[str, Running],
        slots: int,
        interval_s: float,
        hold_s: Callable[[], float],
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.running = running
        self.draining = False
        self.ticked_at = clock.monotonic()
        self.polled_at: float | None = None
        self.trouble: str | None = None
        self.slots = slots
        self._source = source
        self._runner = runner
        self._interval_s = interval_s
        self._hold_s = hold_s
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._claiming = False
        self._plenty = False
        self._idle_polls = 0
        self._freed = asyncio.Event()
        self._intake: asyncio.Task[None] | None = None
        metrics.slots(slots)
        metrics.poll_interval(interval_s)

    @property
    def free(self) -> int:
        return self.slots - len(self.running)

    @property
    def idle(self) -> bool:
        """Nothing runs, and the last poll, which succeeded, started nothing."""
        return not self.running and self._idle_polls > 0 and self.trouble is None

    def refilling(self) -> bool:
        """Are more tasks on their way into free slots? Only while polls bring as many as were asked for."""
        return self._plenty and not self.draining and (self._claiming or self._runner.settling > 0 or self.free > 0)

    async def run(self) -> None:
        """Claim and process until drained; returns when the last running task has settled."""
        async with asyncio.TaskGroup() as group:
            self._intake = group.create_task(self._take_in(group), name="intake")
            if self.draining:
                self._intake.cancel()

    def drain(self) -> None:
        """Claim nothing more; what runs goes on."""
        self.draining = True
        if self._intake is not None:
            self._intake.cancel()

    async def _take_in(self, group: asyncio.TaskGroup) -> None:
        await self._pause(self._rng.uniform(0.0, min(1.0, self._interval_s / 20)))
        while True:
            await self._free_slot()
            hold_s = self._hold_s()
            if hold_s > 0:
                self._plenty = False
                await self._pause(min(hold_s, self._interval_s))
                continue
            claims = await self._claim()
            for claim in claims:
                self._start(group, claim)
            self._idle_polls = 0 if claims else self._idle_polls + 1
            if not claims:
                await self._pause(next_pause_s(self._idle_polls, self._interval_s, self._rng))

    async def _claim(self) -> Sequence[Claim]:
        wanted = self.free
        self._claiming = True
        try:
            claims = await self._source.claim(wanted)
        except NeighbourError as error:
            self._note_trouble(str(error))
            self._plenty = False
            return ()
        finally:
            self._claiming = False
        self._note_trouble(None)
        self.polled_at = self._clock.monotonic()
        self._plenty = len(claims) >= wanted
        return claims

    def _note_trouble(self, reason: str | None) -> None:
        """A steady failure is told when it begins, when it changes, and when it ends."""
        if reason == self.trouble:
            return
        if reason is None:
            log.info("poll.recovered", after=self.trouble)
        else:
            log.warning("poll.failed", reason=reason)
        self.trouble = reason

    def _start(self, group: asyncio.TaskGroup, claim: Claim) -> None:
        task = claim.task
        self.running[task.id] = Running(task.type, self._clock.monotonic())
        self._metrics.in_flight(len(self.running))
        group.create_task(self._work(claim), name=f"task {task.id}")

    async def _work(self, claim: Claim) -> None:
        try:
            with task_context(claim.task.id):
                await self._runner.run(claim)
        finally:
            del self.running[claim.task.id]
            self._metrics.in_flight(len(self.running))
            self._freed.set()

    async def _free_slot(self) -> None:
        while self.free <= 0:
            self.ticked_at = self._clock.monotonic()
            self._freed.clear()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._freed.wait()
            except TimeoutError:
                continue
        self.ticked_at = self._clock.monotonic()

    async def _pause(self, seconds: float) -> None:
        """Let the source wait, in pieces that show the loop to be alive."""
        ends_at = self._clock.monotonic() + seconds
        while (left_s := ends_at - self._clock.monotonic()) > 0:
            self.ticked_at = self._clock.monotonic()
            await self._source.wait(min(left_s, TICK_S))
