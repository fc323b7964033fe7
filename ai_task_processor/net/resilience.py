"""Patience with remotes: one gate for each, and the backoff of a repeated call.

pybreaker keeps the state, the counter and the listeners of a circuit, but knows nothing of asyncio
and counts a cancelled call as a failure. A ``Gate`` awaits outside, replays the outcome into it,
lets exactly one probe through when a pause is over, and leaves cancellation neutral.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import pybreaker
import tenacity

from ai_task_processor.core.deadline import stalled_s
from ai_task_processor.core.errors import CircuitOpen, Rejected, RemoteError, TaskError, Unsent
from ai_task_processor.core.ports import Clock
from ai_task_processor.ops.logs import get_logger

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]

#: seconds a circuit stays open, first and longest: three probes in the first minute of an outage, then two a minute
OPEN_S = (10.0, 30.0)
#: how soon to look again while somebody else's probe is under way
PROBE_POLL_S = 0.2
#: no repetition waits for longer in its slot, seconds
LONGEST_WAIT_S = 20.0
#: this process stood still for so long during a call: that it failed is no evidence about the remote
STALLED_S = 1.0

log = get_logger(__name__)


def backoff_s(attempt: int, *, base: float, longest: float, rng: random.Random) -> float:
    """Exponential backoff with full jitter: uniform up to ``base ** attempt``, attempt counted from 0."""
    return rng.uniform(0.0, min(longest, base ** min(attempt, 64)))


class BreakerMetrics(Protocol):
    """Where the state of a circuit is shown."""

    def breaker(self, service: str, state: State) -> None:
        """The circuit of this service is ``closed``, ``open`` or ``half-open``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A call that was let through: after how many holds, and whether it is the probe that ends one.

    ``stalled_s``: for how long this process had stood still until then.
    """

    holds: int
    probe: bool
    stalled_s: float

    def is_evidence(self, error: RemoteError) -> bool:
        """Does the failure say anything about the remote? Not without an answer while this process stood still."""
        return error.status is not None or stalled_s() - self.stalled_s < STALLED_S


class Gate:
    """The door to one remote: circuit breaker, Retry-After and pauses, for all who call it.

    Closed circuit and no hold: everyone passes. After a hold (open circuit, Retry-After, a refusal
    that is about our configuration) exactly one probe passes. Its success opens the door to all, its
    failure begins the next hold, twice as long. What calls from before a hold bring says nothing
    about now: only the patience that the remote asks for is heeded.
    """

    def __init__(self, service: str, *, threshold: int, clock: Clock, metrics: BreakerMetrics) -> None:
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
        """Run one call. Raises ``CircuitOpen`` without trying when it may not start now; ``about``: see ``failed``."""
        entry = self.enter()
        try:
            value = await work()
        except (TaskError, Rejected):
            self.answered(entry)
            raise
        except RemoteError as error:
            self.failed(entry, error, about=about)
            raise
        else:
            self.answered(entry)
            return value
        finally:
            self.leave(entry)

    def enter(self) -> "Entry":
        """A call begins; ``leave`` must follow, and ``answered`` or ``failed`` before it when there was an answer.

        Raises ``CircuitOpen`` when no call may start now.
        """
        wait_s = self.wait_s()
        if wait_s > 0:
            raise CircuitOpen(f"{self.service} is held: {self.reason}", retry_after_s=wait_s)
        entry = Entry(self._holds, self.reason is not None, stalled_s())
        if entry.probe:
            self._begin_probe()
        return entry

    def leave(self, entry: "Entry") -> None:
        """A call has ended, whatever became of it: a cancelled one says nothing."""
        if entry.probe:
            self._probing = False

    def _begin_probe(self) -> None:
        self._probing = True
        if self.state == "open":
            self._breaker.half_open()
            self._metrics.breaker(self.service, self.state)

    def answered(self, entry: "Entry") -> None:
        """A call was answered: the remote is well. Calls from before a hold say nothing about now."""
        if entry.holds != self._holds:
            return
        if self.reason is None and not self._blamed and not self._breaker.fail_counter:
            return  # all is well, as before
        self._blamed.clear()
        event = "remote.resumed" if self.state == "closed" else "breaker.closed"
        self._breaker.call(lambda: None)
        if self.reason is not None:
            self.reason, self._pause_s, self._held_until = None, 0.0, 0.0
            self._metrics.breaker(self.service, self.state)
            log.info(event, service=self.service)

    def failed(self, entry: "Entry", error: RemoteError, *, about: str | None = None) -> None:
        """A call failed.

        ``about``: what the call is about, when that may be at fault, too. Until a call succeeds, what was
        answered with a failure counts once however often it is tried: one task whose callback throws
        must not open the circuit for all.
        """
        if not entry.is_evidence(error):
            return
        if entry.holds != self._holds:
            if self.reason is not None:
                self._hold_for(error.retry_after_s or 0.0)
            return
        if error.trips_breaker and not self._blames_again(error, about):
            self._count(error)
        if self.reason is not None or self.state == "open" or error.pause_s is not None:
            self._hold(error)

    def _blames_again(self, error: RemoteError, about: str | None) -> bool:
        """Does this failure say nothing new? Nobody is to blame for a remote that was not reached."""
        if about is None or isinstance(error, Unsent):
            return False
        again = about in self._blamed
        self._blamed.add(about)
        return again

    def _count(self, error: RemoteError) -> None:
        def fail() -> None:
            raise error

        with contextlib.suppress(RemoteError):
            self._breaker.call(fail)
        self._metrics.breaker(self.service, self.state)

    def _hold(self, error: RemoteError, bounds: tuple[float, float] | None = None) -> None:
        """Nobody passes for a while: twice the pause before, within the bounds of this kind of error."""
        if bounds or error.pause_s or self.state == "open":
            self._bounds = bounds or error.pause_s or OPEN_S
        # Otherwise a probe failed after a hold that was no outage: that hold goes on, twice as long.
        first, longest = self._bounds
        self._pause_s = min(max(first, 2.0 * self._pause_s), longest)
        seconds = max(self._pause_s, error.retry_after_s or 0.0)
        changed, self.reason = self.reason != str(error), str(error)
        self._hold_for(seconds)
        self._holds += 1
        event = "breaker.opened" if self.state == "open" else "remote.paused"
        (log.warning if changed else log.debug)(
            event, service=self.service, reason=self.reason, seconds=round(seconds, 1)
        )

    def hold(self, entry: "Entry", error: RemoteError, *, bounds: tuple[float, float] | None = None) -> None:
        """Hold everybody at once, because enough was seen elsewhere. ``bounds``: first and longest pause in seconds.

        An error that speaks of an outage opens the circuit. A call that began before the last hold holds nobody anew.
        """
        if entry.holds != self._holds and self.reason is not None:
            self._hold_for(error.retry_after_s or 0.0)
            return
        if error.trips_breaker and self.state != "open":
            self._breaker.open()
            self._metrics.breaker(self.service, self.state)
        self._hold(error, bounds)

    def due(self) -> None:
        """The next call is a probe, at once: there is news from elsewhere that the remote is back."""
        self._held_until = 0.0

    def _hold_for(self, seconds: float) -> None:
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)


class Retries:
    """How often, and how patiently, a call is repeated within a slot. tenacity knows when to stop and how long to wait.

    The budget bounds what repetitions add to the load of a remote that fails already: each success earns a
    fifth of a repetition, and so many may be saved up. Without it, ``MAX_RETRIES`` of everybody would come on
    top of the first attempts just when there is too much of them.
    """

    EARNED, SAVED = 0.2, 10.0

    def __init__(self, retries: int, base: float) -> None:
        self._stop = tenacity.stop_after_attempt(retries + 1)
        self._wait = tenacity.wait_random_exponential(multiplier=1.0, exp_base=base, max=LONGEST_WAIT_S)
        self._left = self.SAVED

    def again_in_s(self, failures: int) -> float | None:
        """Seconds before the next attempt after so many failed ones, with full jitter; None when there is none."""
        state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]  # no call of tenacity's own
        state.attempt_number = failures
        if self._stop(state) or self._left < 1.0:
            return None
        self._left -= 1.0
        return float(self._wait(state))

    def earn(self) -> None:
        """A call succeeded."""
        self._left = min(self._left + self.EARNED, self.SAVED)
