"""The gate and the backoff, in virtual time."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import structlog
import tenacity

from ai_task_processor.deadline import stalls_of
from ai_task_processor.errors import (
    Ambiguous,
    CircuitOpen,
    InputRefused,
    Misconfigured,
    ModelRefused,
    NeighbourError,
    NoToken,
    QuotaExhausted,
    Rejected,
    TaskError,
    Throttled,
    Transient,
    Unauthorized,
    Unsent,
)
from ai_task_processor.metrics import Metrics
from ai_task_processor.resilience import Gate, RetryBudget, RetryPolicy, backoff_s, retrying

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

THRESHOLD = 5
DOWN = Transient("the task API answered 503", status=503)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1", provider="openai")


@pytest.fixture
def gate(clock: "FakeClock", metrics: Metrics) -> Gate:
    return Gate("model", threshold=THRESHOLD, clock=clock, metrics=metrics)


def state(gate: Gate) -> str:
    return gate.state


class Neighbour:
    """Answers with what ``error`` is at that moment; ``calls`` are the times it was reached."""

    def __init__(self, clock: "FakeClock", error: Exception | None = None, takes_s: float = 0.0) -> None:
        self.error = error
        self.takes_s = takes_s
        self.calls: list[float] = []
        self._clock = clock

    async def __call__(self) -> str:
        self.calls.append(self._clock.monotonic())
        if self.takes_s:
            await self._clock.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return "answer"


async def attempt(gate: Gate, work: Callable[[], Awaitable[str]]) -> str:
    """``answer``, or the name of the error."""
    try:
        return await gate.call(work)
    except (NeighbourError, TaskError, Rejected) as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("error", "stalled_s", "opened"),
    [
        (Ambiguous("no answer within 5 s"), 36.0, False),
        (Unsent("no connection in time"), 36.0, False),
        (Ambiguous("no answer within 5 s"), 0.5, True),
        (DOWN, 36.0, True),
    ],
)
async def test_a_stall_of_ours_is_no_evidence(
    gate: Gate, error: NeighbourError, stalled_s: float, opened: bool
) -> None:
    """This process stood still during the calls: that they failed opens no circuit, but an answer counts."""
    stalls = stalls_of(asyncio.get_running_loop())

    async def work() -> str:
        due_at = max(0.0, stalls.ended_at) + 1.0
        stalls.note(due_at, due_at + stalled_s)
        raise error

    for _ in range(THRESHOLD):
        await attempt(gate, work)
    assert (gate.state == "open") == opened


async def fail(gate: Gate, neighbour: Neighbour, error: Exception = DOWN, times: int = THRESHOLD) -> None:
    neighbour.error = error
    for _ in range(times):
        await attempt(gate, neighbour)


@pytest.fixture
def neighbour(clock: "FakeClock") -> Neighbour:
    return Neighbour(clock)


@pytest.mark.parametrize("error", [DOWN, Unsent("refused"), Ambiguous("no answer within 30 s")])
async def test_consecutive_failures_open_the_circuit(
    gate: Gate, neighbour: Neighbour, metrics: Metrics, error: NeighbourError
) -> None:
    """The threshold opens it, one less does not, and nobody is let through while it is open."""
    await fail(gate, neighbour, error, THRESHOLD - 1)
    assert (state(gate), gate.wait_s(), gate.reason) == ("closed", 0.0, None)
    await fail(gate, neighbour, error, 1)
    assert (state(gate), gate.wait_s(), gate.reason) == ("open", 10.0, str(error))
    assert await attempt(gate, neighbour) == "CircuitOpen"
    assert len(neighbour.calls) == THRESHOLD
    assert metrics.value("circuit_breaker_state", service="model") == 1


@pytest.mark.parametrize(
    "answer",
    [None, TaskError("empty_text"), InputRefused("too_long"), Rejected("refused", 400), ModelRefused("unknown model")],
)
async def test_every_answer_counts_as_one(gate: Gate, neighbour: Neighbour, answer: Exception | None) -> None:
    """A success, and a refusal that is about one task, one result or one model, ends a row of failures."""
    await fail(gate, neighbour, times=THRESHOLD - 1)
    neighbour.error = answer
    await attempt(gate, neighbour)
    await fail(gate, neighbour, times=THRESHOLD - 1)
    assert state(gate) == "closed"
    await fail(gate, neighbour, times=1)
    assert state(gate) == "open"


async def test_a_refusal_closes_a_half_open_circuit(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """A neighbour that refuses a task is a neighbour that answers."""
    await fail(gate, neighbour)
    clock.advance(10)
    neighbour.error = InputRefused("too_long")
    assert await attempt(gate, neighbour) == "InputRefused"
    assert (state(gate), gate.wait_s()) == ("closed", 0.0)


@pytest.mark.parametrize("error", [DOWN, Ambiguous("no answer"), Throttled("429", retry_after_s=None)])
async def test_a_full_outage_is_probed_twice_a_minute(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock", error: NeighbourError
) -> None:
    """100 impatient callers in an outage of ten minutes: at most four requests in the first minute, then two."""
    await fail(gate, neighbour)
    neighbour.error = error
    opened_at, neighbour.calls = clock.monotonic(), []

    async def insist() -> None:
        while clock.monotonic() < opened_at + 600:
            await attempt(gate, neighbour)
            assert gate.wait_s() > 0, "nobody may spin"
            await clock.sleep(gate.wait_s())

    await asyncio.gather(*(insist() for _ in range(100)))
    ages = [called_at - opened_at for called_at in neighbour.calls]
    assert 2 <= sum(age <= 60 for age in ages) <= 4
    for minute in range(1, 10):
        assert 1 <= sum(minute * 60 < age <= minute * 60 + 60 for age in ages) <= 2


async def test_the_open_times_are_10_20_30(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """Each failed probe doubles the pause, up to half a minute; a success starts anew."""
    await fail(gate, neighbour)
    seen = []
    for _ in range(4):
        seen.append(gate.wait_s())
        clock.advance(gate.wait_s())
        await attempt(gate, neighbour)
    assert seen == [10, 20, 30, 30]
    clock.advance(30)
    neighbour.error = None
    assert await attempt(gate, neighbour) == "answer"
    await fail(gate, neighbour)
    assert gate.wait_s() == 10


async def test_half_open_admits_exactly_one(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """Of 50 callers at the end of the pause one is the probe; its success lets the rest in."""
    await fail(gate, neighbour)
    clock.advance(10)
    neighbour.calls, neighbour.error, neighbour.takes_s = [], None, 5.0
    outcomes = await asyncio.gather(*(attempt(gate, neighbour) for _ in range(50)))
    assert sorted(outcomes) == ["CircuitOpen"] * 49 + ["answer"]
    assert len(neighbour.calls) == 1
    assert await asyncio.gather(*(attempt(gate, neighbour) for _ in range(50))) == ["answer"] * 50


async def test_whoever_waits_for_a_probe_does_not_spin(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """While a probe is under way the others are told to look again in a moment, never in 0 s."""
    await fail(gate, neighbour)
    clock.advance(10)
    neighbour.takes_s = 60.0
    probe = asyncio.create_task(attempt(gate, neighbour))
    await asyncio.sleep(0)
    with pytest.raises(CircuitOpen) as refused:
        await gate.call(neighbour)
    assert refused.value.retry_after_s == gate.wait_s() > 0
    await probe


async def test_a_cancelled_call_is_no_evidence(gate: Gate, neighbour: Neighbour) -> None:
    """A row of cancellations neither opens the circuit nor ends a row of failures."""
    await fail(gate, neighbour, times=THRESHOLD - 1)
    neighbour.takes_s = 60.0
    for _ in range(3):
        call = asyncio.create_task(gate.call(neighbour))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert state(gate) == "closed"
    neighbour.takes_s = 0.0
    await fail(gate, neighbour, times=1)
    assert state(gate) == "open"


@pytest.mark.parametrize("ending", [asyncio.CancelledError(), ZeroDivisionError()])
async def test_after_a_probe_without_an_answer_the_next_caller_is_the_probe(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock", ending: BaseException
) -> None:
    """A probe that is cancelled, or dies of a bug, leaves the circuit half-open and not stuck."""
    await fail(gate, neighbour)
    clock.advance(10)

    async def end() -> str:
        raise ending

    with pytest.raises(type(ending)):
        await gate.call(end)
    assert (state(gate), gate.wait_s()) == ("half-open", 0.0)
    neighbour.error, neighbour.takes_s = None, 1.0
    outcomes = await asyncio.gather(*(attempt(gate, neighbour) for _ in range(3)))
    assert sorted(outcomes) == ["CircuitOpen", "CircuitOpen", "answer"]
    assert (state(gate), gate.wait_s()) == ("closed", 0.0)


async def test_a_throttled_probe_keeps_the_circuit_half_open(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock"
) -> None:
    """429 is no outage and no success: the circuit waits for the next probe as long as it was asked to."""
    await fail(gate, neighbour)
    clock.advance(10)
    await fail(gate, neighbour, Throttled("429", retry_after_s=45.0), 1)
    assert (state(gate), gate.wait_s()) == ("half-open", 45.0)
    clock.advance(45)
    await fail(gate, neighbour, DOWN, 1)
    assert state(gate) == "open"
    clock.advance(30)
    neighbour.error = None
    assert await attempt(gate, neighbour) == "answer"
    assert state(gate) == "closed"


async def test_retry_after_holds_everyone(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """One 429 keeps all callers away for as long as the neighbour wishes, and trips no circuit."""
    await fail(gate, neighbour, Throttled("429", retry_after_s=30.0), 1)
    clock.advance(29.9)
    assert await asyncio.gather(*(attempt(gate, neighbour) for _ in range(20))) == ["CircuitOpen"] * 20
    assert (state(gate), len(neighbour.calls)) == ("closed", 1)
    clock.advance(0.1)
    neighbour.error = None
    assert await attempt(gate, neighbour) == "answer"


@pytest.mark.parametrize(
    ("error", "pauses"),
    [
        (Misconfigured("404"), [10, 20, 40, 80, 160, 300, 300]),
        (Unauthorized("403"), [10, 20, 40, 80, 160, 300, 300]),
        (QuotaExhausted("insufficient_quota"), [300, 300, 300]),
        (Throttled("429"), [1, 2, 4, 8, 16, 32, 60, 60]),
        (Throttled("429", retry_after_s=5.0), [5, 5, 5, 8, 16]),
        (NoToken("none"), [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]),
    ],
)
async def test_pauses_grow_to_their_bound(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock", error: NeighbourError, pauses: list[float]
) -> None:
    """Each kind of refusal has a first and a longest pause, doubled from probe to probe, with the circuit closed."""
    for seconds in pauses:
        await fail(gate, neighbour, error, 1)
        assert gate.wait_s() == pytest.approx(seconds)
        assert state(gate) == "closed"
        clock.advance(gate.wait_s())


async def test_another_kind_of_refusal_does_not_start_at_its_longest(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock"
) -> None:
    """Twenty short pauses for want of a token do not make the first 404 a pause of five minutes."""
    for _ in range(20):
        await fail(gate, neighbour, NoToken("none"), 1)
        clock.advance(gate.wait_s())
    await fail(gate, neighbour, Misconfigured("404"), 1)
    assert gate.wait_s() == 10


async def test_a_simultaneous_refusal_pauses_once(gate: Gate, neighbour: Neighbour) -> None:
    """32 calls that are refused together begin one pause, not a doubled one."""
    neighbour.error, neighbour.takes_s = Unauthorized("403"), 1.0
    await asyncio.gather(*(attempt(gate, neighbour) for _ in range(32)))
    assert gate.wait_s() == 10


async def test_a_probe_that_fails_always_begins_a_hold(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """After a 429 a failing neighbour is not asked by one caller after the other: the hold doubles, as long as
    the circuit is closed, and one fault does not make an outage of it."""
    await fail(gate, neighbour, Throttled("429"), 1)
    for pause_s in (2, 4, 8):
        clock.advance(gate.wait_s())
        await fail(gate, neighbour, DOWN, 1)
        assert gate.wait_s() == pause_s
    clock.advance(8)
    await fail(gate, neighbour, DOWN, 2)
    assert (state(gate), gate.wait_s()) == ("closed", 16)
    clock.advance(16)
    await fail(gate, neighbour, DOWN, 1)
    assert (state(gate), gate.wait_s()) == ("open", 30)


@pytest.mark.parametrize("late", [None, DOWN, Misconfigured("404"), Throttled("429", retry_after_s=2.0)])
async def test_calls_from_before_a_hold_change_nothing(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock", late: NeighbourError | None
) -> None:
    """What was under way when the circuit opened neither closes it nor shortens or lengthens the hold."""
    slow = Neighbour(clock, late, takes_s=4.0)
    under_way = [asyncio.create_task(attempt(gate, slow)) for _ in range(20)]
    await asyncio.sleep(0)
    await fail(gate, neighbour)
    await asyncio.gather(*under_way)
    assert (state(gate), gate.wait_s(), gate.reason) == ("open", 6.0, str(DOWN))


async def test_a_late_wish_for_patience_is_heeded(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """A longer Retry-After from a call that was under way lengthens the hold."""
    slow = Neighbour(clock, Throttled("429", retry_after_s=60.0), takes_s=4.0)
    under_way = asyncio.create_task(attempt(gate, slow))
    await asyncio.sleep(0)
    await fail(gate, neighbour)
    await under_way
    assert gate.wait_s() == 60


async def test_hung_calls_do_not_reopen_a_circuit(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """45 calls from before the outage that time out after the recovery are no new outage."""
    hung = Neighbour(clock, Ambiguous("no answer within 60 s"), takes_s=60.0)
    under_way = [asyncio.create_task(attempt(gate, hung)) for _ in range(45)]
    await asyncio.sleep(0)
    await fail(gate, neighbour)
    await clock.sleep(10)
    neighbour.error = None
    assert await attempt(gate, neighbour) == "answer"
    await asyncio.gather(*under_way)
    assert (state(gate), gate.wait_s()) == ("closed", 0.0)


async def test_a_long_outage_is_told_at_its_beginning_and_end(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock"
) -> None:
    """One warning when the circuit opens, silence for the probes, one line when it closes."""
    with structlog.testing.capture_logs() as lines:
        await fail(gate, neighbour)
        for _ in range(10):
            clock.advance(gate.wait_s())
            await attempt(gate, neighbour)
        clock.advance(gate.wait_s())
        neighbour.error = None
        await attempt(gate, neighbour)
    loud = [(line["event"], line["log_level"]) for line in lines if line["log_level"] != "debug"]
    assert loud == [("breaker.opened", "warning"), ("breaker.closed", "info")]


# --- retrying


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


async def again(
    gate: Gate,
    work: Callable[[], Awaitable[str]],
    clock: "FakeClock",
    retries: int = 3,
    base: float = 2.0,
    budget: RetryBudget | None = None,
) -> str:
    budget, policy = budget or RetryBudget(), RetryPolicy(retries, base)
    return await retrying(work, gate=gate, policy=policy, budget=budget, clock=clock, rng=random.Random(7))


async def test_success_builds_no_retry_object(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of success costs no tenacity object; each call that needs one has its own."""
    made = []
    original = tenacity.AsyncRetrying

    def make(**options: object) -> object:
        made.append(options)
        return original(**options)  # type: ignore[arg-type]  # passed on as they are

    monkeypatch.setattr(tenacity, "AsyncRetrying", make)
    assert await again(gate, neighbour, clock) == "answer"
    assert made == []
    flaky = [Flaky(clock), Flaky(clock)]
    assert await asyncio.gather(*(again(gate, work, clock) for work in flaky)) == ["answer", "answer"]
    assert len(made) == 2


class Flaky(Neighbour):
    """Fails the first ``failures`` times."""

    def __init__(self, clock: "FakeClock", failures: int = 2) -> None:
        super().__init__(clock, DOWN)
        self._failures = failures

    async def __call__(self) -> str:
        self.error = DOWN if len(self.calls) < self._failures else None
        return await super().__call__()


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_attempts_are_one_and_the_retries(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock", retries: int
) -> None:
    """A call that always fails is made 1 + retries times, and its own error is raised."""
    neighbour.error = DOWN
    with pytest.raises(Transient) as raised:
        await again(gate, neighbour, clock, retries)
    assert raised.value is DOWN
    assert len(neighbour.calls) == 1 + retries
    assert len(clock.slept) == retries


async def test_a_passing_fault_is_repeated_until_it_passes(gate: Gate, clock: "FakeClock") -> None:
    """The answer after two failures is the caller's answer."""
    flaky = Flaky(clock)
    assert await again(gate, flaky, clock) == "answer"
    assert len(flaky.calls) == 3


@pytest.mark.parametrize(
    "error",
    [
        InputRefused("x"),
        ModelRefused("x"),
        Misconfigured("x"),
        Unauthorized("x"),
        QuotaExhausted("x"),
        CircuitOpen("x"),
    ],
)
async def test_what_its_class_calls_final_is_not_repeated(
    gate: Gate, neighbour: Neighbour, clock: "FakeClock", error: Exception
) -> None:
    """Refusals that seconds do not mend are raised at once."""
    neighbour.error = error
    with pytest.raises(type(error)):
        await again(gate, neighbour, clock)
    assert (len(neighbour.calls), clock.slept) == (1, [])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
async def test_repetitions_are_bounded(clock: "FakeClock", metrics: Metrics, p: float) -> None:
    """At any rate of failures: attempts per success at most 1 / (1 - p), and a fifth more load than first attempts."""
    gate = Gate("model", threshold=10**9, clock=clock, metrics=metrics)
    budget, rng, calls, firsts, successes = RetryBudget(), random.Random(3), 0, 0, 0

    async def work() -> str:
        nonlocal calls
        calls += 1
        if rng.random() < p:
            raise DOWN
        return "answer"

    while successes < 2_000:
        firsts += 1
        with contextlib.suppress(Transient):
            await again(gate, work, clock, budget=budget)
            successes += 1
    assert calls / successes <= 1 / (1 - p) * 1.05 + 0.05
    assert calls - firsts <= RetryBudget.EARNED * successes + RetryBudget.SAVED


async def test_one_thing_that_fails_counts_once(gate: Gate, neighbour: Neighbour) -> None:
    """Answered with a failure over and over it is one failure; others are counted beside it."""
    neighbour.error = Ambiguous("500")
    for _ in range(10 * THRESHOLD):
        with pytest.raises(Ambiguous):
            await gate.call(neighbour, about="a")
    assert gate.state == "closed"
    for other in range(THRESHOLD - 1):
        assert gate.state == "closed"
        with pytest.raises(Ambiguous):
            await gate.call(neighbour, about=str(other))
    assert state(gate) == "open"


async def test_a_neighbour_that_is_not_reached_is_nobodys_fault(gate: Gate, neighbour: Neighbour) -> None:
    """Refused connections open the circuit, whatever they were about; a success forgets who was blamed."""
    neighbour.error = Ambiguous("500")
    with pytest.raises(Ambiguous):
        await gate.call(neighbour, about="a")
    neighbour.error = None
    await gate.call(neighbour, about="b")
    neighbour.error = Unsent("refused")
    for _ in range(THRESHOLD):
        with pytest.raises(Unsent):
            await gate.call(neighbour, about="a")
    assert gate.state == "open"


async def test_a_cancellation_is_never_repeated(gate: Gate, clock: "FakeClock") -> None:
    """Neither in the first attempt nor in a later one, nor while waiting."""
    for at in (1, 2):
        flaky = Flaky(clock, at - 1)
        flaky.takes_s = 100.0
        call = asyncio.create_task(again(gate, flaky, clock))
        while len(flaky.calls) < at:
            await clock.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(flaky.calls) == at
    down = Neighbour(clock, Throttled("429", retry_after_s=15.0))
    call = asyncio.create_task(again(gate, down, clock))
    await clock.sleep(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(down.calls) == 1


async def test_too_much_patience_frees_the_slot(gate: Gate, neighbour: Neighbour, clock: "FakeClock") -> None:
    """A Retry-After longer than the longest wait ends the attempt, a shorter one is waited for in full."""
    neighbour.error = Throttled("429", retry_after_s=20.1)
    with pytest.raises(Throttled):
        await again(gate, neighbour, clock)
    assert (len(neighbour.calls), clock.slept) == (1, [])
    clock.advance(21)
    neighbour.error = None
    await gate.call(neighbour)
    polite = Flaky(clock, 0)
    neighbour.error = Throttled("429", retry_after_s=19.0)
    turns = [neighbour, polite]
    await again(gate, lambda: turns.pop(0)(), clock)
    assert 19.0 <= polite.calls[0] - neighbour.calls[-1] < 19.1


def test_the_backoff_has_full_jitter(rng: random.Random) -> None:
    """Uniform between nothing and the power of the attempt, never above the longest wait, for absurd values too."""
    for attempt_number, bound in ((0, 1.0), (1, 2.0), (3, 8.0), (10, 20.0), (10**6, 20.0)):
        drawn = [backoff_s(attempt_number, base=2.0, longest=20.0, rng=rng) for _ in range(400)]
        assert 0 <= min(drawn) < 0.1 * bound
        assert 0.9 * bound < max(drawn) <= bound
    assert backoff_s(10**6, base=60.0, longest=20.0, rng=rng) <= 20.0
