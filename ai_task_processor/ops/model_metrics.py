"""Metrics of model calls."""

from collections.abc import Iterable
from functools import partial

from ai_task_processor.ops import tracing
from ai_task_processor.ops.metric_families import (
    LATENCY_S,
    Axis,
    Counter,
    Families,
    Gauge,
    Histogram,
    printable,
    usable,
)

BATCH_SIZES = (1, 4, 16, 64, 256, 1024, 2048)
MODEL_OUTCOMES = ("ok", "refused_input", "throttled", "unauthorized", "quota", "misconfigured", "server_error",
                  "invalid_answer", "network_error", "timeout")  # fmt: skip
ANSWER_OUTCOMES = ("ok", "repaired", "truncated", "filtered", "refused", "invalid_output")


class ModelMetrics(Families):
    """Calls, tokens and cost, the pace of each model, and remembered vectors."""

    def _declare_model(
        self,
        *,
        provider: str,
        models: Iterable[str],
        chat_models: Iterable[str],
        chat_types: Iterable[str],
        currency: str | None,
    ) -> None:
        one, many = self._one, self._many
        latency = partial(Histogram, buckets=LATENCY_S)
        by_model = Axis.of("model", models)
        by_provider = Axis(
            ("provider", "model"), {key: (printable(provider), *names) for key, names in by_model.values.items()}
        )
        by_token_type = Axis.of("type", ("prompt", "cached", "completion"), other=False)
        by_kind = Axis.of("kind", ("requests", "tokens"))
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
            Axis.of("model", chat_models),
            Axis.of("task_type", chat_types),
            Axis.of("outcome", ANSWER_OUTCOMES, other=False),
        )
        self._remembered = one(Counter, "vector_cache_hits_total", "Texts whose vector was remembered.")
        self._saved = one(Counter, "vector_cache_saved_tokens_total", "Tokens that those would have cost.")

    def model_request(self, *, model: str, outcome: str, duration_s: float) -> None:
        self._model_requests(model, outcome).inc()
        self._model_duration(model).observe(usable(duration_s), tracing.exemplar())

    def model_tokens(self, *, model: str, prompt: int, completion: int, cached: int = 0) -> None:
        """``cached``: the part of ``prompt`` that the provider had cached."""
        self._tokens(model, "prompt").inc(usable(prompt))
        self._tokens(model, "cached").inc(usable(cached))
        self._tokens(model, "completion").inc(usable(completion))

    def model_cost(self, *, model: str, amount: float) -> None:
        """Of one call, in the currency of the price table; without one nothing is counted."""
        if self._cost is not None:
            self._cost(model).inc(usable(amount))

    def model_answer(self, *, model: str, task_type: str, outcome: str) -> None:
        """``outcome``: one of ``ANSWER_OUTCOMES``."""
        self._answers(model, task_type, outcome).inc()

    def batch(self, *, model: str, size: int) -> None:
        self._batch_size(model).observe(usable(size))

    def batch_isolated(self) -> None:
        self._isolations.inc()

    def ratelimit_remaining(self, kind: str, value: float) -> None:
        self._ratelimit(kind).set(usable(value))

    def model_pace(self, model: str, rate: float) -> None:
        """``rate``: calls per second; infinite when the model is not limited."""
        for gauge in self._pace:
            gauge(model).set(usable(rate))

    def model_waiting(self, model: str, calls: int) -> None:
        """Calls of a model that are ready and may not start yet."""
        self._waiting_calls(model).set(usable(calls))

    def model_throttled(self, model: str) -> None:
        self._throttled(model).inc()

    def model_batch_cap(self, model: str, inputs: int) -> None:
        """The most inputs for one call of a model."""
        self._batch_cap(model).set(usable(inputs))

    def vector_remembered(self, tokens: int) -> None:
        """``tokens``: what the vector had cost."""
        self._remembered.inc()
        self._saved.inc(usable(tokens))
