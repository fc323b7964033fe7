"""Patience with neighbours: one gate for each, and the backoff of a repeated call.

pybreaker keeps the state, the counter and the listeners of a circuit, but knows nothing of asyncio
and counts a cancelled call as a failure. A ``Gate`` awaits outside, replays the outcome into it,
lets exactly one probe through when a pause is over, and leaves cancellation neutral.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import pybreaker
import tenacity

from ai_task_processor.deadline import stalled_s
from ai_task_processor.errors import CircuitOpen, ModelRefused, NeighbourError, Rejected, TaskError, Unsent
from ai_task_processor.logs import get_logger
from ai_task_processor.metrics import Metrics
from ai_task_processor.ports import Clock

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]

#: seconds a circuit stays open, first and longest: three probes in the first minute of an outage, then two a minute
OPEN_S = (10.0, 30.0)
#: how soon to look again while somebody else's probe is under way
PROBE_POLL_S = 0.2
#: a neighbour that asks for more patience than this frees the slot instead of holding it
LONGEST_WAIT_S = 20.0
#: this process stood still for so long during a call: that it failed is no evidence about the remote
STALLED_S = 1.0

log = get_logger(__name__)


def backoff_s(attempt: int, *, base: float, longest: float, rng: random.Random) -> float:
    """Exponential backoff with full jitter: uniform up to ``base ** attempt``, attempt counted from 0."""
    return rng.uniform(0.0, min(longest, base ** min(attempt, 64)))


class Gate:
    """The door to one neighbour: circuit breaker, Retry-After and pauses, for all who call it.

    Closed circuit and no hold: everyone passes. After a hold (open circuit, Retry-After, a refusal
    that is about our configuration) exactly one probe passes. Its success opens the door to all, its
    failure begins the next hold, twice as long. What calls from before a hold bring says nothing
    about now: only the patience that the neighbour asks for is heeded.
    """

    def __init__(self, service: str, *, threshold: int, clock: Clock, metrics: Metrics) -> None:
        self.service = service
        self.reason: str | None = None
        self._clock = clock
        self._metrics = metrics
        self._breaker = pybreaker.CircuitBreaker(fail_max=threshold, throw_new_error_on_trip=False, name=service)
        self._holds = 0
        self._held_until = 0.0
        self._pause_s = 0.0
        self._bounds = OPEN_S
        self._probing = False
        self._blamed: set[str] = set()
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
        return left if left > 0 else (PROBE_POLL_S if self._probing else 0.0)

    async def call(self, work: Callable[[], Awaitable[T]], *, about: str | None = None) -> T:
        """Run one call. Raises ``CircuitOpen`` without trying when it may not start now.

        ``about``: what the call is about, when that may be at fault, too. Until a call succeeds, what was
        answered with a failure counts once however often it is tried: one task whose callback throws
        must not open the circuit for all.
        """
        wait_s = self.wait_s()
        if wait_s > 0:
            raise CircuitOpen(f"{self.service} is held: {self.reason}", retry_after_s=wait_s)
        holds, probe, stalled_before_s = self._holds, self.reason is not None, stalled_s()
        if probe:
            self._begin_probe()
        try:
            value = await work()
        except (TaskError, Rejected, ModelRefused):
            self._answered(holds)
            raise
        except NeighbourError as error:
            if error.status is not None or stalled_s() - stalled_before_s < STALLED_S:
                self._failed(error, holds, about)
            raise
        else:
            self._answered(holds)
            return value
        finally:
            if probe:
                self._probing = False

    def _begin_probe(self) -> None:
        self._probing = True
        if self.state == "open":
            self._breaker.half_open()
            self._metrics.breaker(self.service, self.state)

    def _answered(self, holds: int) -> None:
        if holds != self._holds:
            return
        if self.reason is None and not self._blamed and not self._breaker.fail_counter:
            return  # all is well, as before
        self._blamed.clear()
        event = "neighbour.resumed" if self.state == "closed" else "breaker.closed"
        self._breaker.call(lambda: None)
        if self.reason is not None:
            self.reason, self._pause_s, self._held_until = None, 0.0, 0.0
            self._metrics.breaker(self.service, self.state)
            log.info(event, service=self.service)

    def _failed(self, error: NeighbourError, holds: int, about: str | None) -> None:
        if holds != self._holds:
            if self.reason is not None:
                self._hold_for(error.retry_after_s or 0.0)
            return
        if error.trips_breaker and not self._blames_again(error, about):
            self._count(error)
        if self.reason is not None or self.state == "open" or error.pause_s is not None:
            self._hold(error)

    def _blames_again(self, error: NeighbourError, about: str | None) -> bool:
        """Does this failure say nothing new? Nobody is to blame for a neighbour that was not reached."""
        if about is None or isinstance(error, Unsent):
            return False
        again = about in self._blamed
        self._blamed.add(about)
        return again

    def _count(self, error: NeighbourError) -> None:
        def fail() -> None:
            raise error

        with contextlib.suppress(NeighbourError):
            self._breaker.call(fail)
        self._metrics.breaker(self.service, self.state)

    def _hold(self, error: NeighbourError) -> None:
        """Nobody passes for a while: twice the pause before, within the bounds of this kind of error."""
        if error.pause_s or self.state == "open":
            self._bounds = error.pause_s or OPEN_S
        # Otherwise a probe failed after a hold that was no outage: that hold goes on, twice as long.
        first, longest = self._bounds
        self._pause_s = min(max(first, 2.0 * self._pause_s), longest)
        seconds = max(self._pause_s, error.retry_after_s or 0.0)
        changed, self.reason = self.reason != str(error), str(error)
        self._hold_for(seconds)
        self._holds += 1
        event = "breaker.opened" if self.state == "open" else "neighbour.paused"
        (log.warning if changed else log.debug)(
            event, service=self.service, reason=self.reason, seconds=round(seconds, 1)
        )

    def _hold_for(self, seconds: float) -> None:
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how patiently, one model call is repeated within a slot."""

    retries: int
    base: float
    longest_s: float = LONGEST_WAIT_S


class RetryBudget:
    """Bounds what repetitions add to the load of a neighbour that fails already.

    Each success earns a fifth of a repetition; so many may be saved up. Without it, ``MAX_RETRIES`` of
    everybody would come on top of the first attempts just when there is too much of them.
    """

    EARNED, SAVED = 0.2, 10.0

    def __init__(self) -> None:
        self._left = self.SAVED

    @property
    def left(self) -> bool:
        """May a call be repeated?"""
        return self._left >= 1.0

    def spend(self) -> None:
        self._left -= 1.0

    def earn(self) -> None:
        self._left = min(self._left + self.EARNED, self.SAVED)


async def retrying(
    work: Callable[[], Awaitable[T]],
    *,
    gate: Gate,
    policy: RetryPolicy,
    budget: RetryBudget,
    clock: Clock,
    rng: random.Random,
) -> T:
    """Call through the gate, and again after passing faults, with full jitter.

    The plain call comes first: tenacity is not even built on the path of success. It is one object
    per call, because a shared one mixes its callers' attempts. A neighbour that wants more patience
    than ``longest_s`` ends the attempt: the slot is worth more. So does an empty ``budget``.
    """

    def worth_while(error: BaseException) -> bool:
        patient = isinstance(error, NeighbourError) and error.retryable and gate.wait_s() <= policy.longest_s
        return patient and budget.left

    def pause(attempt: int) -> float:
        budget.spend()
        # A timer may fire a moment early; the door would still be closed.
        return max(gate.wait_s() + 0.01, backoff_s(attempt, base=policy.base, longest=policy.longest_s, rng=rng))

    async def once() -> T:
        value = await gate.call(work)
        budget.earn()
        return value

    try:
        return await once()
    except NeighbourError as error:
        if policy.retries == 0 or not worth_while(error):
            raise
    await clock.sleep(pause(0))
    retries = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(policy.retries),
        wait=lambda state: pause(state.attempt_number),
        retry=tenacity.retry_if_exception(worth_while),
        sleep=clock.sleep,
        reraise=True,
    )
    return await retries(once)
