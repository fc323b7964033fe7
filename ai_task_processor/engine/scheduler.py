"""TaskScheduler: reserves a slot, then claims. It polls at once while there is work, and with pauses otherwise.

A slot is one running task. Each slot is refilled as soon as it is free: there are no batches to wait for.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from math import inf

from ai_task_processor.core.errors import RemoteError
from ai_task_processor.core.ports import Clock, TaskSource, Want
from ai_task_processor.engine.admission import EngineAdmission
from ai_task_processor.engine.faults import Faults, all_of
from ai_task_processor.engine.guard import RAISED, raise_cancellation
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.engine.slots import Slots
from ai_task_processor.models.task import Claim, Receipt, Task
from ai_task_processor.ops import tracing
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

FIRST_PAUSE_S = 0.5
#: the longest pause while polls bring tasks, but all of them are released at once
LONGEST_FRUITLESS_S = 2.0
#: The pause after a wake-up whose poll found nothing. It bounds polls to 40 a second (a tenth of a core), and is the
#: longest delay of a task whose wake-up comes during the pause.
WOKEN_PAUSE_S = 0.025
#: While tasks wait for the limit of their type, polls pause for this many times as long as the last one took: each may
#: read the whole list, which those tasks do not leave.
LIMITED_PAUSE = 10.0
#: the poll loop shows that it is alive at least this often, whatever it waits for
TICK_S = 5.0
#: how often a stretch of isolated runs checks whether the running tasks have ended
ISOLATION_LOOK_S = 0.02
#: a poll may make several requests; one that takes longer than this hangs
LONGEST_POLL_S = 600.0

log = get_logger(__name__)


class Pauses:
    """How long to pause between polls that start nothing: twice as long each time up to the interval, with jitter."""

    def __init__(self, interval_s: float, resumes_in_s: Callable[[], float], rng: random.Random) -> None:
        self._interval_s = interval_s
        self._resumes_in_s = resumes_in_s
        self._rng = rng
        self._polls = 0

    def first_s(self) -> float:
        """Before the first poll: daemons that start together do not poll together."""
        return self._rng.uniform(0.0, min(1.0, self._interval_s / 20))

    def reset(self) -> None:
        """Begin with the shortest again."""
        self._polls = 0

    def next_s(self, *, fruitless: bool) -> float:
        """The next pause. ``fruitless``: polls bring tasks, but all of them are released at once."""
        self._polls += 1
        longest_s = min(self._interval_s, LONGEST_FRUITLESS_S) if fruitless else self._interval_s
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._polls - 1, 16), longest_s) * self._rng.uniform(0.75, 1.0)
        return min(pause_s, max(FIRST_PAUSE_S, self._resumes_in_s()))


class TaskScheduler:
    """Fills ``slots`` with tasks from the source until ``drain``.

    ``hold_s`` returns for how many seconds nothing may be claimed (outbox full, circuit open), 0 when something may;
    ``resumes_in_s``: when some skipped tasks may start. ``types``: the types to claim, None for all. ``idle``:
    nothing runs, and a poll that began when nothing ran (at ``asked_at``) found nothing to start. ``polled_at``: when
    the last poll was answered; ``next_poll_at``: when the present pause ends, None when there is none; ``holding``: it
    is one that ``hold_s`` asked for.
    """

    def __init__(
        self,
        source: TaskSource,
        slots: Slots,
        *,
        recovery: Recovery,
        interval_s: float,
        hold_s: Callable[[], float],
        admission: EngineAdmission,
        types: frozenset[str] | None = None,
        resumes_in_s: Callable[[], float] = lambda: inf,
        faults: Faults,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.draining = False
        self.idle = False
        self.ticked_at = clock.monotonic()
        self.polled_at: float | None = None
        self.next_poll_at: float | None = None
        self.holding = False
        self.asked_at = -inf
        self._source = source
        self._slots = slots
        self._recovery = recovery
        self._interval_s = interval_s
        self._hold_s = hold_s
        self._admission = admission
        self._types = types
        self._faults = faults
        self._clock = clock
        self._pauses = Pauses(interval_s, resumes_in_s, rng)
        self._condition = Condition("poll.failed", "poll.recovered")
        self._poll_ends_at: float | None = None
        self._plenty = False
        self._woken = False
        self._limit_freed = False
        self._limited_until = -inf
        slots.on_ended = self._ended
        self._intake: list[asyncio.Task[None]] = []
        metrics.slots(slots.total)
        metrics.in_flight(lambda: len(slots.running))
        metrics.poll_interval(interval_s)

    @property
    def problem(self) -> str | None:
        """Why the last poll failed; None when it did not."""
        return self._condition.reason

    @property
    def polling(self) -> bool:
        """Whether a poll is under way."""
        return self._poll_ends_at is not None

    @property
    def slots(self) -> int:
        """How many tasks may run at once."""
        return self._slots.total

    def refilling(self) -> bool:
        """Whether more tasks are about to start in free slots: only while polls bring as many as were requested."""
        return self._plenty and not self.draining and (self.polling or self._slots.open > 0)

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
        self.next_poll_at = None
        for task in self._intake:
            task.cancel()

    async def _poll_loop(self, group: asyncio.TaskGroup) -> None:
        self._woken = await self._pause(self._pauses.first_s())
        while True:
            await self._slots.wait()
            self._tick()
            hold_s = self._hold_s()
            self.holding = hold_s > 0
            if self.holding:
                await self._pause(min(hold_s, self._interval_s), ignore_wakes=True)
                continue
            claims = await self._claim()
            await self._slots.start_all(group, claims)
            isolated = await self._isolate(group)
            await self._wait_for_next_poll(started=bool(claims) or isolated)

    async def _claim(self) -> Sequence[Claim]:
        wanted, quiet = self._slots.open, not self._slots.running
        self._recovery.look(self._slots.ages_s)
        self.idle = False
        self.asked_at = self._clock.monotonic()
        self._poll_ends_at = self.asked_at + LONGEST_POLL_S
        self._admission.begin(wanted)
        self._limit_freed = False
        began_ns = time.time_ns()
        try:
            claims = all_of(Claim, await self._source.claim(Want(wanted, self._admission, self._types)))
            all_of(Task, [claim.task for claim in claims])
            all_of(Receipt, [claim.receipt for claim in claims])
        except RemoteError as error:
            return self._failed(str(error))
        except RAISED as error:  # the boundary of one poll: it must not stop delivery
            raise_cancellation(error)
            return self._failed(self._faults.note(self._source, "claim", error))
        finally:
            self._poll_ends_at = None
            now = self._clock.monotonic()
            self._limited_until = now + LIMITED_PAUSE * (now - self.asked_at) if self._admission.limited else -inf
        self._faults.note(self._source, "claim", None)
        self._condition.note(None)
        self.polled_at = self._clock.monotonic()
        self.idle = quiet and not claims
        if claims:
            tracing.received(claims[0].receipt.source, len(claims), began_ns)
        self._plenty = len(claims) >= wanted
        return self._recovery.isolate(claims, self._slots.ages_s)

    def _failed(self, reason: str) -> Sequence[Claim]:
        self._condition.note(reason)
        return ()

    async def _wait_for_next_poll(self, *, started: bool) -> None:
        """Pause until the next poll. There is no pause while polls bring tasks that get done.

        A wake-up ends the pause. After a woken poll that found nothing, wake-ups are ignored for ``WOKEN_PAUSE_S``,
        after one that failed for the whole pause: many wake-ups must not cause as many polls.
        """
        if self._slots.released < self._slots.total and (started or self._recovery.wants_poll):
            self._pauses.reset()
            self._woken = not self._plenty and await self._pause(self._limited_s)
            return
        well = not started and self.problem is None
        if well and self._woken:
            self._pauses.reset()  # the wake-up may have been sent before its transaction was committed
        pause_s = max(self._pauses.next_s(fruitless=started), self._limited_s)
        if self._woken:
            fixed_s = min(WOKEN_PAUSE_S, pause_s) if well else pause_s
            await self._pause(fixed_s, ignore_wakes=True)
            pause_s -= fixed_s
        self._woken = await self._pause(pause_s)

    async def _isolate(self, group: asyncio.TaskGroup) -> bool:
        """Run the isolated tasks, one at a time; true when one was run."""
        ran = False
        while self._recovery.isolating:
            self._plenty = False
            claim = self._recovery.step(self._slots.ages_s, self._slots.total)
            if claim is not None and await self._slots.start(group, [claim]):
                log.info("task.isolated", task_id=claim.task.id, task_type=claim.task.type)
                ran = True
            if self._recovery.isolating:
                await self._clock.sleep(ISOLATION_LOOK_S)
        await self._slots.release(self._recovery.left_over())
        return ran

    async def _pause(self, seconds: float, *, ignore_wakes: bool = False) -> bool:
        """Wait, in pieces with a tick each; true, early, after a wake-up of the source.

        With ``ignore_wakes`` it waits the full time; a wake-up meanwhile ends the next pause.
        """
        self._plenty = False
        self.next_poll_at = ends_at = self._clock.monotonic() + seconds
        called = False
        while not called and (left_s := ends_at - self._clock.monotonic()) > 0:
            self._tick()
            piece_s = min(left_s, TICK_S)
            if ignore_wakes:
                await self._clock.sleep(piece_s)
                continue
            if self._limited_s > 0:
                piece_s = min(piece_s, self._limited_s)
            called = await self._wait(piece_s) or (self._limit_freed and self._limited_s <= 0)
        self.next_poll_at = None
        self._tick()
        return called

    async def _wait(self, seconds: float) -> bool:
        """The source's ``wait``. One that fails or returns too early must not turn a pause into a busy loop."""
        ends_at = self._clock.monotonic() + seconds
        with self._faults.of(self._source, "wait"):  # polls go on without wake-ups
            if await self._source.wait(seconds):
                return True
        if (left_s := ends_at - self._clock.monotonic()) > 0:
            await self._clock.sleep(left_s)
        return False

    @property
    def _limited_s(self) -> float:
        """Seconds of the pause while tasks wait for the limit of their type; 0 when it is over, or none do."""
        return max(0.0, self._limited_until - self._clock.monotonic())

    def _ended(self, task_type: str) -> None:
        """A task has left its slot: others of its type may have waited for that."""
        if task_type in self._admission.limited:
            self._limit_freed = True
            if self._limited_s <= 0:
                with self._faults.of(self._source, "resume"):
                    self._source.resume()

    async def _beat(self) -> None:
        """Tick for the poll loop while it waits for a free slot, or for a poll within ``LONGEST_POLL_S``."""
        while True:
            await self._clock.sleep(TICK_S)
            if self._slots.free <= 0 or self._clock.monotonic() < (self._poll_ends_at or 0.0):
                self._tick()

    def _tick(self) -> None:
        self.ticked_at = self._clock.monotonic()
