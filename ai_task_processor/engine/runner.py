"""One task from its start to the moment its outcome is durable: attempt, classify, persist.

Between the processor's return and the outbox there is no await, so that no cancellation can fall
between finishing a result and persisting it.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Literal, Protocol

from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import RemoteError, Retry, TaskError
from ai_task_processor.core.ports import Clock, Journal, Outbox, TaskSource
from ai_task_processor.core.records import to_record
from ai_task_processor.engine.outcome import MAX_ATTEMPTS, classify
from ai_task_processor.engine.persistence import Persistence
from ai_task_processor.engine.reporting import Reporter
from ai_task_processor.models.task import (
    Cancelled,
    Claim,
    Completed,
    Failed,
    Outcome,
    Record,
    Released,
    Task,
    TaskResult,
    Tries,
    Usage,
)
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

#: what an attempt can end with; ``sys.exit()`` in a processor ends its task's attempt and not the daemon
_ENDS = (Exception, BaseExceptionGroup, SystemExit, KeyboardInterrupt, asyncio.CancelledError)

log = get_logger(__name__)


class Processor(Protocol):
    """What the factory finds for a task."""

    async def process(self, task: Task) -> TaskResult:
        """The result of the task."""


class TaskRunner:
    """Runs claimed tasks, each up to the point where its slot may be given to another.

    ``find`` names the processor of a task, ``persisted`` is handed every outcome that is on disk. ``settling``
    counts the tasks whose processor has returned and whose slot is about to be free, and ``on_settling`` is
    called when there is one more.
    """

    def __init__(
        self,
        *,
        source: TaskSource,
        outbox: Outbox,
        journal: Journal,
        find: Callable[[Task], Processor | None],
        persisted: Callable[[Record], None],
        timeout_s: float,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.settling = 0
        self.on_settling: Callable[[], None] = lambda: None
        reporter = Reporter(source, clock=clock, metrics=metrics)
        self._persistence = Persistence(outbox, reporter, persisted=persisted, clock=clock, metrics=metrics, rng=rng)
        self._source = source
        self._journal = journal
        self._find = find
        self._timeout_s = timeout_s
        self._clock = clock
        self._metrics = metrics
        self._rng = rng

    async def run(self, claim: Claim, tries: Tries) -> bool:
        """Process a task whose attempt has begun; return when its outcome is durable (true), or it is given back."""
        settled = False
        try:
            settled = await self._run(claim, tries)
        finally:
            await (self._journal.settle if settled else self._journal.give_back)(claim.task.id)
        return settled

    async def cancel(self, claim: Claim) -> None:
        """Nobody wants the result of this task any more: say so."""
        await self._persistence.persist(self._record(claim, Cancelled()))
        await self._journal.settle(claim.task.id)

    async def _run(self, claim: Claim, tries: Tries) -> bool:
        task = claim.task if tries.started == claim.task.attempt else replace(claim.task, attempt=tries.started)
        wait_s = None if task.created_at is None else (self._clock.now() - task.created_at).total_seconds()
        self._metrics.task_started(task.type, wait_s=wait_s)
        started_at = self._clock.monotonic()
        outcome, record = await self._attempt(Claim(task, claim.receipt), tries)
        self.settling += 1
        self.on_settling()
        try:
            if record is not None:
                await self._persistence.persist(record)
            elif isinstance(outcome, Released):
                await self._source.release(claim.receipt, outcome.delay_s)
        finally:
            self.settling -= 1
        self._log(task, outcome, self._clock.monotonic() - started_at)
        return record is not None

    async def _attempt(self, claim: Claim, tries: Tries) -> tuple[Outcome | Released, Record | None]:
        """The processor's answer as an outcome, and its record unless the task is given back."""
        task, outcome = claim.task, None
        try:
            processor = self._find(task)
            if processor is None:
                return Released(0.0, "no processor wants it any more"), None
            with Deadline(min(self._timeout_s, task.timeout_s or inf)):
                result = await processor.process(task)
            return Completed(result), self._record(claim, Completed(result))
        except _ENDS as error:
            if _being_cancelled():
                # A drain that was cut, or a claim that is gone: whatever the processor makes of it is no answer.
                raise asyncio.CancelledError from error
            outcome = classify(error, tries, self._rng, min(MAX_ATTEMPTS, task.attempt_limit or MAX_ATTEMPTS))
            expected = isinstance(error, TaskError | Retry | RemoteError | TimeoutError)
            (log.debug if expected else log.warning)("task.attempt_failed", task_id=task.id, exc_info=error)
        return outcome, self._record(claim, outcome) if isinstance(outcome, Failed) else None

    def _record(self, claim: Claim, outcome: Outcome) -> Record:
        return to_record(claim.task, claim.receipt, outcome, self._clock.now().timestamp())

    def _log(self, task: Task, outcome: Outcome | Released, took_s: float) -> None:
        """One wide line for a settled task."""
        status: Literal["succeeded", "failed", "released"]
        wide = {"task_id": task.id, "task_type": task.type, "seconds": round(took_s, 3), "attempt": task.attempt}
        match outcome:
            case Completed(result):
                tokens = result.usage.total_tokens if isinstance(result.usage, Usage) else None
                log.info("task.completed", **wide, tokens=tokens)
                status = "succeeded"
            case Failed(failure):
                log.warning("task.failed", **wide, code=failure.code)
                status = "failed"
            case Released(delay_s, reason):
                log.info("task.released", **wide, again_in_s=round(delay_s, 1), reason=reason)
                status = "released"
        self._metrics.task_settled(task.type, status=status, duration_s=took_s)


def _being_cancelled() -> bool:
    """Did somebody cancel us? A ``CancelledError`` alone may come from a future that the processor awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
