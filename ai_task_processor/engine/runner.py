"""One task from its start to the moment its outcome is safe: journal, attempt, decide, keep.

Between the processor's return and the outbox there is no await, so that no cancellation can fall
between finishing a result and keeping it.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

from ai_task_processor.core import codec
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import OutboxUnwritable, RemoteError, Retry, TaskError
from ai_task_processor.core.ports import Clock, Journal, Marks, Outbox, TaskSource
from ai_task_processor.engine.outcome import decide
from ai_task_processor.engine.persistence import Keeper
from ai_task_processor.engine.reporting import Reporter
from ai_task_processor.models.task import (
    Claim,
    Completed,
    Failed,
    Failure,
    Outcome,
    Record,
    Released,
    Task,
    TaskResult,
    TaskStatus,
    Tries,
    Usage,
)
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

#: for how long a task is left alone that the source says is somebody else's
TAKEN_S = 60.0
#: what an attempt can end with; ``sys.exit()`` in a processor ends its task's attempt and not the daemon
_ENDS = (Exception, BaseExceptionGroup, SystemExit, KeyboardInterrupt, asyncio.CancelledError)

log = get_logger(__name__)


class Processor(Protocol):
    """What the factory finds for a task."""

    async def process(self, task: Task) -> TaskResult:
        """The result of the task."""


class TaskRunner:
    """Runs claimed tasks, each up to the point where its slot may be given to another.

    ``find`` names the processor of a task, ``kept`` is handed every outcome that is on disk. ``settling``
    counts the tasks whose processor has returned and whose slot is about to be free, and ``on_settling`` is
    called when there is one more.
    """

    def __init__(
        self,
        *,
        source: TaskSource,
        outbox: Outbox,
        journal: Journal,
        marks: Marks | None = None,
        find: Callable[[Task], Processor | None],
        kept: Callable[[Record], None],
        timeout_s: float,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.settling = 0
        self.on_settling: Callable[[], None] = lambda: None
        reporter = Reporter(source, clock=clock, metrics=metrics)
        self._keeper = Keeper(outbox, reporter, kept=kept, clock=clock, metrics=metrics, rng=rng)
        self._source = source
        self._journal = journal
        self._marks = marks
        self._find = find
        self._timeout_s = timeout_s
        self._clock = clock
        self._metrics = metrics
        self._rng = rng

    async def run(self, claim: Claim) -> bool:
        """Process one task and return when its outcome is safe (true), or the task given back (false)."""
        try:
            tries = self._journal.begin(claim.task)
        except OutboxUnwritable:
            # Nothing may be paid for whose start cannot be written down; the scheduler waits for the disk.
            await self._source.release(claim.receipt, 0.0)
            return False
        settled = mine = False
        try:
            mine = self._marks is None or await self._marks.begin(claim.receipt)
            if mine:
                settled = await self._run(claim, tries)
            else:
                await self._source.release(claim.receipt, TAKEN_S)
        finally:
            (self._journal.settle if settled else self._journal.give_back)(claim.task.id)
        if self._marks is not None and mine and not settled:
            await self._marks.withdraw(claim.receipt)
        return settled

    async def _run(self, claim: Claim, tries: Tries) -> bool:
        task = claim.task if tries.started == claim.task.attempt else replace(claim.task, attempt=tries.started)
        wait_s = None if task.created_at is None else (self._clock.now() - task.created_at).total_seconds()
        self._metrics.task_started(task.type, wait_s=wait_s)
        started_at = self._clock.monotonic()
        outcome, record = await self._attempt(task, tries)
        self.settling += 1
        self.on_settling()
        try:
            if record is not None:
                await self._keeper.keep(record)
            elif isinstance(outcome, Released):
                await self._source.release(claim.receipt, outcome.delay_s)
        finally:
            self.settling -= 1
        self._tell(task, outcome, self._clock.monotonic() - started_at)
        return record is not None

    async def _attempt(self, task: Task, tries: Tries) -> tuple[Outcome, Record | None]:
        """The processor's answer as an outcome, and its record unless the task is given back."""
        outcome: Outcome
        try:
            processor = self._find(task)
            if processor is None:
                return Released(0.0, "no processor wants it any more"), None
            with Deadline(self._timeout_s):
                result = await processor.process(task)
            return Completed(result), self._success(task, result)
        except _ENDS as error:
            if _being_cancelled():
                # A drain that was cut: whatever the processor makes of it is no answer.
                raise asyncio.CancelledError from error
            outcome = decide(error, tries, self._rng)
            expected = isinstance(error, TaskError | Retry | RemoteError | TimeoutError)
            (log.debug if expected else log.warning)("task.attempt_failed", task_id=task.id, exc_info=error)
        return outcome, self._failure(task, outcome.failure) if isinstance(outcome, Failed) else None

    def _success(self, task: Task, result: TaskResult) -> Record:
        body = b"null" if result.output is None else codec.dumps(result.output)
        vector = None if result.vector is None else bytes(result.vector.data)
        return self._record(task, TaskStatus.SUCCEEDED, body, vector)

    def _failure(self, task: Task, failure: Failure) -> Record:
        body = codec.dumps({"code": failure.code, "message": failure.message})
        return self._record(task, TaskStatus.FAILED, body, None)

    def _record(self, task: Task, status: TaskStatus, body: bytes, vector: bytes | None) -> Record:
        return Record(
            task_id=task.id,
            task_type=task.type,
            status=status,
            fingerprint=codec.fingerprint(task.content),
            finished_at=self._clock.now().timestamp(),
            created_at=None if task.created_at is None else task.created_at.timestamp(),
            body=body,
            vector=vector,
        )

    def _tell(self, task: Task, outcome: Outcome, took_s: float) -> None:
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
