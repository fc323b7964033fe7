"""The gate and the patience with a call, in virtual time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import structlog

from ai_task_processor.core import errors
from ai_task_processor.core.deadline import stalls_of
from ai_task_processor.net.resilience import LONGEST_WAIT_S, Gate, Retries, backoff_s
from ai_task_processor.ops.metrics import Metrics

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

THRESHOLD = 5
Error = errors.RemoteError
DOWN = errors.Transient("the task API answered 503", status=503)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1", provider="openai")


@pytest.fixture
def gate(clock: "FakeClock", metrics: Metrics) -> Gate:
    return Gate("model", threshold=THRESHOLD, clock=clock, metrics=metrics)


def state(gate: Gate) -> str:
    """Read anew: a type checker takes the attribute for constant."""
    return gate.state


class Remote:
    """Answers with what ``error`` is at that moment; ``calls`` are the times it was reached."""

    def __init__(self, clock: "FakeClock", error: Exception | None = None, takes_s: float = 0.0) -> None:
        self.error = error
        self.takes_s = takes_s
        self.calls: list[float] = []
        self.clock = clock

    async def __call__(self) -> str:
        self.calls.append(self.clock.monotonic())
        if self.takes_s:
            await self.clock.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.fixture
def remote(clock: "FakeClock") -> Remote:
    return Remote(clock)


async def attempt(gate: Gate, work: Callable[[], Awaitable[str]], about: str = "") -> str:
    """``answer``, or the name of the error."""
    try:
        return await gate.call(work, about=about or None)
    except (errors.RemoteError, errors.TaskError, errors.Rejected) as error:
        return type(error).__name__


async def fail(gate: Gate, remote: Remote, error: Exception = DOWN, times: int = THRESHOLD) -> None:
    remote.error = error
    for _ in range(times):
        await attempt(gate, remote)


async def many(gate: Gate, remote: Remote, count: int) -> list[str]:
    """The outcomes of so many calls at once, sorted."""
    return sorted(await asyncio.gather(*(attempt(gate, remote) for _ in range(count))))


async def begun(gate: Gate, remote: Remote, count: int = 1) -> Awaitable[list[str]]:
    """So many calls that are under way."""
    calls = [asyncio.create_task(attempt(gate, remote)) for _ in range(count)]
    await asyncio.sleep(0)
    return asyncio.gather(*calls)


@pytest.mark.parametrize(
    ("error", "stalled_s", "opened"),
    [
        (errors.Ambiguous("no answer within 5 s"), 36.0, False),
        (errors.Unsent("no connection in time"), 36.0, False),
        (errors.Ambiguous("no answer within 5 s"), 0.5, True),
        (DOWN, 36.0, True),
    ],
)
async def test_a_stall_of_ours_is_no_evidence(gate: Gate, error: Error, stalled_s: float, opened: bool) -> None:
    """This process stood still during the calls: that they failed opens no circuit, but an answer counts."""
    stalls = stalls_of(asyncio.get_running_loop())

    async def work() -> str:
        due_at = max(0.0, stalls.ended_at) + 1.0
        stalls.note(due_at, due_at + stalled_s)
        raise error

    for _ in range(THRESHOLD):
        await attempt(gate, work)
    assert (gate.state == "open") == opened


@pytest.mark.parametrize("error", [DOWN, errors.Unsent("refused"), errors.Ambiguous("no answer within 30 s")])
async def test_failures_in_a_row_open_the_circuit(gate: Gate, remote: Remote, metrics: Metrics, error: Error) -> None:
    """The threshold opens it, one less does not, and nobody is let through while it is open."""
    await fail(gate, remote, error, THRESHOLD - 1)
    assert (state(gate), gate.wait_s(), gate.reason) == ("closed", 0.0, None)
    await fail(gate, remote, error, 1)
    assert (state(gate), gate.wait_s(), gate.reason) == ("open", 10.0, str(error))
    assert await attempt(gate, remote) == "CircuitOpen"
    assert len(remote.calls) == THRESHOLD
    assert metrics.value("circuit_breaker_state", service="model") == 1


@pytest.mark.parametrize(
    "answer", [None, errors.TaskError("empty_text"), errors.InputRefused("too_long"), errors.Rejected("refused", 400)]
)
async def test_every_answer_counts_as_one(gate: Gate, remote: Remote, answer: Exception | None) -> None:
    """A success, and a refusal that is about one task or one result, ends a row of failures."""
    await fail(gate, remote, times=THRESHOLD - 1)
    remote.error = answer
    await attempt(gate, remote)
    await fail(gate, remote, times=THRESHOLD - 1)
    assert state(gate) == "closed"
    await fail(gate, remote, times=1)
    assert state(gate) == "open"


async def test_a_refusal_closes_a_half_open_circuit(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """A remote that refuses a task is a remote that answers."""
    await fail(gate, remote)
    clock.advance(10)
    remote.error = errors.InputRefused("too_long")
    assert await attempt(gate, remote) == "InputRefused"
    assert (state(gate), gate.wait_s()) == ("closed", 0.0)


@pytest.mark.parametrize("error", [DOWN, errors.Ambiguous("no answer"), errors.Throttled("429", retry_after_s=None)])
async def test_an_outage_is_probed_twice_a_minute(gate: Gate, remote: Remote, clock: "FakeClock", error: Error) -> None:
    """100 impatient callers in an outage of ten minutes: at most four requests in the first minute, then two."""
    await fail(gate, remote)
    remote.error = error
    opened_at, remote.calls = clock.monotonic(), []

    async def insist() -> None:
        while clock.monotonic() < opened_at + 600:
            await attempt(gate, remote)
            assert gate.wait_s() > 0, "nobody may spin"
            await clock.sleep(gate.wait_s())

    await asyncio.gather(*(insist() for _ in range(100)))
    ages = [called_at - opened_at for called_at in remote.calls]
    assert 2 <= sum(age <= 60 for age in ages) <= 4
    for minute in range(1, 10):
        assert 1 <= sum(minute * 60 < age <= minute * 60 + 60 for age in ages) <= 2


async def test_the_open_times_are_10_20_30(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    await fail(gate, remote)
    seen = []
    for _ in range(4):
        seen.append(gate.wait_s())
        clock.advance(gate.wait_s())
        await attempt(gate, remote)
    assert seen == [10, 20, 30, 30]
    clock.advance(30)
    remote.error = None
    assert await attempt(gate, remote) == "answer"
    await fail(gate, remote)
    assert gate.wait_s() == 10


async def test_half_open_admits_exactly_one(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """Of 50 callers at the end of the pause one is the probe; its success lets the rest in."""
    await fail(gate, remote)
    clock.advance(10)
    remote.calls, remote.error, remote.takes_s = [], None, 5.0
    assert await many(gate, remote, 50) == ["CircuitOpen"] * 49 + ["answer"]
    assert len(remote.calls) == 1
    assert await many(gate, remote, 50) == ["answer"] * 50


async def test_whoever_waits_for_a_probe_does_not_spin(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """While a probe is under way the others are told to look again in a moment, never in 0 s."""
    await fail(gate, remote)
    clock.advance(10)
    remote.takes_s = 60.0
    probe = await begun(gate, remote)
    with pytest.raises(errors.CircuitOpen) as refused:
        await gate.call(remote)
    assert refused.value.retry_after_s == gate.wait_s() > 0
    await probe


async def test_cancelled_calls_are_no_evidence(gate: Gate, remote: Remote) -> None:
    """They neither open the circuit nor end a row of failures."""
    await fail(gate, remote, times=THRESHOLD - 1)
    remote.takes_s = 60.0
    for _ in range(3):
        call = asyncio.create_task(gate.call(remote))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert state(gate) == "closed"
    remote.takes_s = 0.0
    await fail(gate, remote, times=1)
    assert state(gate) == "open"


@pytest.mark.parametrize("ending", [asyncio.CancelledError(), ZeroDivisionError()])
async def test_after_a_probe_without_an_answer_the_next_caller_is_the_probe(
    gate: Gate, remote: Remote, clock: "FakeClock", ending: BaseException
) -> None:
    """A probe that is cancelled, or dies of a bug, leaves the circuit half-open and not stuck."""
    await fail(gate, remote)
    clock.advance(10)

    async def end() -> str:
        raise ending

    with pytest.raises(type(ending)):
        await gate.call(end)
    assert (state(gate), gate.wait_s()) == ("half-open", 0.0)
    remote.error, remote.takes_s = None, 1.0
    assert await many(gate, remote, 3) == ["CircuitOpen", "CircuitOpen", "answer"]
    assert (state(gate), gate.wait_s()) == ("closed", 0.0)


async def test_a_throttled_probe_keeps_the_circuit_half_open(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """429 is no outage and no success: the circuit waits for the next probe as long as it was asked to."""
    await fail(gate, remote)
    clock.advance(10)
    await fail(gate, remote, errors.Throttled("429", retry_after_s=45.0), 1)
    assert (state(gate), gate.wait_s()) == ("half-open", 45.0)
    clock.advance(45)
    await fail(gate, remote, DOWN, 1)
    assert state(gate) == "open"
    clock.advance(30)
    remote.error = None
    assert await attempt(gate, remote) == "answer"
    assert state(gate) == "closed"


async def test_retry_after_holds_everyone(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """One 429 keeps all callers away for as long as the remote wishes, and trips no circuit."""
    await fail(gate, remote, errors.Throttled("429", retry_after_s=30.0), 1)
    clock.advance(29.9)
    assert await many(gate, remote, 20) == ["CircuitOpen"] * 20
    assert (state(gate), len(remote.calls)) == ("closed", 1)
    clock.advance(0.1)
    remote.error = None
    assert await attempt(gate, remote) == "answer"


FROM_10_S = [10, 20, 40, 80, 160, 300, 300]
FROM_1_S = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@pytest.mark.parametrize(
    ("error", "pauses"),
    [
        (errors.Misconfigured("404"), FROM_10_S),
        (errors.ModelRefused("unknown model"), FROM_10_S),
        (errors.CallRefused("400"), FROM_1_S),
        (errors.Unauthorized("403"), FROM_10_S),
        (errors.QuotaExhausted("insufficient_quota"), [300, 300, 300]),
        (errors.Throttled("429"), [1, 2, 4, 8, 16, 32, 60, 60]),
        (errors.Throttled("429", retry_after_s=5.0), [5, 5, 5, 8, 16]),
        (errors.NoToken("none"), [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]),
    ],
)
async def test_pauses_grow_to_their_bound(gate: Gate, remote: Remote, error: Error, pauses: list[float]) -> None:
    """Each kind of refusal has a first and a longest pause, doubled from probe to probe, with the circuit closed."""
    for seconds in pauses:
        await fail(gate, remote, error, 1)
        assert gate.wait_s() == pytest.approx(seconds)
        assert state(gate) == "closed"
        remote.clock.advance(gate.wait_s())


async def test_another_kind_of_refusal_starts_anew(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """Twenty short pauses for want of a token do not make the first 404 a pause of five minutes."""
    for _ in range(20):
        await fail(gate, remote, errors.NoToken("none"), 1)
        clock.advance(gate.wait_s())
    await fail(gate, remote, errors.Misconfigured("404"), 1)
    assert gate.wait_s() == 10


async def test_a_simultaneous_refusal_pauses_once(gate: Gate, remote: Remote) -> None:
    remote.error, remote.takes_s = errors.Unauthorized("403"), 1.0
    await many(gate, remote, 32)
    assert gate.wait_s() == 10


async def test_a_probe_that_fails_always_begins_a_hold(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """After a 429 a failing remote is not asked by one caller after the other: the hold doubles, as long as
    the circuit is closed, and one fault does not make an outage of it."""
    await fail(gate, remote, errors.Throttled("429"), 1)
    for pause_s in (2, 4, 8):
        clock.advance(gate.wait_s())
        await fail(gate, remote, DOWN, 1)
        assert gate.wait_s() == pause_s
    clock.advance(8)
    await fail(gate, remote, DOWN, 2)
    assert (state(gate), gate.wait_s()) == ("closed", 16)
    clock.advance(16)
    await fail(gate, remote, DOWN, 1)
    assert (state(gate), gate.wait_s()) == ("open", 30)


@pytest.mark.parametrize("late", [None, DOWN, errors.Misconfigured("404"), errors.Throttled("429", retry_after_s=2.0)])
async def test_calls_from_before_a_hold_change_nothing(gate: Gate, remote: Remote, late: Error | None) -> None:
    """What was under way when the circuit opened neither closes it nor shortens or lengthens the hold."""
    under_way = await begun(gate, Remote(remote.clock, late, takes_s=4.0), 20)
    await fail(gate, remote)
    await under_way
    assert (state(gate), gate.wait_s(), gate.reason) == ("open", 6.0, str(DOWN))


async def test_a_late_wish_for_patience_is_heeded(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    under_way = await begun(gate, Remote(clock, errors.Throttled("429", retry_after_s=60.0), takes_s=4.0))
    await fail(gate, remote)
    await under_way
    assert gate.wait_s() == 60


async def test_hung_calls_do_not_reopen_a_circuit(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """45 calls from before the outage that time out after the recovery are no new outage."""
    under_way = await begun(gate, Remote(clock, errors.Ambiguous("no answer within 60 s"), takes_s=60.0), 45)
    await fail(gate, remote)
    await clock.sleep(10)
    remote.error = None
    assert await attempt(gate, remote) == "answer"
    await under_way
    assert (state(gate), gate.wait_s()) == ("closed", 0.0)


async def test_a_long_outage_is_told_at_its_beginning_and_end(gate: Gate, remote: Remote, clock: "FakeClock") -> None:
    """One warning when the circuit opens, silence for the probes, one line when it closes."""
    with structlog.testing.capture_logs() as lines:
        await fail(gate, remote)
        for _ in range(10):
            clock.advance(gate.wait_s())
            await attempt(gate, remote)
        clock.advance(gate.wait_s())
        remote.error = None
        await attempt(gate, remote)
    loud = [(line["event"], line["log_level"]) for line in lines if line["log_level"] != "debug"]
    assert loud == [("breaker.opened", "warning"), ("breaker.closed", "info")]


# --- a gate whose callers know more than one call shows


async def test_a_call_that_enters_and_leaves_says_nothing(gate: Gate, clock: "FakeClock") -> None:
    """Without ``answered`` or ``failed`` a row of failures goes on, and a probe that left makes room for the next."""
    for _ in range(THRESHOLD - 1):
        gate.failed(entry := gate.enter(), DOWN)
        gate.leave(entry)
    gate.leave(gate.enter())
    assert state(gate) == "closed"
    gate.failed(entry := gate.enter(), DOWN)
    gate.leave(entry)
    assert state(gate) == "open"
    clock.advance(10)
    probe = gate.enter()
    assert probe.probe
    with pytest.raises(errors.CircuitOpen):
        gate.enter()
    gate.leave(probe)
    assert gate.enter().probe


async def test_a_call_that_was_under_way_does_not_end_the_probe_of_another(gate: Gate, clock: "FakeClock") -> None:
    early = gate.enter()
    gate.hold(early, errors.Misconfigured("404"))
    clock.advance(10)
    gate.enter()
    gate.leave(early)
    with pytest.raises(errors.CircuitOpen):
        gate.enter()


Bounds = tuple[float, float] | None


def hold(gate: Gate, error: Error, bounds: Bounds = None) -> None:
    """A call has shown enough."""
    entry = gate.enter()
    gate.hold(entry, error, bounds=bounds)
    gate.leave(entry)


async def test_calls_under_way_when_a_hold_begins_do_not_make_it_longer(gate: Gate, clock: "FakeClock") -> None:
    """What they bring says nothing new; only the patience that they ask for is heeded."""
    first, second, third = gate.enter(), gate.enter(), gate.enter()
    gate.hold(first, errors.Misconfigured("404"))
    clock.advance(3)
    gate.hold(second, errors.Misconfigured("404"))
    assert gate.wait_s() == 7
    gate.hold(third, errors.QuotaExhausted("quota", retry_after_s=20.0))
    assert (gate.wait_s(), gate.reason) == (20, "404")


@pytest.mark.parametrize(
    ("error", "bounds", "circuit", "pauses"),
    [
        (DOWN, None, "open", [10, 20, 30, 30]),
        (errors.Ambiguous("no answer"), None, "open", [10, 20, 30, 30]),
        (errors.Misconfigured("404"), None, "closed", FROM_10_S),
        (errors.CallRefused("400"), None, "closed", FROM_1_S),
        (errors.QuotaExhausted("quota"), None, "closed", [300, 300]),
        (errors.QuotaExhausted("quota"), (1.0, 300.0), "closed", FROM_1_S),
        (errors.QuotaExhausted("quota", retry_after_s=17.0), (1.0, 300.0), "closed", [17, 17, 17, 17, 17, 32]),
    ],
)
async def test_a_hold_begins_at_once(
    gate: Gate, clock: "FakeClock", error: Error, bounds: Bounds, circuit: str, pauses: list[float]
) -> None:
    """Its caller has seen enough: one hold is a pause, each further one twice as long, within the bounds that it
    names or those of the error; one that speaks of an outage opens the circuit."""
    for pause_s in pauses:
        hold(gate, error, bounds)
        assert (state(gate), gate.reason) == (circuit, str(error))
        assert gate.wait_s() == pytest.approx(pause_s)
        clock.advance(pause_s)
        assert gate.wait_s() == 0


async def test_a_hold_may_be_followed_by_one_within_other_bounds(gate: Gate, clock: "FakeClock") -> None:
    """A probe that fails after short holds begins those of its own kind of error at their first pause at least."""
    for _ in range(2):
        hold(gate, errors.QuotaExhausted("quota"), (1.0, 300.0))
        clock.advance(gate.wait_s())
    hold(gate, DOWN)
    assert (state(gate), gate.wait_s()) == ("open", 10)


async def test_a_gate_that_is_due_lets_one_probe_through(gate: Gate, clock: "FakeClock") -> None:
    """News from elsewhere end the pause, not the doubt: one call goes, and when it fails the pause is twice as long."""
    hold(gate, errors.Misconfigured("404"))
    gate.due()
    assert gate.wait_s() == 0
    probe = gate.enter()
    assert probe.probe
    assert gate.wait_s() > 0
    gate.failed(probe, errors.Misconfigured("404"))
    gate.leave(probe)
    assert gate.wait_s() == 20
    gate.due()
    gate.answered(probe := gate.enter())
    gate.leave(probe)
    assert (gate.reason, gate.wait_s()) == (None, 0)
    gate.due()
    assert (gate.enter().probe, gate.reason) == (False, None)


async def test_one_thing_that_fails_counts_once(gate: Gate, remote: Remote) -> None:
    """Answered with a failure over and over it is one failure; others are counted beside it."""
    remote.error = errors.Ambiguous("500")
    for _ in range(10 * THRESHOLD):
        assert await attempt(gate, remote, "a") == "Ambiguous"
    for other in range(THRESHOLD - 1):
        assert state(gate) == "closed"
        assert await attempt(gate, remote, str(other)) == "Ambiguous"
    assert state(gate) == "open"


async def test_a_remote_that_is_not_reached_is_nobodys_fault(gate: Gate, remote: Remote) -> None:
    """Refused connections open the circuit, whatever they were about; a success forgets who was blamed."""
    for remote.error, about, outcome in (
        (errors.Ambiguous("500"), "a", "Ambiguous"),
        (None, "b", "answer"),
        *[(errors.Unsent("refused"), "a", "Unsent")] * THRESHOLD,
    ):
        assert await attempt(gate, remote, about) == outcome
    assert gate.state == "open"


# --- how often, and how patiently


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_attempts_are_one_and_the_retries(retries: int) -> None:
    """After so many failures and one more there is no further attempt, however often that is asked."""
    patient = Retries(retries, 2.0)
    answers = [patient.again_in_s(failures) for failures in range(1, retries + 1)]
    assert None not in answers
    assert [patient.again_in_s(failures) for failures in (retries + 1, retries + 2, 10**6)] == [None] * 3


def test_what_is_not_repeated_costs_nothing() -> None:
    patient = Retries(1, 2.0)
    assert [patient.again_in_s(2) for _ in range(50)] == [None] * 50
    assert None not in [patient.again_in_s(1) for _ in range(int(Retries.SAVED))]


def fills(draw: Callable[[], float | None], bound: float) -> None:
    """400 draws are spread over the whole range up to the bound."""
    drawn = [seconds for _ in range(400) if (seconds := draw()) is not None]
    assert len(drawn) == 400
    assert 0 <= min(drawn) < 0.1 * bound
    assert 0.9 * bound < max(drawn) <= bound


@pytest.mark.parametrize(
    ("base", "failures", "bound"), [(2.0, 1, 1.0), (2.0, 2, 2.0), (2.0, 4, 8.0), (2.0, 9, 20.0), (60.0, 10**6, 20.0)]
)
def test_patience_has_full_jitter(base: float, failures: int, bound: float) -> None:
    """Uniform up to the base to the power of the failures before, never above 20 s, for absurd values too."""
    fills(lambda: Retries(10**7, base).again_in_s(failures), bound)
    assert bound <= LONGEST_WAIT_S


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_repetitions_are_bounded(p: float) -> None:
    """At any rate of failures: attempts per success at most 1 / (1 - p), and a fifth more load than first attempts."""
    patient, rng, calls, firsts, successes = Retries(3, 2.0), random.Random(3), 0, 0, 0
    while successes < 2_000:
        firsts += 1
        for failures in range(1, 9):
            calls += 1
            if rng.random() >= p:
                patient.earn()
                successes += 1
                break
            if patient.again_in_s(failures) is None:
                break
    assert calls / successes <= 1 / (1 - p) * 1.05 + 0.05
    assert calls - firsts <= Retries.EARNED * successes + Retries.SAVED


def test_an_outage_after_a_long_calm_has_few_repetitions() -> None:
    """A million successes save up ten repetitions, no more; five further successes earn one."""
    patient = Retries(3, 2.0)
    for _ in range(10**6):
        patient.earn()
    answers = [patient.again_in_s(1) for _ in range(50)]
    assert answers.index(None) == Retries.SAVED
    assert set(answers[int(Retries.SAVED) :]) == {None}
    for _ in range(5):
        assert patient.again_in_s(1) is None
        patient.earn()
    assert patient.again_in_s(1) is not None


def test_the_backoff_has_full_jitter() -> None:
    """Uniform between nothing and the power of the attempt, never above the longest wait, for absurd values too."""
    rng = random.Random(7)
    for number, bound in ((0, 1.0), (1, 2.0), (3, 8.0), (10, 20.0), (10**6, 20.0)):
        fills(lambda number=number: backoff_s(number, base=2.0, longest=20.0, rng=rng), bound)  # type: ignore[misc]
    assert backoff_s(10**6, base=60.0, longest=20.0, rng=rng) <= 20.0
