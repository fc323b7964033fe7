"""Metrics of polls."""

from collections.abc import Callable
from functools import partial
from typing import get_args

from ai_task_processor.core.errors import InvalidAnswer, Misconfigured, RemoteError, Throttled, Transient, Unauthorized
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.ops.metric_families import LATENCY_S, Counter, Families, Gauge, Histogram, usable

POLL_BYTES = (256, 4096, 65_536, 1_048_576, 16_777_216, 268_435_456)
#: what a call for a poll comes by
WAKE_ORIGINS = ("http", "websocket", "notify", "redis")
POLL_OUTCOMES = ("tasks", "empty", "throttled", "auth_error", "client_error", "server_error", "network_error",
                 "invalid")  # fmt: skip
#: the first that fits; an error of another kind is a ``network_error``
_FAILED_POLLS: tuple[tuple[type[RemoteError], str], ...] = (
    (Unauthorized, "auth_error"),
    (Throttled, "throttled"),
    (InvalidAnswer, "invalid"),
    (Transient, "server_error"),
    (Misconfigured, "client_error"),
)


class PollMetrics(Families):
    """Polls, the pending list, and wake-ups."""

    def _declare_poll(self, clock: Callable[[], float]) -> None:
        one, many = self._one, self._many
        self._clock = clock
        latency = partial(Histogram, buckets=LATENCY_S)
        self._polls = many(Counter, "polls_total", "Polls, by how they ended.", outcome=POLL_OUTCOMES)
        self._wakeups = many(Counter, "wakeups_total", "Calls for an immediate poll.", origin=WAKE_ORIGINS)
        self._push_connected = one(Gauge, "push_connected", "1 while the source's push connection is open.")
        self._poll_duration = one(latency, "poll_duration_seconds", "Duration of a poll.")
        self._poll_bytes = one(partial(Histogram, buckets=POLL_BYTES), "poll_bytes", "Bytes read by a poll.")
        self._last_poll = one(Gauge, "last_successful_poll_timestamp_seconds", "The last good poll; 0 before it.")
        self._poll_interval = one(Gauge, "poll_interval_seconds", "The pause before the next poll.")
        self._pending = one(Gauge, "pending_tasks_seen", "Tasks in the part of the pending list that was read.")
        self._oldest_pending = one(Gauge, "oldest_pending_age_seconds", "Age of the oldest task that was read.")
        self._pending_complete = one(Gauge, "pending_list_complete", "1 when the list was read to its end.")
        self._skipped = many(Counter, "tasks_skipped_total", "Listed tasks not started.", reason=get_args(SkipReason))
        self._listed = one(Counter, "listed_records_total", "Records of the pending list that were looked at.")
        self._read_ahead = one(Gauge, "read_ahead_tasks", "Listed tasks that wait here for free slots.")

    def poll_finished(self, outcome: str, *, duration_s: float, bytes_read: int) -> None:
        self._polls(outcome).inc()
        self._poll_duration.observe(usable(duration_s))
        self._poll_bytes.observe(usable(bytes_read))
        if outcome in ("tasks", "empty"):
            self._last_poll.set(self._clock())

    def poll_failed(self, error: RemoteError, *, duration_s: float) -> None:
        outcome = next((name for kind, name in _FAILED_POLLS if isinstance(error, kind)), "network_error")
        self.poll_finished(outcome, duration_s=duration_s, bytes_read=0)

    def woken(self, origin: str) -> None:
        """``origin``: one of ``WAKE_ORIGINS``."""
        self._wakeups(origin).inc()

    def push_connected(self, connected: bool) -> None:
        self._push_connected.set(connected)

    def pending_seen(self, count: int, *, oldest_age_s: float | None, complete: bool) -> None:
        self._pending.set(usable(count))
        self._oldest_pending.set(usable(oldest_age_s or 0))
        self._pending_complete.set(complete)

    def records_listed(self, count: int) -> None:
        self._listed.inc(usable(count))

    def read_ahead(self, count: Callable[[], int]) -> None:
        """``count`` is called at every scrape."""
        self._read_ahead.set_function(count)

    def poll_interval(self, seconds: float) -> None:
        self._poll_interval.set(usable(seconds))

    def task_skipped(self, reason: str, count: int = 1) -> None:
        self._skipped(reason).inc(usable(count))
