"""Persists outcomes: on disk, or acknowledged by the source while the disk refuses them.

A result was paid for. While the disk is full its slot holds it in memory, no new task is claimed,
and the result is reported directly, so that even then a restart finds little to lose.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from ai_task_processor.core.errors import CircuitOpen, OutboxUnwritable, Rejected, RemoteError, explained
from ai_task_processor.core.ports import Clock, Outbox
from ai_task_processor.engine.reporting import LONGEST_DEFERRAL_S, Reporter, deferral_s
from ai_task_processor.models.task import Record
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

COMMIT_RETRY_S = 1.0

log = get_logger(__name__)


@dataclass(slots=True)
class _Direct:
    """What has been tried for a record that the disk refuses; ``next_at`` is on the monotonic clock."""

    acknowledged: bool = False
    refused: Rejected | None = None
    attempts: int = 0
    next_at: float = 0.0


class Persistence:
    """Takes outcomes; ``persisted`` is handed each that is on disk and still to be reported."""

    def __init__(
        self,
        outbox: Outbox,
        reporter: Reporter,
        *,
        persisted: Callable[[Record], None],
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self._outbox = outbox
        self._reporter = reporter
        self._persisted = persisted
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._condition = Condition("outbox.failed", "outbox.restored", logging.ERROR)

    async def persist(self, record: Record) -> None:
        """Return when the record is safe and the disk works. Its acceptance has no await before it.

        Cancelled, it loses nothing that the disk still takes; what is lost is counted.
        """
        direct = _Direct()
        while not await self._commit(record, direct):
            try:
                await self._report(record, direct)
                await self._clock.sleep(COMMIT_RETRY_S)
            except asyncio.CancelledError:
                if not direct.acknowledged:
                    self._lose(record)
                raise
        if not direct.acknowledged and direct.refused is None:
            self._persisted(record)

    async def _commit(self, record: Record, direct: _Direct) -> bool:
        """Does the disk take it? What is acknowledged is put only to see that, and what is refused to be buried."""
        try:
            if direct.acknowledged or direct.refused:
                # Delivery must not find it in between.
                away_s = self._clock.now().timestamp() + LONGEST_DEFERRAL_S
                await self._outbox.put(replace(record, due_at=away_s))
            if direct.acknowledged or (direct.refused and direct.refused.outcome == "lost"):
                await self._outbox.delivered(record.task_id)
            elif direct.refused:
                reason, attempts = explained(direct.refused), direct.attempts + 1
                await self._outbox.bury(record.task_id, reason, attempts=attempts)
                self._metrics.delivery(direct.refused.outcome)
                log.error("delivery.refused", task_id=record.task_id, reason=reason, attempts=attempts)
            else:
                await self._put(record)
        except Exception as error:  # noqa: BLE001 - the boundary of one commit: whatever it was, the result stays
            self._condition.note(str(error) if isinstance(error, OutboxUnwritable) else type(error).__name__)
            return False
        self._condition.note(None)
        return True

    async def _put(self, record: Record) -> None:
        """A commit goes on when its task is cancelled; should it fail then, nobody is left to try again."""
        kept = asyncio.ensure_future(self._outbox.put(record))
        # Not ``asyncio.shield``, which takes three times as long, once for each task.
        done: asyncio.Future[None] = kept.get_loop().create_future()
        kept.add_done_callback(lambda _: None if done.done() else done.set_result(None))
        try:
            await done
        except asyncio.CancelledError:
            kept.add_done_callback(lambda kept: self._lose(record) if kept.exception() else None)
            raise
        kept.result()

    async def _report(self, record: Record, direct: _Direct) -> None:
        """Tell the source from memory, with the patience of any delivery. A refusal waits for the disk: it is kept."""
        if direct.acknowledged or direct.refused or self._clock.monotonic() < direct.next_at:
            return
        try:
            await self._reporter.report(record)
            direct.acknowledged = True
        except CircuitOpen:
            return
        except Rejected as error:
            direct.refused = error
        except Exception as error:  # noqa: BLE001 - the boundary of one delivery
            pause_s = inf
            if isinstance(error, RemoteError):
                pause_s = deferral_s(error, direct.attempts, own=False, rng=self._rng)
            direct.attempts += 1
            direct.next_at = self._clock.monotonic() + pause_s

    def _lose(self, record: Record) -> None:
        self._metrics.result_lost()
        log.critical("result.lost", task_id=record.task_id)
