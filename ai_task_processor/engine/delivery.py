"""Delivery: outbox → task API → acknowledged. Another room with its own patience: no slot waits for it.

Every record is reported until it is acknowledged or refused for good. What was not delivered is
deferred with growing patience, up to a quarter of an hour, and the outbox remembers until when.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from itertools import islice
from math import inf

from ai_task_processor.core.deadline import stalled_s
from ai_task_processor.core.errors import (
    Ambiguous,
    CircuitOpen,
    OutboxUnwritable,
    Rejected,
    RemoteError,
    Transient,
    explained,
)
from ai_task_processor.core.ports import Clock, Outbox, Sink, TaskSource
from ai_task_processor.engine.reporting import Reporter, deferral_s
from ai_task_processor.models.task import Record
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

#: how long a loop with nothing due waits before it looks again, unless it is woken
LOOK_AGAIN_S = 1.0
#: a record becomes a dead letter when, for this long and so often, it failed while others were acknowledged
GIVE_UP_AFTER_S = 86_400.0
GIVE_UP_FAILURES = 10
#: among so many due records a probe is chosen
PROBE_CHOICE = 32
#: So many requests are begun before others get a turn of the loop, which takes two milliseconds. What is begun
#: together is answered together, and erased by one commit: with 8 there are three times as many.
STARTED_AT_ONCE = 32
#: a source that has acknowledged nothing for so long takes nothing at present
TAKES_THEM_S = 1.0
#: slow start: so many reports at once at first and at least; one more after each acknowledgement, half after a failure
FIRST_WINDOW = 4

log = get_logger(__name__)


class Delivery:
    """Reports the outbox's records to the source, ``concurrency`` at a time, in the order they are due.

    A source that has just come back is not met by everything that waited for it: the window opens with
    each acknowledgement. While ``gate`` holds the source, one record at a time is the probe, and not one that
    failed while others were acknowledged: its failure would say nothing about the source.
    """

    def __init__(
        self,
        outbox: Outbox,
        source: TaskSource,
        *,
        sinks: Sequence[Sink] = (),
        gate: Gate,
        concurrency: int,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self._outbox = outbox
        self._reporter = Reporter(source, sinks=sinks, clock=clock, metrics=metrics)
        self._gate = gate
        self._concurrency = concurrency
        self._window = min(FIRST_WINDOW, concurrency)
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._reading = Condition("outbox.failed", "outbox.restored", logging.ERROR)
        self._writing = Condition("outbox.failed", "outbox.restored", logging.ERROR)
        self._under_way: set[str] = set()
        #: kept a moment ago and still in memory: they need not be read back
        self._fresh: dict[str, Record] = {}
        #: may the outbox hold something due that is not among them?
        self._look = True
        self._probe: str | None = None
        self._woken = asyncio.Event()
        self._acknowledged = 0
        self._acknowledged_at = -inf
        # A wall clock that is set by hand or by NTP must not strand what was deferred: this one does not jump.
        self._epoch = clock.now().timestamp() - clock.monotonic()
        #: for records that failed: how often others were acknowledged since the failure before, and the count then
        self._outvoted: dict[str, tuple[int, int]] = {}

    def offer(self, record: Record) -> None:
        """A record that has just been put: deliver it without reading it back, when there is room soon."""
        if len(self._fresh) < self._concurrency:
            self._fresh[record.task_id] = record
        else:
            self._look = True
        self._woken.set()

    @property
    def behind(self) -> bool:
        """Do results wait for their turn although the source takes one after the other?

        Then nothing is gained by making more: they would be listed again and again until they are reported, and
        be read back from the disk. While the source hangs or is held, the outbox takes what comes.
        """
        room = max(0, self._window - len(self._under_way))
        waiting = len(self._fresh) - room >= max(1, self._concurrency // 2)
        return waiting and self._clock.monotonic() - self._acknowledged_at < TAKES_THEM_S

    def wake(self) -> None:
        """The outbox holds something else than we know: read it at once."""
        self._fresh.clear()
        self._look = True
        self._woken.set()

    def _now(self) -> float:
        """Seconds since the epoch, as the wall clock was when this process began."""
        return self._epoch + self._clock.monotonic()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(), name="delivery-beat")
            while True:
                self._woken.clear()
                if not await self._start_due(group):
                    await self._woken.wait()

    async def flushed(self, patience_s: float = inf) -> bool:
        """True when nothing is left to deliver (dead letters stay).

        False when nothing is under way and for ``patience_s`` nothing has left: the source is away.
        """
        # In the time in which this process ran: while it is stopped nothing can leave.
        waiting, moved_at = self._outbox.depth().waiting, self._clock.monotonic() - stalled_s()
        while waiting or self._under_way:
            now, before = self._clock.monotonic() - stalled_s(), waiting
            waiting = self._outbox.depth().waiting
            if waiting < before:
                moved_at = now
            elif now - moved_at >= patience_s and not self._under_way:
                return False
            await self._clock.sleep(0.02)
        return True

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(LOOK_AGAIN_S)
            self._look = True
            self._woken.set()

    async def _start_due(self, group: asyncio.TaskGroup) -> int:
        room = self._room()
        if room <= 0 or self._outbox.depth().waiting <= len(self._under_way):
            return 0
        probing = self._gate.reason is not None
        records = await self._next(room, probing=probing)
        for started, record in enumerate(records, 1):
            self._under_way.add(record.task_id)
            self._fresh.pop(record.task_id, None)
            if probing:
                self._probe = record.task_id
            group.create_task(self._deliver(record), name=f"delivery {record.task_id}")
            if started % STARTED_AT_ONCE == 0:
                # To write requests takes a moment of the loop: others run in between.
                await asyncio.sleep(0)
                if self._gate.reason is not None:
                    return started
        return len(records)

    async def _next(self, room: int, *, probing: bool) -> Sequence[Record]:
        """What to report now: from memory what has just been put, but in good time what the outbox says is due."""
        if not probing and self._fresh and not self._look:
            idle = (record for record in self._fresh.values() if record.task_id not in self._under_way)
            return list(islice(idle, room))
        if not probing and not self._look:
            return ()
        limit = PROBE_CHOICE if probing else room
        self._look = False
        # One more than there is room for: whether there is more must not be asked again and again.
        records = await self._due(limit + 1)
        self._look |= probing or len(records) > limit
        return self._probes(records) if probing else records[:limit]

    def _room(self) -> int:
        if self._gate.wait_s() > 0:
            return 0
        room = self._window - len(self._under_way)
        if self._gate.reason is not None:
            return min(room, 1 if self._probe is None else 0)
        return room

    def _probes(self, due: Sequence[Record]) -> Sequence[Record]:
        """The record that shows best whether the source is back; none while a better one is not due yet."""
        unsuspected = [record for record in due if not self._at_fault(record)]
        bad = sum(times > 0 for times, _ in self._outvoted.values())
        return unsuspected[:1] or (due[:1] if self._outbox.depth().waiting <= bad else ())

    def _at_fault(self, record: Record) -> bool:
        """Were others acknowledged while this one failed?"""
        times, _ = self._outvoted.get(record.task_id, (0, 0))
        return times > 0

    async def _due(self, limit: int) -> Sequence[Record]:
        try:
            records = await self._outbox.due(self._now(), limit, frozenset(self._under_way))
        except Exception as error:  # noqa: BLE001 - the boundary of one look: what cannot be read now waits
            self._reading.note(str(error) if isinstance(error, OutboxUnwritable) else type(error).__name__)
            return ()
        self._reading.note(None)
        return records

    async def _deliver(self, record: Record) -> None:
        """One attempt for one record, and what follows from its answer."""
        try:
            error = await self._attempt(record)
            if not isinstance(error, CircuitOpen):
                await self._settle(record, error)
                self._woken.set()
        finally:
            self._fresh.pop(record.task_id, None)
            self._under_way.discard(record.task_id)
            if self._probe == record.task_id:
                self._probe = None

    async def _attempt(self, record: Record) -> Rejected | RemoteError | None:
        try:
            await self._reporter.report(record)
        except (CircuitOpen, Rejected) as error:
            return error
        except RemoteError as error:
            self._window = max(min(FIRST_WINDOW, self._concurrency), self._window // 2)
            return error
        except Exception as error:  # the boundary of one delivery: unknown errors are retried
            log.error("delivery.crashed", task_id=record.task_id, exc_info=error)
            return Transient(f"delivery failed: {type(error).__name__}")
        self._acknowledged += 1
        self._acknowledged_at = self._clock.monotonic()
        self._window = min(self._window + 1, self._concurrency)
        return None

    async def _settle(self, record: Record, error: Rejected | RemoteError | None) -> None:
        """Write down what became of a record. While the disk refuses, it stays under way: it must not be sent again."""
        while True:
            try:
                await self._write(record, error)
            except OutboxUnwritable as failure:
                self._writing.note(str(failure))
                await self._clock.sleep(LOOK_AGAIN_S)
            else:
                return self._writing.note(None)

    async def _write(self, record: Record, error: Rejected | RemoteError | None) -> None:
        if error is None:
            await self._outbox.delivered(record.task_id)
        elif isinstance(error, Rejected) and error.outcome == "lost":
            # Whoever has the task now has its result, too, or will.
            await self._outbox.delivered(record.task_id)
            self._metrics.delivery("conflict")
            log.warning("delivery.lost", task_id=record.task_id, attempts=record.attempts + 1)
        elif isinstance(error, Rejected):
            await self._bury(record, error.outcome, explained(error))
        elif self._hopeless(record, error):
            reason = f"in vain for a day, while others were acknowledged: {explained(error)}"
            await self._bury(record, "refused", reason)
        else:
            await self._defer(record, error)
            return
        self._outvoted.pop(record.task_id, None)

    async def _bury(self, record: Record, outcome: str, reason: str) -> None:
        attempts = record.attempts + 1
        await self._outbox.bury(record.task_id, reason, attempts=attempts)
        self._metrics.delivery(outcome)
        log.error("delivery.refused", task_id=record.task_id, reason=reason, attempts=attempts)

    async def _defer(self, record: Record, error: RemoteError) -> None:
        attempts = record.attempts + 1
        delay_s = deferral_s(error, attempts, own=self._at_fault(record), rng=self._rng)
        due_at = self._now() + delay_s
        await self._outbox.defer(record.task_id, due_at=due_at, attempts=attempts)
        self._metrics.delivery("retried")
        wide = {"reason": explained(error), "attempts": attempts, "again_in_s": round(delay_s, 1)}
        log.warning("delivery.deferred", task_id=record.task_id, **wide)

    def _hopeless(self, record: Record, error: RemoteError) -> bool:
        """Did this record fail again and again, for a day, while others were acknowledged in between?"""
        if not isinstance(error, Ambiguous | Transient):
            return False
        times, before = self._outvoted.get(record.task_id, (0, self._acknowledged))
        times += self._acknowledged > before
        self._outvoted[record.task_id] = times, self._acknowledged
        return times >= GIVE_UP_FAILURES and self._now() - record.finished_at >= GIVE_UP_AFTER_S
