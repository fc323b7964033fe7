"""Metrics of HTTP requests, tokens and circuits."""

from collections.abc import Iterable
from functools import partial
from typing import Literal

from ai_task_processor.ops.metric_families import LATENCY_S, OTHER, Axis, Counter, Families, Gauge, Histogram, usable

STATUS_CODES = (200, 204, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)
TOKEN_OUTCOMES = ("ok", "rejected", "error")
SERVICES = ("api_poll", "api_delivery", "model", "chat", "token")
BREAKER_STATES = {"closed": 0, "open": 1, "half-open": 2}


class RemoteMetrics(Families):
    """What other servers answer."""

    def _declare_remote(self, *, routes: Iterable[tuple[str, str]], services: Iterable[str]) -> None:
        one, many = self._one, self._many
        self._breakers: dict[Gauge, str] = {}
        latency = partial(Histogram, buckets=LATENCY_S)
        by_route = Axis(("endpoint", "method"), {**{route: route for route in routes}, OTHER: (OTHER, OTHER)})
        by_status = Axis(("status_code",), {**{c: (str(c),) for c in STATUS_CODES}, None: ("none",), OTHER: (OTHER,)})
        by_service = Axis.of("service", (*SERVICES, *services))
        by_target = Axis.of("to", BREAKER_STATES, other=False)
        self._token_requests = many(Counter, "token_requests_total", "Token requests.", outcome=TOKEN_OUTCOMES)
        self._token_refusals = one(Counter, "token_refusals_total", "Requests whose token was answered with 401.")
        self._token_expiry = one(Gauge, "token_expiry_timestamp_seconds", "When the token expires; 0 without one.")
        self._api_requests = many(Counter, "api_requests_total", "HTTP requests, by answer.", by_route, by_status)
        self._api_duration = many(latency, "api_request_duration_seconds", "Duration of an HTTP request.", by_route)
        self._breaker_state = many(Gauge, "circuit_breaker_state", "0 closed, 1 open, 2 half-open.", by_service)
        self._transitions = many(
            Counter, "circuit_breaker_transitions_total", "Changes of state.", by_service, by_target
        )

    def token_request(self, outcome: str) -> None:
        self._token_requests(outcome).inc()

    def token_refused(self) -> None:
        self._token_refusals.inc()

    def token_expires(self, timestamp_s: float) -> None:
        self._token_expiry.set(usable(timestamp_s))

    def api_request(self, *, endpoint: str, method: str, status_code: int | None, duration_s: float) -> None:
        """``endpoint`` is the route's template, never a URL; ``status_code`` is None when no answer came."""
        route = (endpoint, method)
        self._api_requests(route, status_code).inc()
        self._api_duration(route).observe(usable(duration_s))

    def breaker(self, service: str, state: Literal["closed", "open", "half-open"]) -> None:
        """Set the state of a circuit; only a change counts as a transition."""
        if state not in BREAKER_STATES:
            return
        gauge = self._breaker_state(service)
        if self._breakers.get(gauge, "closed") != state:
            self._transitions(service, state).inc()
        self._breakers[gauge] = state
        gauge.set(BREAKER_STATES[state])
