"""The controllers that are compared: the product's, and what others do."""

import json
import math
import random
from math import inf

from ai_task_processor.core.ports import RateLimits
from ai_task_processor.providers.call_size import CallSize
from ai_task_processor.providers.limiter import Call, Limiter
from tests.bench.pace.play import Controller, Make, Sent


class Free(Controller):
    """No control: what is refused is repeated at once. A call that is too large is halved, and that is forgotten."""

    _most: float = inf
    _halves = 0

    def most(self) -> tuple[float, float]:
        return self._most, inf

    def served(self, now: float, call: Sent, limits: RateLimits) -> None:
        self._halves -= call.inputs
        if self._halves <= 0:
            self._most = inf

    def failed(self, now: float, call: Sent, status: int) -> None:
        if status == 413:
            self._halves, self._most = max(self._halves, call.inputs), max(1, call.inputs // 2)


class Backoff(Free):
    """Each call for itself: full jitter, doubling from a second to a minute; Retry-After when there is one."""

    def throttled(self, now: float, call: Sent, retry_after_s: float | None) -> float:
        return retry_after_s or self.rng.uniform(0, min(60.0, 2.0 ** call.tasks[0].refusals))


class Sre(Free):
    """Google SRE's adaptive throttling: beyond twice what was accepted in two minutes, calls are rejected locally."""

    requests = accepts = at = 0.0

    def wait_s(self, now: float, size: int, in_flight: int) -> float:
        fade = math.exp((self.at - now) / 60)
        self.requests, self.accepts, self.at = self.requests * fade + 1, self.accepts * fade, now
        return 0.05 if self.rng.random() < (self.requests - 2 * self.accepts) / (self.requests + 1) else 0.0

    def served(self, now: float, call: Sent, limits: RateLimits) -> None:
        super().served(now, call, limits)
        self.accepts += 1


class Netflix(Free):
    """Netflix's concurrency-limits, AIMD: a limit of calls in flight, times 0.9 after a drop."""

    limit = 10

    def wait_s(self, now: float, size: int, in_flight: int) -> float:
        return 0.0 if in_flight < self.limit else inf

    def served(self, now: float, call: Sent, limits: RateLimits) -> None:
        super().served(now, call, limits)
        self.limit += call.in_flight * 2 >= self.limit

    def throttled(self, now: float, call: Sent, retry_after_s: float | None) -> float:
        self.limit = max(1, min(self.limit - 1, int(self.limit * 0.9)))
        return 0.0


class Aws(Free):
    """The AWS SDK's adaptive mode (botocore): CUBIC over the measured rate, and a backoff per call of up to 20 s."""

    on = False
    rate = cap = left = at = measured = slot = w_max = failed_at = 0.0
    answers = 0

    def wait_s(self, now: float, size: int, in_flight: int) -> float:
        if not self.on:
            return 0.0
        self.left, self.at = min(self.cap, self.left + (now - self.at) * self.rate), now
        return max(0.0, (1 - self.left) / self.rate)

    def started(self, now: float, call: Sent) -> None:
        self.left -= self.on

    def served(self, now: float, call: Sent, limits: RateLimits) -> None:
        super().served(now, call, limits)
        self._measure(now)
        self._allow(now, 0.4 * (now - self.failed_at - (0.75 * self.w_max) ** (1 / 3)) ** 3 + self.w_max)

    def throttled(self, now: float, call: Sent, retry_after_s: float | None) -> float:
        self._measure(now)
        self.w_max, self.failed_at = min(self.measured, self.rate) if self.on else self.measured, now
        self._allow(now, 0.7 * self.w_max)
        self.on = True
        return self.rng.uniform(0, 1) * min(20.0, 2.0 ** call.tasks[0].refusals)

    def _measure(self, now: float) -> None:
        slot, self.answers = math.floor(now * 2) / 2, self.answers + 1
        if slot > self.slot:
            self.measured = 0.8 * self.answers / (slot - self.slot) + 0.2 * self.measured
            self.answers, self.slot = 0, slot

    def _allow(self, now: float, rate: float) -> None:
        self.wait_s(now, 0, 0)
        self.rate = max(min(rate, 2 * self.measured), 0.5)
        self.cap = max(self.rate, 1.0)
        self.left = min(self.left, self.cap)


class Product(Controller):
    """``Limiter`` and ``CallSize``, as the daemon uses them. A crash keeps what is known of the size."""

    def __init__(self, rng: random.Random, size: CallSize | None = None) -> None:
        super().__init__(rng)
        self.limiter, self.size = Limiter(), size or CallSize()
        self._calls: dict[Sent, Call] = {}

    def most(self) -> tuple[float, float]:
        return self.size.most_inputs, self.size.most_bytes

    def wait_s(self, now: float, size: int, in_flight: int) -> float:
        return self.limiter.wait_s(now, self.size.tokens(size))

    def started(self, now: float, call: Sent) -> None:
        repeated = any(task.refusals for task in call.tasks)
        self._calls[call] = self.limiter.begin(now, self.size.tokens(call.bytes), repeated=repeated)

    def served(self, now: float, call: Sent, limits: RateLimits) -> None:
        self.limiter.served(now, self._calls.pop(call), limits)
        self.size.passed(call.inputs, call.bytes, call.tokens)

    def throttled(self, now: float, call: Sent, retry_after_s: float | None) -> float:
        self.limiter.refused(now, self._calls.pop(call), retry_after_s)
        return 0.0

    def failed(self, now: float, call: Sent, status: int) -> None:
        self.limiter.failed(self._calls.pop(call))
        if status == 413:
            self.size.too_large(call.inputs, call.bytes)
        elif status == 504:
            self.size.timed_out(call.inputs, call.bytes)

    def restarted(self) -> Controller:
        return Product(self.rng, CallSize.restored(json.loads(json.dumps(self.size.state()))))


#: in the order of the table
CONTROLLERS: dict[str, Make] = {
    "none": Free,
    "backoff": Backoff,
    "Google SRE": Sre,
    "Netflix": Netflix,
    "AWS": Aws,
    "Limiter": Product,
}
