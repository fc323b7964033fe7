"""Delivery: outbox → task API → acknowledged. Another room with its own patience: no slot waits for it.

Every record is reported until it is acknowledged or refused for good. What was not delivered is
deferred with growing patience, up to a quarter of an hour, and the outbox remembers until when.
"""

import asyncio
import random

from ai_task_processor import codec
from ai_task_processor.errors import Ambiguous, CircuitOpen, NeighbourError, OutboxUnwritable, Rejected, Transient
from ai_task_processor.logs import get_logger
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Failure, Receipt, Record
from ai_task_processor.ports import Clock, Outbox, TaskSource
from ai_task_processor.resilience import Gate, backoff_s

LONGEST_DEFERRAL_S = 900.0
#: how long a loop with nothing due waits before it looks again, unless it is woken
LOOK_AGAIN_S = 1.0

log = get_logger(__name__)


class Delivery:
    """Reports the outbox's records to the source, ``concurrency`` at a time, in the order they are due."""

    def __init__(
        self,
        outbox: Outbox,
        source: TaskSource,
        *,
        gate: Gate,
        concurrency: int,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self._outbox = outbox
        self._source = source
        self._gate = gate
        self._concurrency = concurrency
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._under_way: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something was put, retried or finished: look at once."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._woken.clear()
                started = await self._start_due(group)
                if not started:
                    await self._rest()

    async def flushed(self) -> None:
        """Return when nothing is left to deliver (dead letters stay)."""
        while self._under_way or self._outbox.depth().waiting:
            await self._clock.sleep(0.02)

    async def _start_due(self, group: asyncio.TaskGroup) -> int:
        room = self._concurrency - len(self._under_way)
        if self._gate.wait_s() > 0:
            return 0
        if self._gate.reason is not None:
            room = min(room, 1)
        if room <= 0 or self._outbox.depth().waiting <= len(self._under_way):
            return 0
        now = self._clock.now().timestamp()
        records = await self._outbox.due(now, room, frozenset(self._under_way))
        for record in records:
            self._under_way.add(record.task_id)
            group.create_task(self._deliver(record), name=f"delivery {record.task_id}")
        return len(records)

    async def _rest(self) -> None:
        wait_s = self._gate.wait_s() or LOOK_AGAIN_S
        try:
            async with asyncio.timeout(min(wait_s, LOOK_AGAIN_S)):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _deliver(self, record: Record) -> None:
        """One attempt for one record, and what follows from its answer."""
        try:
            await self._report(record)
        except CircuitOpen:
            pass
        except (Rejected, NeighbourError) as error:
            await self._settle(record, error)
        except Exception as error:  # the boundary of one delivery: unknown errors are retried
            log.error("delivery.crashed", task_id=record.task_id, exc_info=error)
            await self._settle(record, Transient(f"delivery failed: {type(error).__name__}"))
        else:
            self._acknowledged(record)
            await self._settle(record, None)
        finally:
            self._under_way.discard(record.task_id)
            self.wake()

    async def _settle(self, record: Record, error: Rejected | NeighbourError | None) -> None:
        """Write down what became of a record. While the disk refuses, it stays under way: it must not be sent again."""
        while True:
            try:
                if error is None:
                    await self._outbox.delivered(record.task_id)
                elif isinstance(error, Rejected):
                    await self._bury(record, error)
                else:
                    await self._defer(record, error)
            except OutboxUnwritable as failure:
                log.error("outbox.failed", task_id=record.task_id, reason=str(failure))
                await self._clock.sleep(LOOK_AGAIN_S)
            else:
                return

    async def _report(self, record: Record) -> None:
        receipt, outcome = Receipt(record.task_id), codec.outcome(record)
        if isinstance(outcome, Failure):
            await self._source.fail(receipt, outcome)
        else:
            await self._source.complete(receipt, outcome)

    def _acknowledged(self, record: Record) -> None:
        now = self._clock.now().timestamp()
        self._metrics.delivery("acknowledged")
        end_to_end_s = None if record.created_at is None else max(0.0, now - record.created_at)
        self._metrics.task_acknowledged(record.task_type, end_to_end_s=end_to_end_s)
        log.debug("delivery.acknowledged", task_id=record.task_id, attempts=record.attempts + 1)

    async def _bury(self, record: Record, error: Rejected) -> None:
        await self._outbox.bury(record.task_id, str(error))
        self._metrics.delivery(error.outcome)
        log.error("delivery.refused", task_id=record.task_id, reason=str(error), attempts=record.attempts + 1)

    async def _defer(self, record: Record, error: NeighbourError) -> None:
        attempts = record.attempts + 1
        growing_s = backoff_s(attempts, base=2.0, longest=LONGEST_DEFERRAL_S, rng=self._rng)
        delay_s = max(error.retry_after_s or 0.0, 0.25 + growing_s)
        due_at = self._clock.now().timestamp() + delay_s
        await self._outbox.defer(record.task_id, due_at=due_at, attempts=attempts)
        if isinstance(error, Ambiguous):
            self._metrics.ambiguous_delivery()
        self._metrics.delivery("retried")
        wide = {"reason": str(error), "attempts": attempts, "again_in_s": round(delay_s, 1)}
        log.warning("delivery.deferred", task_id=record.task_id, **wide)
