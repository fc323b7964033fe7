"""Patience with neighbours: one gate for each, and the backoff of a repeated call.

pybreaker keeps the state, the counter and the listeners of a circuit, but knows nothing of asyncio
and counts a cancelled call as a failure. A ``Gate`` awaits outside, replays the outcome into it,
lets exactly one probe through when a pause is over, and leaves cancellation neutral.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import pybreaker
import tenacity

from ai_task_processor.errors import CircuitOpen, ModelRefused, NeighbourError, Rejected, TaskError
from ai_task_processor.logs import get_logger
from ai_task_processor.metrics import Metrics
from ai_task_processor.ports import Clock

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]

#: seconds a circuit stays open: three probes in the first minute of an outage, then two a minute
OPEN_S = (10.0, 20.0, 30.0)
#: how soon to look again while somebody else's probe is under way
PROBE_POLL_S = 0.2
#: a neighbour that asks for more patience than this frees the slot instead of holding it
LONGEST_WAIT_S = 20.0

log = get_logger(__name__)


def backoff_s(attempt: int, *, base: float, longest: float, rng: random.Random) -> float:
    """Exponential backoff with full jitter: uniform up to ``base ** attempt``, attempt counted from 0."""
    return rng.uniform(0.0, min(longest, base ** min(attempt, 64)))


class Gate:
    """The door to one neighbour: circuit breaker, Retry-After and pauses, for all who call it.

    Closed circuit and no hold: everyone passes. After a hold (open circuit, Retry-After, a refusal
    that is about our configuration) exactly one probe passes; its success opens the door to all.
    """

    def __init__(self, service: str, *, threshold: int, clock: Clock, metrics: Metrics) -> None:
        self.service = service
        self.reason: str | None = None
        self._clock = clock
        self._metrics = metrics
        self._breaker = pybreaker.CircuitBreaker(fail_max=threshold, throw_new_error_on_trip=False, name=service)
        self._held_until = 0.0
        self._probe_under_way = False
        self._holds = 0
        metrics.breaker(service, "closed")

    @property
    def state(self) -> State:
        """The circuit's state; a pause for another reason than failures leaves it closed."""
        state: State = self._breaker.current_state  # type: ignore[assignment]  # pybreaker types it as str
        return state

    def wait_s(self) -> float:
        """Seconds until a call may start: 0 when it may now."""
        if self.reason is None:
            return 0.0
        left = self._held_until - self._clock.monotonic()
        return left if left > 0 else (PROBE_POLL_S if self._probe_under_way else 0.0)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run one call. Raises ``CircuitOpen`` without trying when it may not start now."""
        wait_s = self.wait_s()
        if wait_s > 0:
            raise CircuitOpen(f"{self.service} is held: {self.reason}", retry_after_s=wait_s)
        probe = self.reason is not None
        if probe:
            self._probe_under_way = True
            if self.state == "open":
                self._breaker.half_open()
                self._metrics.breaker(self.service, self.state)
        try:
            value = await work()
        except (TaskError, Rejected, ModelRefused):
            self._answered(probe=probe)
            raise
        except NeighbourError as error:
            self._failed(error, probe=probe)
            raise
        else:
            self._answered(probe=probe)
            return value
        finally:
            if probe:
                self._probe_under_way = False

    def _answered(self, *, probe: bool) -> None:
        if self.reason is None:
            self._breaker.call(lambda: None)
        elif probe:
            self._breaker.close()
            self._metrics.breaker(self.service, self.state)
            log.info("neighbour.resumed", service=self.service)
            self.reason, self._holds = None, 0

    def _failed(self, error: NeighbourError, *, probe: bool) -> None:
        if error.trips_breaker:
            if self.reason is None or probe:
                self._count(error)
            if self.state == "open" and (self.reason is None or probe):
                self._hold(OPEN_S[min(self._holds, len(OPEN_S) - 1)], error)
        elif error.pause_s is not None:
            first, longest = error.pause_s
            growing_s = min(first * 2.0 ** min(self._holds, 16), longest)
            self._hold(max(growing_s, error.retry_after_s or 0.0), error)

    def _count(self, error: NeighbourError) -> None:
        def fail() -> None:
            raise error

        try:
            self._breaker.call(fail)
        except NeighbourError:
            self._metrics.breaker(self.service, self.state)

    def _hold(self, seconds: float, error: NeighbourError) -> None:
        """Nobody passes for that long. Calls that were under way when it began only lengthen it."""
        begins = self.reason is None
        if begins or self._clock.monotonic() >= self._held_until:
            self._holds += 1
        self.reason = str(error)
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)
        event = "breaker.opened" if self.state == "open" else "neighbour.paused"
        (log.warning if begins else log.debug)(
            event, service=self.service, reason=self.reason, seconds=round(seconds, 1)
        )


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how patiently, one model call is repeated within a slot."""

    retries: int
    base: float
    longest_s: float = LONGEST_WAIT_S


async def retrying(
    work: Callable[[], Awaitable[T]], *, gate: Gate, policy: RetryPolicy, clock: Clock, rng: random.Random
) -> T:
    """Call through the gate, and again after passing faults, with full jitter.

    The plain call comes first: tenacity is not even built on the path of success. It is one object
    per call, because a shared one mixes its callers' attempts. A neighbour that wants more patience
    than ``longest_s`` ends the attempt: the slot is worth more.
    """
    try:
        return await gate.call(work)
    except NeighbourError as error:
        if not error.retryable or policy.retries == 0 or gate.wait_s() > policy.longest_s:
            raise

    def pause(attempt: int) -> float:
        return max(gate.wait_s(), backoff_s(attempt, base=policy.base, longest=policy.longest_s, rng=rng))

    def worth_while(error: BaseException) -> bool:
        return isinstance(error, NeighbourError) and error.retryable and gate.wait_s() <= policy.longest_s

    await clock.sleep(pause(0))
    retries = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(policy.retries),
        wait=lambda state: pause(state.attempt_number),
        retry=tenacity.retry_if_exception(worth_while),
        sleep=clock.sleep,
        reraise=True,
    )
    return await retries(lambda: gate.call(work))
