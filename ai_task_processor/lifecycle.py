"""One task from its start to the moment its outcome is safe: attempt, decide, keep.

Between the processor's return and the outbox there is no await, so that no cancellation can fall
between finishing a result and keeping it.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ai_task_processor import codec
from ai_task_processor.errors import NeighbourError, OutboxUnwritable, Retry, TaskError
from ai_task_processor.logs import get_logger
from ai_task_processor.metrics import Metrics
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
)
from ai_task_processor.ports import Clock, Outbox, TaskSource

MAX_ATTEMPTS = 3
LONGEST_RELEASE_S = 300.0
MAX_MESSAGE = 500
COMMIT_RETRY_S = 1.0
#: attempts are remembered for so many unfinished tasks
REMEMBERED_TASKS = 100_000

log = get_logger(__name__)


class Processor(Protocol):
    """What the factory finds for a task."""

    async def process(self, task: Task) -> TaskResult:
        """The result of the task."""


@dataclass(slots=True)
class Tries:
    """How often an unfinished task was started, and how often its processor crashed on it."""

    started: int = 0
    crashed: int = 0


def decide(error: Exception, tries: Tries, rng: random.Random) -> Failed | Released:
    """What a failed attempt means: whose fault it is decides. Counts a crash in ``tries``.

    Only the task's own fault, or a processor that crashed on it three times, ends it ``failed``.
    """
    if isinstance(error, TaskError):
        return Failed(Failure(error.code, error.message[:MAX_MESSAGE]))
    if isinstance(error, Retry):
        return Released(max(0.0, error.delay_s), "the processor asked for more time")
    growing_s = min(2.0 ** min(tries.started, 16), LONGEST_RELEASE_S) * rng.uniform(0.5, 1.0)
    if isinstance(error, NeighbourError):
        return Released(error.retry_after_s if error.retry_after_s is not None else growing_s, str(error))
    name = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
    tries.crashed += 1
    if tries.crashed >= MAX_ATTEMPTS:
        return Failed(Failure("processor_error", f"{MAX_ATTEMPTS} attempts ended with {name}"))
    return Released(growing_s, f"processor_error: {name}")


class TaskRunner:
    """Runs claimed tasks, each up to the point where its slot may be given to another.

    ``find`` names the processor of a task, ``kept`` is called when an outcome is on disk. ``settling``
    counts the tasks whose processor has returned and whose slot is about to be free.
    """

    def __init__(
        self,
        *,
        source: TaskSource,
        outbox: Outbox,
        find: Callable[[Task], Processor | None],
        kept: Callable[[], None],
        timeout_s: float,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
    ) -> None:
        self.settling = 0
        self._source = source
        self._outbox = outbox
        self._find = find
        self._kept = kept
        self._timeout_s = timeout_s
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._tries: OrderedDict[str, Tries] = OrderedDict()

    async def run(self, claim: Claim) -> None:
        """Process one task and return when its outcome is on disk, or the task given back."""
        task = claim.task
        tries = self._begin(task)
        started_at = self._clock.monotonic()
        outcome, record = await self._attempt(task, tries)
        self.settling += 1
        try:
            await self._keep(claim, outcome, record)
        finally:
            self.settling -= 1
        self._tell(task, outcome, tries, self._clock.monotonic() - started_at)

    def _begin(self, task: Task) -> Tries:
        tries = self._tries.setdefault(task.id, Tries())
        tries.started += 1
        while len(self._tries) > REMEMBERED_TASKS:
            self._tries.popitem(last=False)
        wait_s = None if task.created_at is None else (self._clock.now() - task.created_at).total_seconds()
        self._metrics.task_started(task.type, wait_s=wait_s)
        return tries

    async def _attempt(self, task: Task, tries: Tries) -> tuple[Outcome, Record | None]:
        """The processor's answer as an outcome, and its record unless the task is given back."""
        outcome: Outcome
        try:
            processor = self._find(task)
            if processor is None:
                return Released(0.0, "no processor wants it any more"), None
            async with asyncio.timeout(self._timeout_s):
                result = await processor.process(task)
            return Completed(result), self._success(task, result)
        except Exception as error:  # noqa: BLE001 - the boundary of one task
            outcome = decide(error, tries, self._rng)
            expected = isinstance(error, TaskError | Retry | NeighbourError | TimeoutError)
            (log.debug if expected else log.warning)("task.attempt_failed", task_id=task.id, exc_info=error)
        return outcome, self._failure(task, outcome.failure) if isinstance(outcome, Failed) else None

    async def _keep(self, claim: Claim, outcome: Outcome, record: Record | None) -> None:
        if record is None:
            delay_s = outcome.delay_s if isinstance(outcome, Released) else 0.0
            return await self._source.release(claim.receipt, delay_s)
        while True:
            try:
                await self._outbox.put(record)
                return self._kept()
            except OutboxUnwritable as error:
                log.error("outbox.failed", task_id=record.task_id, reason=str(error))
            await self._hold(record)

    async def _hold(self, record: Record) -> None:
        """The result was paid for: keep it in memory, and its slot with it, until the disk takes it."""
        try:
            await self._clock.sleep(COMMIT_RETRY_S)
        except asyncio.CancelledError:
            self._metrics.result_lost()
            log.critical("result.lost", task_id=record.task_id)
            raise

    def _success(self, task: Task, result: TaskResult) -> Record:
        body = b"null" if result.output is None else codec.dumps(result.output)
        vector = None if result.vector is None else result.vector.data
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

    def _tell(self, task: Task, outcome: Outcome, tries: Tries, took_s: float) -> None:
        """One wide line for a settled task."""
        status: Literal["succeeded", "failed", "released"]
        wide = {"task_id": task.id, "task_type": task.type, "seconds": round(took_s, 3), "attempt": tries.started}
        match outcome:
            case Completed(result):
                tokens = result.usage.total_tokens if result.usage else None
                log.info("task.completed", **wide, tokens=tokens)
                status = "succeeded"
            case Failed(failure):
                log.warning("task.failed", **wide, code=failure.code)
                status = "failed"
            case Released(delay_s, reason):
                log.info("task.released", **wide, again_in_s=round(delay_s, 1), reason=reason)
                status = "released"
        if status != "released":
            self._tries.pop(task.id, None)
        self._metrics.task_settled(task.type, status=status, duration_s=took_s)
