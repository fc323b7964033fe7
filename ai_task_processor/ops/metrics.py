"""All metrics of the daemon, with a method for each event (``metrics.task_settled(...)``).

The modules ``poll_metrics`` to ``task_metrics`` have a part each; none but them knows a name, label or bucket. Labels
come from closed sets that are complete at construction: every series exists with 0 from the start, and a value from
outside (a type, a model, a status) that is not in its set counts as ``other``. So neither memory nor the size of a
scrape depends on input, and no label can hold an id, a URL or a string that cannot be encoded.
"""

import platform
import time
from collections.abc import Callable, Iterable
from functools import partial

from ai_task_processor.ops.metric_families import Axis, Counter, Gauge, Histogram, usable
from ai_task_processor.ops.model_metrics import ModelMetrics
from ai_task_processor.ops.poll_metrics import PollMetrics
from ai_task_processor.ops.remote_metrics import RemoteMetrics
from ai_task_processor.ops.task_metrics import TaskMetrics

LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
ROUTES = (("/api/ai-tasks/pending", "GET"), ("/api/ai-tasks/{id}", "PATCH"), ("/oauth2/token", "POST"))
STATES = ("starting", "running", "draining", "degraded")


class Metrics(PollMetrics, TaskMetrics, ModelMetrics, RemoteMetrics):
    """The registry of one daemon. ``currency``: of the prices of models, if there are any.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        version: str,
        provider: str,
        models: Iterable[str] = (),
        task_types: Iterable[str] = (),
        chat_models: Iterable[str] = (),
        chat_types: Iterable[str] = (),
        services: Iterable[str] = (),
        routes: Iterable[tuple[str, str]] = ROUTES,
        currency: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.info("build", "The running version.", {"version": version, "python": platform.python_version()})
        self._declare_poll(clock)
        self._declare_task(task_types)
        self._declare_model(
            provider=provider, models=models, chat_models=chat_models, chat_types=chat_types, currency=currency
        )
        self._declare_remote(routes=routes, services=services)
        self._state = self._many(
            Gauge, "state", "1 for the daemon's state, 0 for the others.", Axis.of("state", STATES, other=False)
        )
        self._loop_lag = self._one(partial(Histogram, buckets=LAG_S), "event_loop_lag_seconds", "How late timers run.")
        self._ready = self._one(Gauge, "ready", "1 when /ready answers 200.")
        self._paused = self._one(Gauge, "paused", "1 while an operator has paused it: nothing is claimed.")
        self._dropped = self._one(Counter, "log_lines_dropped_total", "Log lines that nobody read in time.")
        self._dropped_before = 0
        self.state("starting")

    def state(self, name: str) -> None:
        if name in STATES:
            for state in STATES:
                self._state(state).set(state == name)

    def loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(usable(seconds))

    def log_lines_dropped(self, total: int) -> None:
        """``total`` so far: the counter grows by the difference to the last call."""
        self._dropped.inc(max(0, total - self._dropped_before))
        self._dropped_before = total

    def paused(self, flag: bool) -> None:
        self._paused.set(flag)

    def ready(self, flag: bool) -> None:
        self._ready.set(flag)
