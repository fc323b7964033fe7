"""One task from its start to the moment its outcome is durable: attempt, classify, persist.

Between the processor's return and ``Outbox.put`` there is no await, so that a cancellation cannot lose a result.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Literal, Protocol

from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import RemoteError, Retry, TaskError
from ai_task_processor.core.ports import Clock, Journal, Outbox, TaskSource
from ai_task_processor.core.records import to_record
from ai_task_processor.engine.faults import Faults
from ai_task_processor.engine.guard import RAISED, raise_cancellation
from ai_task_processor.engine.outcome import MAX_ATTEMPTS, classify
from ai_task_processor.engine.persistence import Persistence
from ai_task_processor.engine.reporting import Reporter
from ai_task_processor.engine.steps import Attempt, TaskSteps
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
from ai_task_processor.ops import tracing
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

log = get_logger(__name__)


class Processor(Protocol):
    """What the factory finds for a task."""

    async def process(self, task: Task) -> TaskResult:
        """The result of the task."""


class TaskRunner:
    """Runs claimed tasks, each until its slot may be reused.

    ``find`` returns the processor of a task; ``persisted`` is called with every outcome that is on disk. ``settling``:
    tasks whose processor has returned and whose slot is about to be free; ``on_settling`` is called when it grows.
    """

    def __init__(
        self,
        *,
        source: TaskSource,
        reporter: Reporter,
        outbox: Outbox,
        journal: Journal,
        steps: TaskSteps,
        find: Callable[[Task], Processor | None],
        persisted: Callable[[Record], None],
        timeout_s: float,
        faults: Faults,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.settling = 0
        self.on_settling: Callable[[], None] = lambda: None
        self._persistence = Persistence(
            outbox, reporter, persisted=persisted, faults=faults, clock=clock, metrics=metrics, rng=rng
        )
        self._source = source
        self._journal = journal
        self._steps = steps
        self._find = find
        self._timeout_s = timeout_s
        self._faults = faults
        self._clock = clock
        self._metrics = metrics
        self._rng = rng

    async def run(self, claim: Claim, tries: Tries) -> bool:
        """Process a task whose attempt has begun. True when its outcome is durable, false when it was released."""
        settled = False
        try:
            with tracing.process(claim.task, tries.started) as span:
                settled = await self._run(claim, tries, span)
        finally:
            await (self._journal.settle if settled else self._journal.give_back)(claim.task.id)
        return settled

    async def cancel(self, claim: Claim) -> None:
        """Persist the outcome ``Cancelled`` for this task."""
        await self._persistence.persist(self._record(claim, Cancelled()))
        await self._journal.settle(claim.task.id)

    async def lost(self, claim: Claim) -> None:
        """Another owner has the task: forget attempts and steps."""
        await self._journal.settle(claim.task.id)
        await self._steps.erase(claim.task.id)

    async def _run(self, claim: Claim, tries: Tries, span: tracing.Span) -> bool:
        task = claim.task if tries.started == claim.task.attempt else replace(claim.task, attempt=tries.started)
        wait_s = None if task.created_at is None else (self._clock.now() - task.created_at).total_seconds()
        self._metrics.task_started(task.type, wait_s=wait_s)
        started_at = self._clock.monotonic()
        outcome, record = await self._attempt(Claim(task, claim.receipt), tries, span)
        self.settling += 1
        self.on_settling()
        try:
            if record is not None:
                await self._persistence.persist(record)
            elif isinstance(outcome, Released):
                await self._faults.release(self._source, claim.receipt, outcome.delay_s, outcome.failure)
        finally:
            self.settling -= 1
        self._log(task, outcome, self._clock.monotonic() - started_at, span)
        return record is not None

    async def _attempt(
        self, claim: Claim, tries: Tries, span: tracing.Span
    ) -> tuple[Outcome | Released, Record | None]:
        """The outcome of one attempt, and its record unless the task is released."""
        task, outcome = claim.task, None
        try:
            processor = self._find(task)
            if processor is None:
                return Released(0.0, "no processor wants it any more"), None
            with Attempt(task), Deadline(min(self._timeout_s, task.timeout_s or inf)):
                result = await processor.process(task)
            return Completed(result), self._record(claim, Completed(result), span)
        except RAISED as error:
            # When the drain timed out or the claim is lost, what the processor raises is no outcome.
            raise_cancellation(error)
            span.failed(error)
            outcome = classify(error, tries, self._rng, min(MAX_ATTEMPTS, task.attempt_limit or MAX_ATTEMPTS))
            expected = isinstance(error, TaskError | Retry | RemoteError | TimeoutError)
            (log.debug if expected else log.warning)("task.attempt_failed", task_id=task.id, exc_info=error)
        return outcome, self._record(claim, outcome, span) if isinstance(outcome, Failed) else None

    def _record(self, claim: Claim, outcome: Outcome, span: tracing.Span = tracing.OFF) -> Record:
        carrier = span.carrier(claim.task.trace)
        return to_record(claim.task, claim.receipt, outcome, self._clock.now().timestamp(), carrier)

    def _log(self, task: Task, outcome: Outcome | Released, took_s: float, span: tracing.Span) -> None:
        """Log and count the end of an attempt."""
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
        span.outcome(status)
        self._metrics.task_settled(task.type, status=status, duration_s=took_s)
