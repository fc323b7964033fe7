"""Delivers records from the outbox to the source. It has its own concurrency and retries: no slot waits for it.

Every record is reported until it is acknowledged or refused for good. After a failed report it is deferred
with a growing delay of up to 15 minutes; the due time is stored in the outbox. A record that is acknowledged and
not yet in the sinks after the report stays in the outbox as acknowledged: only the sinks that lack it are tried again.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from math import inf

from ai_task_processor.core.component import Problem
from ai_task_processor.core.deadline import stalled_s
from ai_task_processor.core.errors import (
    Ambiguous,
    CircuitOpen,
    NoToken,
    OutboxUnwritable,
    Rejected,
    RemoteError,
    SinkFailed,
    Transient,
    explained,
)
from ai_task_processor.core.ports import Clock, Outbox, Sink, StepStore, TaskSource
from ai_task_processor.engine.faults import Faults, all_of
from ai_task_processor.engine.guard import RAISED, raise_cancellation
from ai_task_processor.engine.outcome import text
from ai_task_processor.engine.reporting import Reporter, deferral_s, requested_s
from ai_task_processor.models.task import Record
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

#: seconds between two looks into the outbox when nothing wakes the loop
LOOK_AGAIN_S = 1.0
#: a record becomes a dead letter when it failed so often and for so long while others were acknowledged
GIVE_UP_AFTER_S = 86_400.0
GIVE_UP_FAILURES = 10
#: the number of due records among which a probe is chosen
PROBE_CHOICE = 32
#: Reports that are started before other tasks get a turn of the loop (two milliseconds). Reports that start
#: together are answered together and erased by one commit: with 8 there are three times as many commits.
STARTED_AT_ONCE = 32
#: a source counts as down when it has acknowledged nothing for this long
UP_WITHIN_S = 1.0
#: slow start: concurrent reports at first and at least; one more after each acknowledgement, half after a failure
FIRST_WINDOW = 4

log = get_logger(__name__)


class Delivery:
    """Reports the outbox's records to the source, ``concurrency`` at a time, in the order they are due.

    The window of concurrent reports grows with each acknowledgement, so that a source that comes back is not
    overloaded. While ``gate`` is paused, one record at a time is the probe. A record that failed while others
    were acknowledged is no probe: its failure would say nothing about the source.
    """

    def __init__(
        self,
        outbox: Outbox,
        source: TaskSource,
        *,
        steps: StepStore,
        sinks: Sequence[Sink] = (),
        gate: Gate,
        concurrency: int,
        faults: Faults,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self._outbox = outbox
        self._steps = steps
        self.reporter = Reporter(source, sinks=sinks, clock=clock, metrics=metrics)
        self._gate = gate
        self._concurrency = concurrency
        self._faults = faults
        self._window = min(FIRST_WINDOW, concurrency)
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._reading = Condition("outbox.failed", "outbox.restored", logging.ERROR)
        self._writing = Condition("outbox.failed", "outbox.restored", logging.ERROR)
        self._holding = Condition("delivery.held", "delivery.resumed")
        self._held_until = -inf
        self._in_flight: set[str] = set()
        #: records that were just persisted and are still in memory: they need not be read back
        self._fresh: dict[str, Record] = {}
        #: the outbox may hold due records that are not among them
        self._look = True
        self._probe: str | None = None
        self._woken = asyncio.Event()
        self._acknowledged = 0
        self.acknowledged_at = -inf
        # Due times are compared with a clock that never jumps: setting the wall clock must not delay records.
        self._epoch = clock.now().timestamp() - clock.monotonic()
        #: per failed record: its failures with others acknowledged since the one before, ``_acknowledged`` at the last
        self._own_failures: dict[str, tuple[int, int]] = {}

    def offer(self, record: Record) -> None:
        """Deliver a record that has just been put, without reading it back if it can be sent soon."""
        if len(self._fresh) < self._concurrency:
            self._fresh[record.task_id] = record
        else:
            self._look = True
        self._woken.set()

    @property
    def behind(self) -> bool:
        """Whether results queue up although the source acknowledges reports.

        Claiming more then gains nothing: results that wait are listed again until they are reported, and must be
        read back from the disk. While the source is down or paused, results go to the outbox.
        """
        capacity = max(0, self._window - len(self._in_flight))
        waiting = len(self._fresh) - capacity >= max(1, self._concurrency // 2)
        return waiting and self._clock.monotonic() - self.acknowledged_at < UP_WITHIN_S

    def problems(self) -> Sequence[Problem]:
        """Why tasks wait for delivery, for ``why_idle``."""
        if not self.behind:
            return ()
        text = f"{len(self._fresh)} results wait to be reported, and reports take longer than tasks"
        message = f"{text}: nothing is claimed until delivery catches up"
        return (Problem("delivery_behind", message, ready=True, when="free"),)

    def wake(self) -> None:
        """Read the outbox at once: somebody else has changed it. A circuit of the source's own is tried at once."""
        self._held_until = -inf
        self._fresh.clear()
        self._look = True
        self._woken.set()

    def _now(self) -> float:
        """Seconds since the epoch, by the wall clock at the start of this process plus the monotonic time since."""
        return self._epoch + self._clock.monotonic()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(), name="delivery-beat")
            while True:
                self._woken.clear()
                if not await self._start_due(group):
                    await self._woken.wait()

    async def flushed(self, idle_timeout_s: float = inf) -> bool:
        """Wait until nothing is left to deliver: true (dead letters stay).

        False when no report is in flight and nothing was delivered for ``idle_timeout_s``: the source is down.
        """
        # Stalls do not count: a stopped process cannot deliver.
        waiting, moved_at = self._outbox.depth().waiting, self._clock.monotonic() - stalled_s()
        while waiting or self._in_flight:
            now, before = self._clock.monotonic() - stalled_s(), waiting
            waiting = self._outbox.depth().waiting
            if waiting < before:
                moved_at = now
            elif now - moved_at >= idle_timeout_s and not self._in_flight:
                return False
            await self._clock.sleep(0.02)
        return True

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(LOOK_AGAIN_S)
            self._look = True
            self._woken.set()

    async def _start_due(self, group: asyncio.TaskGroup) -> int:
        capacity = self._capacity()
        if capacity <= 0 or self._outbox.depth().waiting <= len(self._in_flight):
            return 0
        probing = self._gate.reason is not None
        records = await self._next(capacity, probing=probing)
        for started, record in enumerate(records, 1):
            self._in_flight.add(record.task_id)
            self._fresh.pop(record.task_id, None)
            if probing:
                self._probe = record.task_id
            group.create_task(self._deliver(record), name=f"delivery {record.task_id}")
            if started % STARTED_AT_ONCE == 0:
                # Writing requests blocks the loop for a moment: let other tasks run in between.
                await asyncio.sleep(0)
                if self._gate.reason is not None:
                    return started
        return len(records)

    async def _next(self, capacity: int, *, probing: bool) -> Sequence[Record]:
        """The records to report now: those still in memory, or, when a look is due, those that the outbox lists."""
        if not probing and self._fresh and not self._look:
            idle = (record for record in self._fresh.values() if record.task_id not in self._in_flight)
            return list(islice(idle, capacity))
        if not probing and not self._look:
            return ()
        limit = PROBE_CHOICE if probing else capacity
        self._look = False
        # One more than can start now: it shows without another query whether more are due.
        records = await self._due(limit + 1)
        self._look |= probing or len(records) > limit
        return self._probes(records) if probing else records[:limit]

    def _capacity(self) -> int:
        if self._gate.wait_s() > 0 or self._clock.monotonic() < self._held_until:
            return 0
        capacity = self._window - len(self._in_flight)
        if self._gate.reason is not None:
            return min(capacity, 1 if self._probe is None else 0)
        return capacity

    def _probes(self, due: Sequence[Record]) -> Sequence[Record]:
        """The record that shows best whether the source is up again; none while a better one is not due yet."""
        usable = [record for record in due if not self._at_fault(record)]
        usable.sort(key=lambda record: record.acknowledged)  # these show nothing: they are not reported again
        bad = sum(times > 0 for times, _ in self._own_failures.values())
        return usable[:1] or (due[:1] if self._outbox.depth().waiting <= bad else ())

    def _at_fault(self, record: Record) -> bool:
        """Whether others were acknowledged while this one failed."""
        times, _ = self._own_failures.get(record.task_id, (0, 0))
        return times > 0

    async def _due(self, limit: int) -> Sequence[Record]:
        with self._faults.of(self._outbox, "due"):
            try:
                records = all_of(Record, await self._outbox.due(self._now(), limit, frozenset(self._in_flight)))
            except OutboxUnwritable as error:
                self._reading.note(str(error))
            else:
                self._reading.note(None)
                return records
        return ()

    async def _deliver(self, record: Record) -> None:
        """Report one record once, and store the outcome."""
        try:
            error = await self._attempt(record)
            if isinstance(error, CircuitOpen):
                self._hold(error)
            else:
                method = "delivered" if error is None else "defer or bury"
                await self._stored(method, lambda: self._settle(record, error))
                self._woken.set()
        finally:
            self._fresh.pop(record.task_id, None)
            self._in_flight.discard(record.task_id)
            if self._probe == record.task_id:
                self._probe = None

    async def _attempt(self, record: Record) -> Rejected | RemoteError | None:
        try:
            if self.reporter.expired(record):
                log.warning("delivery.expired", task_id=record.task_id, attempts=record.attempts, reason=record.reason)
                return None
            left = self.reporter.left
            taken = await self._taken(record) if left else frozenset[str]()
            if not record.acknowledged:
                await self.reporter.report(record)
                self._holding.note(None)
                if left:
                    await self._stored("acknowledged", lambda: self._outbox.acknowledged(record.task_id, left))
            if left:
                await self._finish(record, taken)
        except (CircuitOpen, Rejected) as error:
            return error
        except RemoteError as error:
            self._window = max(min(FIRST_WINDOW, self._concurrency), self._window // 2)
            return error
        except RAISED as error:  # the boundary of one delivery: unknown errors are retried
            raise_cancellation(error)
            log.error("delivery.crashed", task_id=record.task_id, exc_info=error)
            return Transient(f"delivery failed: {type(error).__name__}")
        self._acknowledged += 1
        self.acknowledged_at = self._clock.monotonic()
        self._window = min(self._window + 1, self._concurrency)
        return None

    async def _taken(self, record: Record) -> frozenset[str]:
        """The sinks after the report that have the record: a kill may have come before it was deleted."""
        if not record.acknowledged or not self.reporter.several:
            return frozenset()
        try:
            return frozenset(await self._steps.load(record.task_id, record.fingerprint))
        except OutboxUnwritable as error:
            raise Transient(f"which sinks have it cannot be read: {error}") from error

    async def _finish(self, record: Record, before: frozenset[str]) -> None:
        """While one sink lacks the record, store which others have it: it is not written to them again."""
        taken, stored = set(before), set(before)

        async def store() -> None:
            for name in sorted(taken - stored):
                save = partial(self._steps.save, record.task_id, record.fingerprint, name, b"true")
                await self._stored("steps.save", save)
                stored.add(name)

        try:
            await self.reporter.finish(record, taken, store)
        except (SinkFailed, Rejected):
            await store()
            raise

    def _hold(self, error: CircuitOpen) -> None:
        """The record was not tried and stays as it is. ``gate`` holds the others itself; a circuit that the source
        has beside it says for how long.
        """
        if self._gate.reason is None:
            self._held_until = self._clock.monotonic() + max(LOOK_AGAIN_S, requested_s(error))
            self._holding.note(str(error))

    async def _stored(self, method: str, change: Callable[[], Awaitable[None]]) -> None:
        """Change the outbox. Until the disk accepts it the record stays in flight: it is not sent again."""
        while True:
            with self._faults.of(self._outbox, method):
                try:
                    await change()
                except OutboxUnwritable as failure:
                    self._writing.note(str(failure))
                else:
                    return self._writing.note(None)
            await self._clock.sleep(LOOK_AGAIN_S)

    async def _settle(self, record: Record, error: Rejected | RemoteError | None) -> None:
        if error is None:
            await self._outbox.delivered(record.task_id)
        elif isinstance(error, Rejected) and error.outcome == "lost":
            # Another owner has the task now and will report its result.
            await self._outbox.delivered(record.task_id)
            self._metrics.delivery("conflict")
            log.warning("delivery.lost", task_id=record.task_id, attempts=record.attempts + 1)
        elif isinstance(error, Rejected):
            await self._bury(record, error.outcome, text(explained(error)))
        elif self._should_give_up(record, error):
            reason = f"in vain for a day, while others were acknowledged: {explained(error)}"
            await self._bury(record, "refused", text(reason))
        else:
            await self._defer(record, error)
            return
        self._own_failures.pop(record.task_id, None)

    async def _bury(self, record: Record, outcome: str, reason: str) -> None:
        attempts = record.attempts + 1
        await self._outbox.bury(record.task_id, reason, attempts=attempts)
        self._metrics.delivery(outcome)
        log.error("delivery.refused", task_id=record.task_id, reason=reason, attempts=attempts)

    async def _defer(self, record: Record, error: RemoteError) -> None:
        attempts = record.attempts + _was_tried(error)
        delay_s = deferral_s(error, attempts, own=self._at_fault(record), rng=self._rng)
        due_at = self._now() + delay_s
        reason = text(explained(error))
        await self._outbox.defer(record.task_id, due_at=due_at, attempts=attempts, reason=reason)
        self._metrics.delivery("retried")
        wide = {"reason": reason, "attempts": attempts, "again_in_s": round(delay_s, 1)}
        log.warning("delivery.deferred", task_id=record.task_id, **wide)

    def _should_give_up(self, record: Record, error: RemoteError) -> bool:
        """Count a failure: true when the record failed for a day while others were acknowledged in between.

        False for a failure of a sink: a dead letter is what the source does not take.
        """
        if not isinstance(error, Ambiguous | Transient | SinkFailed):
            return False
        times, before = self._own_failures.get(record.task_id, (0, self._acknowledged))
        times += self._acknowledged > before
        self._own_failures[record.task_id] = times, self._acknowledged
        if isinstance(error, SinkFailed):
            return False
        return times >= GIVE_UP_FAILURES and self._now() - record.finished_at >= GIVE_UP_AFTER_S


def _was_tried(error: RemoteError) -> bool:
    """Whether anything was sent: not without a token, and not to a sink whose circuit is open."""
    return error.tried if isinstance(error, SinkFailed) else not isinstance(error, NoToken)
