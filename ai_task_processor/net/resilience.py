"""Circuit breakers and pauses (one ``Gate`` per remote), and the backoff of retries.

pybreaker holds the state and the counter of a circuit, but does not support asyncio and counts a cancelled call as a
failure. A ``Gate`` awaits the call itself and passes the outcome to pybreaker. It admits exactly one probe after a
pause, and ignores cancelled calls.
"""

import contextlib
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import tenacity

from ai_task_processor.core.deadline import stalled_s
from ai_task_processor.core.errors import CircuitOpen, Rejected, RemoteError, TaskError, Unsent, explained
from ai_task_processor.core.ports import Clock
from ai_task_processor.ops.logs import get_logger

# pybreaker looks for redis, to store circuits there: 0.3 s and 26 MB, for nothing here. None means: not installed.
_redis: object = sys.modules.setdefault("redis", None)  # type: ignore[arg-type]  # the import system's own mark
import pybreaker  # noqa: E402 - as said

if _redis is None:
    del sys.modules["redis"]

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]

#: seconds a circuit stays open, first and longest: three probes in the first minute of an outage, then two a minute
OPEN_S = (10.0, 30.0)
#: delay before the next try while another caller's probe is under way, seconds
PROBE_POLL_S = 0.2
#: longest backoff within a slot, seconds
LONGEST_WAIT_S = 20.0
#: when the process stalled this long during a call, its failure is no evidence about the remote, seconds
STALLED_S = 1.0

log = get_logger(__name__)


def backoff_s(attempt: int, *, base: float, longest: float, rng: random.Random) -> float:
    """Exponential backoff with full jitter: uniform up to ``base ** attempt``, attempt counted from 0."""
    return rng.uniform(0.0, min(longest, base ** min(attempt, 64)))


class BreakerMetrics(Protocol):
    """The metric of circuits."""

    def breaker(self, service: str, state: State) -> None:
        """The circuit of this service is ``closed``, ``open`` or ``half-open``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An admitted call: ``holds`` counts the pauses before it, ``probe``: its success ends a pause.

    ``stalled_s``: for how long in total this process had stalled until then.
    """

    holds: int
    probe: bool
    stalled_s: float

    def is_evidence(self, error: RemoteError) -> bool:
        """Is the failure evidence about the remote? Not when there was no answer and this process stalled."""
        return error.status is not None or stalled_s() - self.stalled_s < STALLED_S


class Gate:
    """Admits the calls to one remote: circuit breaker, Retry-After and pauses, shared by all callers.

    Without a pause every call is admitted. After a pause (open circuit, Retry-After, a refusal because of the
    configuration) exactly one probe is. Its success admits all, its failure begins the next pause, twice as long.
    Outcomes of calls that began before a pause are no evidence: only the delay that Retry-After asks for counts.
    """

    def __init__(self, service: str, *, threshold: int, clock: Clock, metrics: BreakerMetrics) -> None:
        self.service = service
        self.reason: str | None = None
        self._failure = ""
        self._clock = clock
        self._metrics = metrics
        self._breaker = pybreaker.CircuitBreaker(fail_max=threshold, throw_new_error_on_trip=False, name=service)
        self._holds = 0
        self._held_until = 0.0
        self._pause_s = 0.0
        self._bounds = OPEN_S
        self._probing = False
        self._at_fault: set[str] = set()
        metrics.breaker(service, "closed")

    @property
    def state(self) -> State:
        """The circuit's state; a pause that is no outage leaves it closed."""
        state: State = self._breaker.current_state  # type: ignore[assignment]  # pybreaker types it as str
        return state

    def wait_s(self) -> float:
        """Seconds until a call may start; 0 when one may now."""
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
        """A call has ended, in whatever way. Without ``answered`` or ``failed`` (a cancelled one) it is no evidence."""
        if entry.probe:
            self._probing = False

    def _begin_probe(self) -> None:
        self._probing = True
        if self.state == "open":
            self._breaker.half_open()
            self._metrics.breaker(self.service, self.state)

    def answered(self, entry: "Entry") -> None:
        """A call was answered: the remote is well. One that began before a pause is no evidence."""
        if entry.holds != self._holds:
            return
        if self.reason is None and not self._at_fault and not self._breaker.fail_counter:
            return  # nothing changes
        self._at_fault.clear()
        event = "remote.resumed" if self.state == "closed" else "breaker.closed"
        self._breaker.call(lambda: None)
        if self.reason is not None:
            self.reason, self._failure, self._pause_s, self._held_until = None, "", 0.0, 0.0
            self._metrics.breaker(self.service, self.state)
            log.info(event, service=self.service)

    def failed(self, entry: "Entry", error: RemoteError, *, about: str | None = None) -> None:
        """A call failed.

        ``about``: the id of the task that may be at fault instead. Until a call succeeds, its failures count once:
        one task whose callback raises upstream must not open the circuit for all.
        """
        if not entry.is_evidence(error):
            return
        if entry.holds != self._holds:
            if self.reason is not None:
                self._hold_for(error.retry_after_s or 0.0)
            return
        if error.trips_breaker and not self._failed_before(error, about):
            self._count(error)
        if self.reason is not None or self.state == "open" or error.pause_s is not None:
            self._hold(error)

    def _failed_before(self, error: RemoteError, about: str | None) -> bool:
        """Has a call about the same failed already? Calls that did not reach the remote always count."""
        if about is None or isinstance(error, Unsent):
            return False
        again = about in self._at_fault
        self._at_fault.add(about)
        return again

    def _count(self, error: RemoteError) -> None:
        def fail() -> None:
            raise error

        with contextlib.suppress(RemoteError):
            self._breaker.call(fail)
        self._metrics.breaker(self.service, self.state)

    def _hold(self, error: RemoteError, bounds: tuple[float, float] | None = None) -> None:
        """Begin a pause: twice as long as the last one, within the bounds of this kind of error."""
        if bounds or error.pause_s or self.state == "open":
            self._bounds = bounds or error.pause_s or OPEN_S
        # Otherwise a probe failed after a pause that was no outage: its bounds remain.
        first, longest = self._bounds
        self._pause_s = min(max(first, 2.0 * self._pause_s), longest)
        seconds = max(self._pause_s, error.retry_after_s or 0.0)
        # The remote's own words may differ with each answer: they do not make a new line.
        changed, self._failure, self.reason = self._failure != str(error), str(error), explained(error)
        self._hold_for(seconds)
        self._holds += 1
        event = "breaker.opened" if self.state == "open" else "remote.paused"
        (log.warning if changed else log.debug)(
            event, service=self.service, reason=self.reason, seconds=round(seconds, 1)
        )

    def hold(self, entry: "Entry", error: RemoteError, *, bounds: tuple[float, float] | None = None) -> None:
        """Begin a pause without counting failures. ``bounds``: first and longest pause in seconds.

        An error of an outage opens the circuit. A call that began before the last pause begins no new one.
        """
        if entry.holds != self._holds and self.reason is not None:
            self._hold_for(error.retry_after_s or 0.0)
            return
        if error.trips_breaker and self.state != "open":
            self._breaker.open()
            self._metrics.breaker(self.service, self.state)
        self._hold(error, bounds)

    def due(self) -> None:
        """End the wait: the next call is a probe, because the remote may be back."""
        self._held_until = 0.0

    def _hold_for(self, seconds: float) -> None:
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)


class Retries:
    """Retry policy within a slot: when to stop and how long to wait (tenacity), and a retry budget.

    The budget bounds the load that retries add to a remote that fails already: each success earns ``EARNED`` of a
    retry, and at most ``SAVED`` are saved. Without it an overload would be multiplied by ``MAX_RETRIES``.
    """

    EARNED, SAVED = 0.2, 10.0

    def __init__(self, retries: int, base: float) -> None:
        self._stop = tenacity.stop_after_attempt(retries + 1)
        self._wait = tenacity.wait_random_exponential(multiplier=1.0, exp_base=base, max=LONGEST_WAIT_S)
        self._left = self.SAVED

    def again_in_s(self, failures: int) -> float | None:
        """Seconds before the next attempt after ``failures`` failed ones, with full jitter; None: do not retry."""
        state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]  # no call of tenacity's own
        state.attempt_number = failures
        if self._stop(state) or self._left < 1.0:
            return None
        self._left -= 1.0
        return float(self._wait(state))

    def earn(self) -> None:
        """A call succeeded."""
        self._left = min(self._left + self.EARNED, self.SAVED)
