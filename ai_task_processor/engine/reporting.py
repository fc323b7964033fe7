"""Reports an outcome once, to its source and the sinks; and the delay before the next report."""

import random
from collections.abc import Sequence

from ai_task_processor.core.errors import Ambiguous, NeverAcknowledged, Rejected, RemoteError
from ai_task_processor.core.ports import Clock, Sink, TaskSource
from ai_task_processor.core.records import to_outcome
from ai_task_processor.models.task import Record
from ai_task_processor.net.resilience import backoff_s
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
    return max(error.retry_after_s or 0.0, 0.25 + backoff_s(attempts, base=2.0, longest=longest - 0.25, rng=rng))


class Reporter:
    """Reports records to the source, and writes them to the sinks before or after."""

    def __init__(self, source: TaskSource, *, sinks: Sequence[Sink] = (), clock: Clock, metrics: Metrics) -> None:
        self._source = source
        self._before = [sink for sink in sinks if sink.order == "before_report"]
        self._after = [sink for sink in sinks if sink.order == "after_report"]
        self._clock = clock
        self._metrics = metrics

    async def report(self, record: Record) -> None:
        """Return once the record is acknowledged and in every sink. Raises what ``TaskSource.report`` and sinks raise.

        Raises ``ValueError`` when the record cannot be read.
        """
        outcome = to_outcome(record)
        for sink in self._before:
            await sink.write(record)
        try:
            await self._source.report(record.receipt, outcome)
        except (Ambiguous, NeverAcknowledged):
            self._metrics.ambiguous_delivery()
            raise
        except Rejected as error:
            if error.outcome in ("lost", "gone"):
                for sink in self._before:
                    await sink.discard(record)
            raise
        for sink in self._after:
            await sink.write(record)
        now = self._clock.now().timestamp()
        self._metrics.delivery("acknowledged")
        end_to_end_s = None if record.created_at is None else max(0.0, now - record.created_at)
        self._metrics.task_acknowledged(record.task_type, end_to_end_s=end_to_end_s)
        log.debug("delivery.acknowledged", task_id=record.task_id, attempts=record.attempts + 1)
