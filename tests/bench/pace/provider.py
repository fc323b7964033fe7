"""Simulated model providers: limits, noise, outages and caps, in virtual time."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from ai_task_processor.core.ports import Allowance, RateLimits

#: seconds of an embeddings call, and of a refusal at most; a chat call takes a second on average (log-normal)
LATENCY_S, REFUSAL_S = 0.04, 0.05


@dataclass(frozen=True, slots=True)
class Text:
    """One input of a call. The controllers see the bytes only; the provider counts tokens."""

    bytes: int
    tokens: int


@dataclass(slots=True)
class Bucket:
    """A token bucket: ``per_minute``, and ``limit`` at once."""

    per_minute: float
    limit: float
    left: float = 0.0
    at: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.limit

    def wait_s(self, now: float, amount: float) -> float:
        """Seconds until this much is allowed: 0 when it is now."""
        self.left, self.at = min(self.limit, self.left + (now - self.at) * self.per_minute / 60), now
        return max(0.0, (amount - self.left) / self.per_minute * 60)

    def take(self, amount: float) -> None:
        """A call is served."""
        self.left -= amount

    def scale(self, factor: float) -> None:
        """The limit is raised or lowered."""
        self.per_minute, self.limit = self.per_minute * factor, max(1.0, self.limit * factor)

    def allowance(self) -> Allowance:
        """What the headers tell after a call."""
        reset_s = (self.limit - self.left) / self.per_minute * 60
        return Allowance(int(self.limit), int(max(0.0, self.left)), reset_s)


@dataclass(slots=True)
class Window:
    """A fixed window: ``limit`` in each ``seconds``, as gateways count."""

    limit: float
    seconds: float = 60.0
    used: float = 0.0
    ends_at: float = 0.0
    at: float = 0.0

    def wait_s(self, now: float, amount: float) -> float:
        self.at = now
        if now >= self.ends_at:
            self.used, self.ends_at = 0.0, (now // self.seconds + 1) * self.seconds
        return 0.0 if self.used + amount <= self.limit else self.ends_at - now

    def take(self, amount: float) -> None:
        self.used += amount

    def scale(self, factor: float) -> None:
        self.limit = max(1.0, self.limit * factor)

    def allowance(self) -> Allowance:
        return Allowance(int(self.limit), int(max(0.0, self.limit - self.used)), self.ends_at - self.at)


#: what a provider allows of requests or tokens
Quota = Bucket | Window


@dataclass(frozen=True, slots=True)
class Answer:
    """``after_s``: when it arrives."""

    status: int
    after_s: float
    retry_after_s: float | None = None
    limits: RateLimits = field(default_factory=RateLimits)


@dataclass(frozen=True, slots=True)
class Span:
    """``value`` holds between two moments."""

    begins: float
    ends: float
    value: float = 1.0

    def holds(self, now: float) -> bool:
        return self.begins <= now < self.ends


@dataclass(slots=True)
class Provider:
    """Answers one call at a time. Refusals cost none of a limit.

    ``noise``: shares of calls that are refused at random. ``calls_at_once``: more are refused. ``outages``: nothing
    but 429s. ``changes``: (moment, factor) of all limits. ``retry_after``: what a 429 tells; "honest" is the time
    until the limit allows the call. ``told``: the headers of each served call. ``most_*``: 413 beyond. ``rivals``:
    calls a second that another client of the same key makes. ``silences``: no answer
    before the time-out. ``unavailable``: the share answered 503.
    """

    rng: random.Random
    requests: Quota | None = None
    tokens: Quota | None = None
    limits_from: float = 0.0
    noise: Sequence[Span] = ()
    calls_at_once: float = inf
    outages: Sequence[Span] = ()
    changes: Sequence[tuple[float, float]] = ()
    retry_after: float | Literal["honest"] | None = None
    told: Literal["honest", "stale"] | None = None
    most_inputs: float = inf
    most_tokens: float = inf
    most_bytes: float = inf
    rivals: Sequence[Span] = ()
    unavailable: float = 0.0
    chat: bool = False
    latency_s: float = LATENCY_S
    latency_a_text_s: float = 0.0
    timeout_s: float = inf
    silences: Sequence[Span] = ()
    in_flight: int = 0
    _changed: int = 0
    _rival_at: float = 0.0

    def answer(self, now: float, texts: Sequence[Text]) -> Answer:
        """Begin a call. A served one is under way until ``ended``."""
        tokens = sum(text.tokens for text in texts)
        status, wait_s = self._judge(now, len(texts), tokens, sum(text.bytes for text in texts))
        jitter = self.rng.uniform(0.8, 1.2)
        if status != 200:
            quick_s = jitter * min(REFUSAL_S, self.latency_s)
            return Answer(status, quick_s, wait_s if self.retry_after == "honest" else self.retry_after)
        took_s = jitter * self.latency_s + self.latency_a_text_s * len(texts)
        if self.chat:
            took_s = self.rng.lognormvariate(-0.125, 0.5)
        self.in_flight += 1
        if took_s > self.timeout_s or any(silence.holds(now) for silence in self.silences):
            return Answer(504, self.timeout_s)
        if now >= self.limits_from:
            for quota, amount in self._quotas(tokens):
                quota.take(amount)
        return Answer(200, took_s, limits=self._limits())

    def ended(self) -> None:
        """A call that was not refused has been answered."""
        self.in_flight -= 1

    def _quotas(self, tokens: float) -> list[tuple[Quota, float]]:
        """The limits there are, and what a call takes of each."""
        return [(quota, amount) for quota, amount in ((self.requests, 1), (self.tokens, tokens)) if quota]

    def _judge(self, now: float, inputs: int, tokens: int, size: int) -> tuple[int, float]:
        """The status, and the seconds until there is room."""
        self._pass_time(now)
        if inputs > self.most_inputs or tokens > self.most_tokens or size > self.most_bytes:
            return 413, 0.0
        if self.unavailable and self.rng.random() < self.unavailable:
            return 503, 0.0
        waits = [outage.ends - now for outage in self.outages if outage.holds(now)]
        if now >= self.limits_from:
            waits += [quota.wait_s(now, amount) for quota, amount in self._quotas(tokens)]
        wait_s = max(waits, default=0.0)
        noise = sum(span.value for span in self.noise if span.holds(now))
        refused = wait_s > 0 or self.in_flight >= self.calls_at_once or (noise > 0 and self.rng.random() < noise)
        return (429 if refused else 200), wait_s

    def _pass_time(self, now: float) -> None:
        while self._changed < len(self.changes) and now >= self.changes[self._changed][0]:
            for quota, _ in self._quotas(0):
                quota.scale(self.changes[self._changed][1])
            self._changed += 1
        for rival in self.rivals:
            while (at := max(rival.begins, self._rival_at)) <= min(now, rival.ends):
                if self.requests is not None and self.requests.wait_s(at, 1) == 0:
                    self.requests.take(1)
                self._rival_at = at + 1 / rival.value

    def _limits(self) -> RateLimits:
        if self.told == "stale":
            return RateLimits(Allowance(60, 0, self.rng.uniform(30, 59)))
        if self.told == "honest":
            return RateLimits(*(quota.allowance() if quota else None for quota in (self.requests, self.tokens)))
        return RateLimits()
