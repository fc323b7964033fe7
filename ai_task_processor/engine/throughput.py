"""How many tasks were acknowledged and failed lately, from samples of two counters."""

from collections import deque
from collections.abc import Callable

from ai_task_processor.core.ports import Clock
from ai_task_processor.ops.status import Rate, Throughput

MINUTE_S, HOUR_S = 60.0, 3600.0
#: interval of samples: a window is longer than asked for by less than this, seconds
SAMPLE_S = 5.0


class Meter:
    """Keeps a sample every ``SAMPLE_S`` for an hour, 721 in all. ``counts``: acknowledged and failed so far."""

    def __init__(self, counts: Callable[[], tuple[int, int]], clock: Clock) -> None:
        self._counts = counts
        self._clock = clock
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=int(HOUR_S / SAMPLE_S) + 1)
        self._sample(clock.monotonic())

    def sample(self) -> None:
        """Call this about once a second."""
        now = self._clock.monotonic()
        if now - self._samples[-1][0] >= SAMPLE_S:
            self._sample(now)

    def _sample(self, now: float) -> None:
        self._samples.append((now, *self._counts()))

    def throughput(self) -> Throughput:
        return Throughput(last_minute=self._over(MINUTE_S), last_hour=self._over(HOUR_S))

    def _over(self, seconds: float) -> Rate:
        now, (acknowledged, failed) = self._clock.monotonic(), self._counts()
        since = next((sample for sample in reversed(self._samples) if sample[0] <= now - seconds), self._samples[0])
        window_s = now - since[0]
        acknowledged, failed = acknowledged - since[1], failed - since[2]
        minutes = max(window_s, MINUTE_S) / 60
        return Rate(
            acknowledged=acknowledged,
            failed=failed,
            seconds=round(window_s, 1),
            acknowledged_per_minute=round(acknowledged / minutes, 1),
            failed_per_minute=round(failed / minutes, 1),
        )
