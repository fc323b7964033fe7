"""Persists outcomes in the outbox, or reports them directly while the disk fails.

A result was paid for and must not be lost. While the disk is full, the result stays in memory in its slot, no new
task is claimed, and the result is reported to the source directly, so that a restart loses little.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

from ai_task_processor.core.errors import CircuitOpen, OutboxUnwritable, Rejected, RemoteError, explained
from ai_task_processor.core.ports import Clock, Outbox
from ai_task_processor.engine.faults import Faults
from ai_task_processor.engine.guard import RAISED, contained, raise_cancellation
from ai_task_processor.engine.outcome import text
from ai_task_processor.engine.reporting import LONGEST_DEFERRAL_S, Reporter, deferral_s, requested_s
from ai_task_processor.models.task import Record
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

COMMIT_RETRY_S = 1.0

log = get_logger(__name__)


@dataclass(slots=True)
class _Direct:
    """The direct reports of a record that could not be committed; ``next_at`` is on the monotonic clock.

    ``taken``: the sinks after the report that have it; ``finished``: it is acknowledged and in every sink.
    """

    record: Record
    taken: set[str] = field(default_factory=set)
    finished: bool = False
    refused: Rejected | None = None
    attempts: int = 0
    next_at: float = 0.0


class Persistence:
    """Stores outcomes; ``persisted`` is called with each that is on disk and must still be reported."""

    def __init__(
        self,
        outbox: Outbox,
        reporter: Reporter,
        *,
        persisted: Callable[[Record], None],
        faults: Faults,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self._outbox = outbox
        self._reporter = reporter
        self._persisted = persisted
        self._faults = faults
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._condition = Condition("outbox.failed", "outbox.restored", logging.ERROR)

    async def persist(self, record: Record) -> None:
        """Return when the record is committed, or acknowledged and in every sink, and the disk works.

        No await before its acceptance.

        When cancelled, a commit under way goes on; a result that is lost is counted.
        """
        direct = _Direct(record)
        while not await self._commit(direct):
            try:
                await self._report(direct)
                await self._clock.sleep(COMMIT_RETRY_S)
            except asyncio.CancelledError:
                if not direct.finished:
                    self._count_lost(record)
                raise
        if not direct.finished and direct.refused is None:
            self._persisted(direct.record)

    async def _commit(self, direct: _Direct) -> bool:
        """Commit; false when the disk fails. Finished: put as a test of the disk, and deleted. Refused: buried."""
        record = direct.record
        with self._faults.of(self._outbox, "put"):
            try:
                if direct.finished or direct.refused:
                    # So that delivery does not find it before it is deleted or buried.
                    away_s = self._clock.now().timestamp() + LONGEST_DEFERRAL_S
                    await self._outbox.put(replace(record, due_at=away_s))
                if direct.finished or (direct.refused and direct.refused.outcome == "lost"):
                    await self._outbox.delivered(record.task_id)
                elif direct.refused:
                    reason, attempts = text(explained(direct.refused)), direct.attempts + 1
                    await self._outbox.bury(record.task_id, reason, attempts=attempts)
                    self._metrics.delivery(direct.refused.outcome)
                    log.error("delivery.refused", task_id=record.task_id, reason=reason, attempts=attempts)
                else:
                    await self._put(record)
            except OutboxUnwritable as error:
                self._condition.note(str(error))
            else:
                self._condition.note(None)
                return True
        return False

    async def _put(self, record: Record) -> None:
        """Commit without being cancelled. A commit that fails after the cancellation is not retried: a lost result."""
        put = self._outbox.put(record)
        commit = asyncio.ensure_future(contained(lambda: put) if asyncio.iscoroutine(put) else put)
        # Not ``asyncio.shield``: it takes three times as long, for every task.
        done: asyncio.Future[None] = commit.get_loop().create_future()
        commit.add_done_callback(lambda _: None if done.done() else done.set_result(None))
        try:
            await done
        except asyncio.CancelledError:
            commit.add_done_callback(lambda commit: self._count_lost(record) if commit.exception() else None)
            raise
        commit.result()

    async def _report(self, direct: _Direct) -> None:
        """Report the record from memory, with the delays of delivery. A refusal is stored when the disk works again."""
        if direct.finished or direct.refused or self._clock.monotonic() < direct.next_at:
            return
        try:
            if not direct.record.acknowledged:
                await self._reporter.report(direct.record)
                direct.record = replace(direct.record, acknowledged=True)
            await self._reporter.finish(direct.record, direct.taken)
            direct.finished = True
        except CircuitOpen as error:
            direct.next_at = self._clock.monotonic() + requested_s(error)
        except Rejected as error:
            direct.refused = error
        except RAISED as error:  # the boundary of one delivery
            raise_cancellation(error)
            pause_s = inf
            if isinstance(error, RemoteError):
                pause_s = deferral_s(error, direct.attempts, own=False, rng=self._rng)
            direct.attempts += 1
            direct.next_at = self._clock.monotonic() + pause_s

    def _count_lost(self, record: Record) -> None:
        self._metrics.result_lost()
        log.critical("result.lost", task_id=record.task_id)
