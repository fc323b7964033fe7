"""Reports an outcome once, to its source and the sinks; and the delay before the next report."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import (
    Ambiguous,
    CircuitOpen,
    NeverAcknowledged,
    Rejected,
    RemoteError,
    SinkFailed,
    TimedOut,
    explained,
)
from ai_task_processor.core.ports import Clock, Sink, TaskSource
from ai_task_processor.core.records import to_outcome
from ai_task_processor.engine.guard import RAISED, raise_cancellation
from ai_task_processor.engine.outcome import bounded
from ai_task_processor.models.task import Record
from ai_task_processor.net.resilience import backoff_s
from ai_task_processor.ops import tracing
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

#: longest deferral in seconds of a record that fails while others are acknowledged
LONGEST_DEFERRAL_S = 900.0
#: and of one that fails like all others: it must not wait long once the source is up again
LONGEST_ABSENCE_S = 60.0

log = get_logger(__name__)


def deferral_s(error: RemoteError, attempts: int, *, own: bool, rng: random.Random) -> float:
    """The delay after this many failed reports of one record, with full jitter.

    ``own``: others are acknowledged, so the record itself is probably at fault; only then the delay grows long.
    """
    longest = LONGEST_DEFERRAL_S if own else LONGEST_ABSENCE_S
    return max(requested_s(error), 0.25 + backoff_s(attempts, base=2.0, longest=longest - 0.25, rng=rng))


def requested_s(error: RemoteError) -> float:
    """The delay that the remote asked for. An outbox takes a record that is due later for one that was stranded."""
    return bounded(error.retry_after_s, LONGEST_DEFERRAL_S)


class Reporter:
    """Reports records to the source, and writes them to the sinks before or after.

    A sink that fails is logged by its name when that begins, changes and ends, whatever it raises: ``SinkFailed``.
    """

    def __init__(self, source: TaskSource, *, sinks: Sequence[Sink] = (), clock: Clock, metrics: Metrics) -> None:
        self._source = source
        self._before = [sink for sink in sinks if sink.order == "before_report"]
        self._after = [sink for sink in sinks if sink.order == "after_report"]
        self._conditions = {sink.name: Condition("sink.failed", "sink.restored") for sink in sinks}
        self._clock = clock
        self._metrics = metrics

    @property
    def left(self) -> str:
        """What an acknowledged record waits for; empty when no sink is written after the acknowledgement."""
        return f"acknowledged; not in sink {', '.join(sink.name for sink in self._after)} yet" if self._after else ""

    async def report(self, record: Record) -> None:
        """Write to the sinks before, and return once the source has acknowledged the record: ``finish`` comes next.

        Raises what ``TaskSource.report`` raises, ``TimedOut`` when it takes too long, ``SinkFailed``, and
        ``ValueError`` when the record cannot be read.
        """
        outcome = to_outcome(record)
        for sink in self._before:
            await self._call(sink, sink.write, record)
        try:
            with tracing.settle(record):
                with Deadline(self._source.report_within_s):
                    await self._source.report(record.receipt, outcome)
                self._acknowledged(record)
        except (Ambiguous, NeverAcknowledged):
            self._metrics.ambiguous_delivery()
            raise
        except TimeoutError as error:
            self._metrics.ambiguous_delivery()
            raise TimedOut("the source did not acknowledge a report in time") from error
        except Rejected as error:
            if error.outcome in ("lost", "gone"):
                for sink in self._before:
                    await self._discard(sink, record)
            raise

    def _acknowledged(self, record: Record) -> None:
        now = self._clock.now().timestamp()
        self._metrics.delivery("acknowledged")
        end_to_end_s = None if record.created_at is None else max(0.0, now - record.created_at)
        self._metrics.task_acknowledged(record.task_type, end_to_end_s=end_to_end_s)
        log.info(
            "delivery.acknowledged",
            task_id=record.task_id,
            task_type=record.task_type,
            status=record.status,
            attempts=record.attempts + 1,
            end_to_end_seconds=None if end_to_end_s is None else round(end_to_end_s, 3),
        )

    @property
    def several(self) -> bool:
        """Whether more than one sink is written after the report."""
        return len(self._after) > 1

    def expired(self, record: Record) -> bool:
        """Whether nobody wants the record any more."""
        return self._source.expired(record.receipt)

    async def finish(self, record: Record, taken: set[str], store: Callable[[], Awaitable[None]] | None = None) -> None:
        """Write an acknowledged record to the sinks after the report, to each whose name is not in ``taken``.

        At once, so that none waits for another. A sink that takes it is added to ``taken``. ``store`` is called while
        others do not have it yet, so that a kill does not repeat what was taken. Raises ``SinkFailed``, and
        ``Rejected`` when the only sinks that lack it refuse it for good.
        """
        failures, refusals = list[SinkFailed](), list[str]()

        async def write(sink: Sink) -> None:
            try:
                await self._call(sink, sink.write, record)
                taken.add(sink.name)
            except SinkFailed as error:
                failures.append(error)
            except Rejected as error:
                refusals.append(f"sink {sink.name}: {explained(error)}")

        lacking = [sink for sink in self._after if sink.name not in taken]
        if len(lacking) > 1:
            async with asyncio.TaskGroup() as group:
                names = {sink: f"sink {sink.name} {record.task_id}" for sink in lacking}
                writes = {group.create_task(write(sink), name=name) for sink, name in names.items()}
                while writes:
                    _, writes = await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
                    if writes and store is not None:
                        await store()
        elif lacking:
            await write(lacking[0])
        if failures:
            retry_after_s = min(failure.retry_after_s or 0.0 for failure in failures)
            tried = any(failure.tried for failure in failures)
            raise SinkFailed("; ".join(sorted(map(str, failures))), retry_after_s=retry_after_s or None, tried=tried)
        if refusals:
            refused = Rejected("refused")
            refused.detail = "; ".join(sorted(refusals))
            raise refused

    async def _discard(self, sink: Sink, record: Record) -> None:
        """Once: to try again, the record would have to be reported again, and the source has refused it for good."""
        try:
            await self._call(sink, sink.discard, record)
        except SinkFailed as error:
            log.warning("sink.not_discarded", task_id=record.task_id, reason=str(error))

    async def _call(self, sink: Sink, call: Callable[[Record], Awaitable[None]], record: Record) -> None:
        condition = self._conditions[sink.name]
        try:
            with Deadline(sink.within_s):
                await call(record)
        except RAISED as error:
            raise_cancellation(error)
            if isinstance(error, Rejected) and call == sink.write and sink.order == "after_report":
                raise  # of this record alone
            remote = error if isinstance(error, RemoteError) else None
            reason = explained(remote) if remote else type(error).__name__
            condition.note(reason, sink=sink.name, **({} if remote else {"exc_info": error}))
            after = sink.order == "after_report"
            message = f"{'acknowledged; ' if after else ''}sink {sink.name}: {reason}"
            retry_after_s = remote.retry_after_s if remote else None
            # A report that was acknowledged just now is an attempt, whatever comes after it.
            tried = not isinstance(error, CircuitOpen) or (after and not record.acknowledged)
            raise SinkFailed(message, retry_after_s=retry_after_s, tried=tried) from error
        condition.note(None, sink=sink.name)
