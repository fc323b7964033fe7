"""Metrics of tasks and of the delivery of their outcomes."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

from ai_task_processor.ops import tracing
from ai_task_processor.ops.metric_families import (
    COARSE_S,
    FEW_TYPES,
    LATENCY_S,
    Axis,
    Counter,
    Families,
    Gauge,
    Histogram,
    usable,
)

TASK_STATUSES = ("succeeded", "failed", "released")
STEP_OUTCOMES = ("run", "replayed")
DELIVERY_OUTCOMES = ("acknowledged", "retried", "refused", "gone", "conflict")


class TaskMetrics(Families):
    """From a start to an acknowledgement."""

    def _declare_task(self, task_types: Iterable[str]) -> None:
        one, many = self._one, self._many
        #: tasks since the start, for rates in ``/status``
        self.acknowledged = self.failed = 0
        by_type = Axis.of("task_type", task_types)
        lasting = partial(Histogram, buckets=LATENCY_S if len(by_type.values) <= FEW_TYPES + 1 else COARSE_S)
        self._processed = many(Counter, "tasks_processed_total", "Settled tasks.", by_type, status=TASK_STATUSES)
        self._processing = many(lasting, "task_processing_duration_seconds", "From started to settled.", by_type)
        self._wait = many(lasting, "task_wait_seconds", "From created to started.", by_type)
        self._end_to_end = many(lasting, "task_end_to_end_seconds", "From created to acknowledged.", by_type)
        self._in_flight = one(Gauge, "tasks_in_flight", "Tasks being processed.")
        self._slots = one(Gauge, "slots", "Tasks that may be processed at once.")
        self._stuck = one(Gauge, "stuck_tasks", "Tasks that outlived their deadline and do not end.")
        self._steps = many(
            Counter,
            "steps_total",
            "Calls inside tasks that were made, or answered from the store.",
            Axis.of("outcome", STEP_OUTCOMES, other=False),
        )
        self._deliveries = many(Counter, "deliveries_total", "Deliveries, by outcome.", outcome=DELIVERY_OUTCOMES)
        self._outbox_records = one(Gauge, "outbox_records", "Results waiting to be delivered.")
        self._outbox_age = one(Gauge, "outbox_oldest_age_seconds", "Age of the oldest waiting result.")
        self._outbox_bytes = one(Gauge, "outbox_bytes", "Bytes held by the outbox.")
        self._dead_letters = one(Gauge, "dead_letters", "Results refused for good and kept.")
        self._quarantined = one(Gauge, "quarantined_tasks", "Tasks set aside because they kill the process.")
        self._recovered = one(Counter, "results_recovered_total", "Results found in the outbox at start.")
        self._lost = one(Counter, "results_lost_total", "Finished results that are gone; must stay 0.")
        self._ambiguous = one(Counter, "ambiguous_deliveries_total", "Deliveries whose answer was lost.")

    def task_started(self, task_type: str, *, wait_s: float | None) -> None:
        """``wait_s`` is None when the source did not say when the task was created."""
        if wait_s is not None:
            self._wait(task_type).observe(usable(wait_s), tracing.exemplar())

    def task_settled(
        self, task_type: str, *, status: Literal["succeeded", "failed", "released"], duration_s: float
    ) -> None:
        self.failed += status == "failed"
        self._processed(task_type, status).inc()
        self._processing(task_type).observe(usable(duration_s), tracing.exemplar())

    def task_acknowledged(self, task_type: str, *, end_to_end_s: float | None) -> None:
        """``end_to_end_s`` is None when the source did not say when the task was created."""
        self.acknowledged += 1
        if end_to_end_s is not None:
            self._end_to_end(task_type).observe(usable(end_to_end_s), tracing.exemplar())

    def step(self, outcome: str) -> None:
        """``outcome``: one of ``STEP_OUTCOMES``."""
        self._steps(outcome).inc()

    def slots(self, total: int) -> None:
        self._slots.set(usable(total))

    def in_flight(self, count: Callable[[], int]) -> None:
        """``count`` is called at every scrape."""
        self._in_flight.set_function(count)

    def stuck(self, count: int) -> None:
        self._stuck.set(usable(count))

    def delivery(self, outcome: str) -> None:
        self._deliveries(outcome).inc()

    def outbox(
        self, *, records: int, dead_letters: int, quarantined: int, bytes_used: int, oldest_age_s: float | None
    ) -> None:
        self._outbox_records.set(usable(records))
        self._dead_letters.set(usable(dead_letters))
        self._quarantined.set(usable(quarantined))
        self._outbox_bytes.set(usable(bytes_used))
        self._outbox_age.set(usable(oldest_age_s or 0))

    def results_recovered(self, count: int) -> None:
        self._recovered.inc(usable(count))

    def result_lost(self) -> None:
        self._lost.inc()

    def ambiguous_delivery(self) -> None:
        self._ambiguous.inc()
