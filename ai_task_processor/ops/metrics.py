"""All metrics of the daemon, with a method for each event (``metrics.task_settled(...)``).

No other module knows a name, label or bucket. Labels come from closed sets that are complete at construction: every
series exists with 0 from the start, and a value from outside (a type, a model, a status) that is not in its set counts
as ``other``. So neither memory nor the size of a scrape depends on input, and no label can hold an id, a URL or a
string that cannot be encoded.
"""

import platform
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Generic, Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as with_exemplars

from ai_task_processor.core.errors import InvalidAnswer, Misconfigured, RemoteError, Throttled, Transient, Unauthorized
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.ops import tracing

PREFIX = "ai_task_processor_"
OTHER = "other"

# From 5 ms to one hour: a model call may take minutes, a task may wait much longer. Each bound costs a series for each
# label value, of 700 in all: with more types than ``FEW_TYPES`` the histograms by type have the coarse bounds.
LATENCY_S = (0.005, 0.025, 0.1, 0.25, 1, 2.5, 10, 30, 120, 600, 3600)
COARSE_S = (0.005, 0.1, 1, 10, 120, 3600)
FEW_TYPES = 2
LAG_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
POLL_BYTES = (256, 4096, 65_536, 1_048_576, 16_777_216, 268_435_456)
BATCH_SIZES = (1, 4, 16, 64, 256, 1024, 2048)

ROUTES = (("/api/ai-tasks/pending", "GET"), ("/api/ai-tasks/{id}", "PATCH"), ("/oauth2/token", "POST"))
#: what a call for a poll comes by
WAKE_ORIGINS = ("http", "websocket", "notify", "redis")
STATUS_CODES = (200, 204, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)
MODEL_OUTCOMES = ("ok", "refused_input", "throttled", "unauthorized", "quota", "misconfigured", "server_error",
                  "invalid_answer", "network_error", "timeout")  # fmt: skip
ANSWER_OUTCOMES = ("ok", "repaired", "truncated", "filtered", "refused", "invalid_output")
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
TASK_STATUSES = ("succeeded", "failed", "released")
STEP_OUTCOMES = ("run", "replayed")
DELIVERY_OUTCOMES = ("acknowledged", "retried", "refused", "gone", "conflict")
TOKEN_OUTCOMES = ("ok", "rejected", "error")
SERVICES = ("api_poll", "api_delivery", "model", "chat", "token")
STATES = ("starting", "running", "draining", "degraded")
BREAKER_STATES = {"closed": 0, "open": 1, "half-open": 2}

_M = TypeVar("_M", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Labels that vary together: a caller's key, and the label values that it stands for."""

    names: tuple[str, ...]
    values: Mapping[Hashable, tuple[str, ...]]

    @classmethod
    def of(cls, name: str, keys: Iterable[str], *, other: bool = True) -> "_Axis":
        return cls((name,), {key: (_printable(key),) for key in (*keys, *([OTHER] if other else []))})


class _Family(Generic[_M]):
    """A metric with labels, its children made once; a key outside its axis means ``other``."""

    def __init__(self, make: Callable[..., _M], *axes: _Axis) -> None:
        parent: _M = make(labelnames=[name for axis in axes for name in axis.names])
        self._axes = axes
        self._children: dict[tuple[Hashable, ...], _M] = {
            keys: parent.labels(*(v for axis, key in zip(axes, keys, strict=True) for v in axis.values[key]))
            for keys in product(*(axis.values for axis in axes))
        }

    def __call__(self, *keys: Hashable) -> _M:
        child = self._children.get(keys)
        if child is None:
            known = (k if k in axis.values else OTHER for k, axis in zip(keys, self._axes, strict=True))
            child = self._children[tuple(known)]
        return child


class _Registry(CollectorRegistry):
    """Without the ``_created`` series: the library can only switch them off for the whole process."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


def _printable(label: str) -> str:
    """A configured name as a label: one lone surrogate would break every scrape."""
    return label.encode("utf-8", "replace").decode()[:128]


def _amount(value: float) -> float:
    """0 for a negative, huge or NaN value: a wrong value of a remote must not raise here or corrupt a sum for ever."""
    return value if 0 < value < 1e15 else 0.0


class Metrics:
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
        #: tasks since the start, for rates in ``/status``
        self.acknowledged = self.failed = 0
        self._clock = clock
        self._registry = registry = _Registry()
        ProcessCollector(registry=registry)
        build = Info(PREFIX + "build", "The running version.", registry=registry)
        build.info({"version": _printable(version), "python": platform.python_version()})

        one, many = self._one, self._many
        latency = partial(Histogram, buckets=LATENCY_S)
        by_type = _Axis.of("task_type", task_types)
        lasting = partial(Histogram, buckets=LATENCY_S if len(by_type.values) <= FEW_TYPES + 1 else COARSE_S)
        by_model = _Axis.of("model", models)
        by_provider = _Axis(
            ("provider", "model"), {key: (_printable(provider), *names) for key, names in by_model.values.items()}
        )
        by_route = _Axis(("endpoint", "method"), {**{route: route for route in routes}, OTHER: (OTHER, OTHER)})
        by_status = _Axis(("status_code",), {**{c: (str(c),) for c in STATUS_CODES}, None: ("none",), OTHER: (OTHER,)})
        by_token_type = _Axis.of("type", ("prompt", "cached", "completion"), other=False)
        by_kind = _Axis.of("kind", ("requests", "tokens"))
        by_service = _Axis.of("service", (*SERVICES, *services))
        by_target = _Axis.of("to", BREAKER_STATES, other=False)
        by_state = _Axis.of("state", STATES, other=False)

        # --- poll
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
        # --- tasks
        self._processed = many(Counter, "tasks_processed_total", "Settled tasks.", by_type, status=TASK_STATUSES)
        self._processing = many(lasting, "task_processing_duration_seconds", "From started to settled.", by_type)
        self._wait = many(lasting, "task_wait_seconds", "From created to started.", by_type)
        self._end_to_end = many(lasting, "task_end_to_end_seconds", "From created to acknowledged.", by_type)
        self._in_flight = one(Gauge, "tasks_in_flight", "Tasks being processed.")
        self._slots = one(Gauge, "slots", "Tasks that may be processed at once.")
        self._stuck = one(Gauge, "stuck_tasks", "Tasks that outlived their deadline and do not end.")
        self._steps = self._many(
            Counter,
            "steps_total",
            "Calls inside tasks that were made, or answered from the store.",
            _Axis.of("outcome", STEP_OUTCOMES, other=False),
        )
        # --- delivery
        self._deliveries = many(Counter, "deliveries_total", "Deliveries, by outcome.", outcome=DELIVERY_OUTCOMES)
        self._outbox_records = one(Gauge, "outbox_records", "Results waiting to be delivered.")
        self._outbox_age = one(Gauge, "outbox_oldest_age_seconds", "Age of the oldest waiting result.")
        self._outbox_bytes = one(Gauge, "outbox_bytes", "Bytes held by the outbox.")
        self._dead_letters = one(Gauge, "dead_letters", "Results refused for good and kept.")
        self._quarantined = one(Gauge, "quarantined_tasks", "Tasks set aside because they kill the process.")
        self._recovered = one(Counter, "results_recovered_total", "Results found in the outbox at start.")
        self._lost = one(Counter, "results_lost_total", "Finished results that are gone; must stay 0.")
        self._ambiguous = one(Counter, "ambiguous_deliveries_total", "Deliveries whose answer was lost.")
        # --- model
        self._model_requests = many(
            Counter, "model_requests_total", "Model calls, by outcome.", by_provider, outcome=MODEL_OUTCOMES
        )
        self._model_duration = many(latency, "model_request_duration_seconds", "Duration of a model call.", by_provider)
        self._tokens = many(
            Counter,
            "model_tokens_total",
            "Tokens charged. cached is a part of prompt; total is prompt and completion.",
            by_provider,
            by_token_type,
        )
        priced = f"Cost of model calls in {currency}, by MODEL_PRICES."
        self._cost = None if currency is None else many(Counter, "model_cost_total", priced, by_model)
        self._batch_size = many(
            partial(Histogram, buckets=BATCH_SIZES), "batch_size", "Inputs of one model call.", by_model
        )
        self._isolations = one(Counter, "batch_isolations_total", "Refused batches split to find the input at fault.")
        self._ratelimit = many(Gauge, "model_ratelimit_remaining", "What the provider still allows.", by_kind)
        self._pace = [
            many(Gauge, name, "Calls a second that the model's 429s leave; 0 when no limit is known.", by_model)
            # The second name goes with the next release.
            for name in ("model_pace_calls_per_second", "model_request_rate")
        ]
        self._waiting_calls = many(Gauge, "model_waiting_calls", "Calls that wait for the model's pace.", by_model)
        self._throttled = many(Counter, "model_throttled_total", "Calls that were answered with 429.", by_model)
        self._batch_cap = many(Gauge, "model_batch_cap", "Inputs that a call may have, as far as learnt.", by_model)
        self._answers = many(
            Counter,
            "model_answers_total",
            "Answers of chat models, by what they were worth.",
            _Axis.of("model", chat_models),
            _Axis.of("task_type", chat_types),
            _Axis.of("outcome", ANSWER_OUTCOMES, other=False),
        )
        self._remembered = one(Counter, "vector_cache_hits_total", "Texts whose vector was remembered.")
        self._saved = one(Counter, "vector_cache_saved_tokens_total", "Tokens that those would have cost.")
        # --- tokens, HTTP, circuits
        self._token_requests = many(Counter, "token_requests_total", "Token requests.", outcome=TOKEN_OUTCOMES)
        self._token_refusals = one(Counter, "token_refusals_total", "Requests whose token was answered with 401.")
        self._token_expiry = one(Gauge, "token_expiry_timestamp_seconds", "When the token expires; 0 without one.")
        self._api_requests = many(Counter, "api_requests_total", "HTTP requests, by answer.", by_route, by_status)
        self._api_duration = many(latency, "api_request_duration_seconds", "Duration of an HTTP request.", by_route)
        self._breaker_state = many(Gauge, "circuit_breaker_state", "0 closed, 1 open, 2 half-open.", by_service)
        self._transitions = many(
            Counter, "circuit_breaker_transitions_total", "Changes of state.", by_service, by_target
        )
        # --- process
        self._state = many(Gauge, "state", "1 for the daemon's state, 0 for the others.", by_state)
        self._loop_lag = one(partial(Histogram, buckets=LAG_S), "event_loop_lag_seconds", "How late timers run.")
        self._ready = one(Gauge, "ready", "1 when /ready answers 200.")
        self._paused = one(Gauge, "paused", "1 while an operator has paused it: nothing is claimed.")
        self._dropped = one(Counter, "log_lines_dropped_total", "Log lines that nobody read in time.")
        self._dropped_before = 0
        self._breakers: dict[Gauge, str] = {}
        self.state("starting")

    def _one(self, kind: Callable[..., _M], name: str, text: str) -> _M:
        return kind(PREFIX + name, text, registry=self._registry)

    def _many(
        self, kind: Callable[..., _M], name: str, text: str, *axes: _Axis, **closed: Iterable[str]
    ) -> "_Family[_M]":
        axes += tuple(_Axis.of(label, values) for label, values in closed.items())
        return _Family(partial(kind, PREFIX + name, text, registry=self._registry), *axes)

    # --- for plug-ins

    def counter(self, name: str, text: str, **labels: Iterable[str]) -> Callable[..., Counter]:
        """A counter of a component's own: ``counted("ok").inc()``. ``name``: without our prefix, with ``_total``.

        Each label has a closed set of values; others count as ``other``. So have ``gauge`` and ``histogram``.
        """
        return self._many(Counter, name, text, **labels)

    def gauge(self, name: str, text: str, **labels: Iterable[str]) -> Callable[..., Gauge]:
        return self._many(Gauge, name, text, **labels)

    def histogram(
        self, name: str, text: str, buckets: Sequence[float] = LATENCY_S, **labels: Iterable[str]
    ) -> Callable[..., Histogram]:
        """In seconds, unless ``buckets`` say something else."""
        return self._many(partial(Histogram, buckets=buckets), name, text, **labels)

    # --- what the daemon says

    def poll_finished(self, outcome: str, *, duration_s: float, bytes_read: int) -> None:
        self._polls(outcome).inc()
        self._poll_duration.observe(_amount(duration_s))
        self._poll_bytes.observe(_amount(bytes_read))
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
        self._pending.set(_amount(count))
        self._oldest_pending.set(_amount(oldest_age_s or 0))
        self._pending_complete.set(complete)

    def records_listed(self, count: int) -> None:
        self._listed.inc(_amount(count))

    def read_ahead(self, count: Callable[[], int]) -> None:
        """``count`` is called at every scrape."""
        self._read_ahead.set_function(count)

    def poll_interval(self, seconds: float) -> None:
        self._poll_interval.set(_amount(seconds))

    def task_skipped(self, reason: str, count: int = 1) -> None:
        self._skipped(reason).inc(_amount(count))

    def task_started(self, task_type: str, *, wait_s: float | None) -> None:
        """``wait_s`` is None when the source did not say when the task was created."""
        if wait_s is not None:
            self._wait(task_type).observe(_amount(wait_s), tracing.exemplar())

    def task_settled(
        self, task_type: str, *, status: Literal["succeeded", "failed", "released"], duration_s: float
    ) -> None:
        self.failed += status == "failed"
        self._processed(task_type, status).inc()
        self._processing(task_type).observe(_amount(duration_s), tracing.exemplar())

    def task_acknowledged(self, task_type: str, *, end_to_end_s: float | None) -> None:
        """``end_to_end_s`` is None when the source did not say when the task was created."""
        self.acknowledged += 1
        if end_to_end_s is not None:
            self._end_to_end(task_type).observe(_amount(end_to_end_s), tracing.exemplar())

    def step(self, outcome: str) -> None:
        """``outcome``: one of ``STEP_OUTCOMES``."""
        self._steps(outcome).inc()

    def slots(self, total: int) -> None:
        self._slots.set(_amount(total))

    def in_flight(self, count: Callable[[], int]) -> None:
        """``count`` is called at every scrape."""
        self._in_flight.set_function(count)

    def stuck(self, count: int) -> None:
        self._stuck.set(_amount(count))

    def delivery(self, outcome: str) -> None:
        self._deliveries(outcome).inc()

    def outbox(
        self, *, records: int, dead_letters: int, quarantined: int, bytes_used: int, oldest_age_s: float | None
    ) -> None:
        self._outbox_records.set(_amount(records))
        self._dead_letters.set(_amount(dead_letters))
        self._quarantined.set(_amount(quarantined))
        self._outbox_bytes.set(_amount(bytes_used))
        self._outbox_age.set(_amount(oldest_age_s or 0))

    def results_recovered(self, count: int) -> None:
        self._recovered.inc(_amount(count))

    def result_lost(self) -> None:
        self._lost.inc()

    def ambiguous_delivery(self) -> None:
        self._ambiguous.inc()

    def model_request(self, *, model: str, outcome: str, duration_s: float) -> None:
        self._model_requests(model, outcome).inc()
        self._model_duration(model).observe(_amount(duration_s), tracing.exemplar())

    def model_tokens(self, *, model: str, prompt: int, completion: int, cached: int = 0) -> None:
        """``cached``: the part of ``prompt`` that the provider had cached."""
        self._tokens(model, "prompt").inc(_amount(prompt))
        self._tokens(model, "cached").inc(_amount(cached))
        self._tokens(model, "completion").inc(_amount(completion))

    def model_cost(self, *, model: str, amount: float) -> None:
        """Of one call, in the currency of the price table; without one nothing is counted."""
        if self._cost is not None:
            self._cost(model).inc(_amount(amount))

    def model_answer(self, *, model: str, task_type: str, outcome: str) -> None:
        """``outcome``: one of ``ANSWER_OUTCOMES``."""
        self._answers(model, task_type, outcome).inc()

    def batch(self, *, model: str, size: int) -> None:
        self._batch_size(model).observe(_amount(size))

    def batch_isolated(self) -> None:
        self._isolations.inc()

    def ratelimit_remaining(self, kind: str, value: float) -> None:
        self._ratelimit(kind).set(_amount(value))

    def model_pace(self, model: str, rate: float) -> None:
        """``rate``: calls per second; infinite when the model is not limited."""
        for gauge in self._pace:
            gauge(model).set(_amount(rate))

    def model_waiting(self, model: str, calls: int) -> None:
        """Calls of a model that are ready and may not start yet."""
        self._waiting_calls(model).set(_amount(calls))

    def model_throttled(self, model: str) -> None:
        self._throttled(model).inc()

    def model_batch_cap(self, model: str, inputs: int) -> None:
        """The most inputs for one call of a model."""
        self._batch_cap(model).set(_amount(inputs))

    def vector_remembered(self, tokens: int) -> None:
        """``tokens``: what the vector had cost."""
        self._remembered.inc()
        self._saved.inc(_amount(tokens))

    def token_request(self, outcome: str) -> None:
        self._token_requests(outcome).inc()

    def token_refused(self) -> None:
        self._token_refusals.inc()

    def token_expires(self, timestamp_s: float) -> None:
        self._token_expiry.set(_amount(timestamp_s))

    def api_request(self, *, endpoint: str, method: str, status_code: int | None, duration_s: float) -> None:
        """``endpoint`` is the route's template, never a URL; ``status_code`` is None when no answer came."""
        route = (endpoint, method)
        self._api_requests(route, status_code).inc()
        self._api_duration(route).observe(_amount(duration_s))

    def breaker(self, service: str, state: Literal["closed", "open", "half-open"]) -> None:
        """Set the state of a circuit; only a change counts as a transition."""
        if state not in BREAKER_STATES:
            return
        gauge = self._breaker_state(service)
        if self._breakers.get(gauge, "closed") != state:
            self._transitions(service, state).inc()
        self._breakers[gauge] = state
        gauge.set(BREAKER_STATES[state])

    def state(self, name: str) -> None:
        if name in STATES:
            for state in STATES:
                self._state(state).set(state == name)

    def loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(_amount(seconds))

    def log_lines_dropped(self, total: int) -> None:
        """``total`` so far: the counter grows by the difference to the last call."""
        self._dropped.inc(max(0, total - self._dropped_before))
        self._dropped_before = total

    def paused(self, flag: bool) -> None:
        self._paused.set(flag)

    def ready(self, flag: bool) -> None:
        self._ready.set(flag)

    def exposition(self, openmetrics: bool = False) -> tuple[bytes, str]:
        """The body of a scrape in the Prometheus text format, and its content type.

        ``openmetrics``: in that format, with exemplars, while there are traces.
        """
        if openmetrics and tracing.on():
            body: bytes = with_exemplars.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body, with_exemplars.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def value(self, name: str, **labels: str) -> float | None:
        """The present value of one series, None when there is no such series; the prefix may be left out."""
        full = name if name.startswith((PREFIX, "process_")) else PREFIX + name
        return self._registry.get_sample_value(full, labels)
