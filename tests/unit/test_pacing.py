"""The pace of calls: what 429s and headers make of it, against limits that are played in virtual time."""

import math
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai_task_processor.pacing import (
    DECREASE,
    FIRST_RATE,
    GROWTH,
    LATE_CALLS,
    LONGEST_WAIT_S,
    LOW,
    MARGIN,
    RECOVERY_S,
    RISE,
    SLOWEST,
    WINDOW_S,
    Pacer,
)
from ai_task_processor.ports import Allowance, RateLimits

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

#: the fixture only lends its class: every example makes a clock of its own
EXAMPLES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NOTHING = RateLimits()
SIZE = 100
#: of the rate that was reached
LEFT = DECREASE * RISE


def tokens(remaining: int, limit: int, reset_s: float) -> RateLimits:
    return RateLimits(tokens=Allowance(limit, remaining, reset_s))


def requests(remaining: int, limit: int, reset_s: float) -> RateLimits:
    return RateLimits(requests=Allowance(limit, remaining, reset_s))


def serve(pacer: Pacer, limits: RateLimits = NOTHING, size: int = SIZE, charged: int = 0) -> None:
    pacer.started(size)
    pacer.served(size, charged, limits)
    pacer.ended(size)


def refuse(pacer: Pacer, size: int = SIZE) -> None:
    began_at = pacer.started(size)
    pacer.throttled(size, began_at)
    pacer.ended(size)


def steadily(pacer: Pacer, clock: "FakeClock", *, rate: float, for_s: float) -> None:
    """So many calls a second are served."""
    for _ in range(round(rate * for_s)):
        clock.advance(1 / rate)
        serve(pacer)


# --- without a limit


def test_without_a_sign_of_a_limit_there_is_no_pace(clock: "FakeClock") -> None:
    """However much is asked for: nothing to wait for, nothing to look at, no bound."""
    pacer = Pacer(clock)
    for _ in range(10_000):
        serve(pacer)
    assert (pacer.rate, pacer.limited, pacer.room, pacer.reason) == (math.inf, False, math.inf, None)
    assert not pacer.scarce
    assert pacer.wait_s(10**9) == 0


def test_what_fails_otherwise_moves_nothing(clock: "FakeClock") -> None:
    """A call that ends without an answer, as in an outage, leaves the rate alone, with a pace and without."""
    pacer = Pacer(clock)
    for held in (False, True):
        if held:
            refuse(pacer)
        rate = pacer.rate
        for _ in range(9):
            pacer.started(SIZE)
            pacer.ended(SIZE)
        assert pacer.rate == rate
        assert (rate < math.inf) == held


# --- multiplicative decrease


def test_after_a_429_the_rate_is_a_part_of_what_was_reached(clock: "FakeClock") -> None:
    """Two calls a second were served: 1.8 may follow, and the next one in its turn."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=2, for_s=30)
    refuse(pacer)
    assert pacer.rate == pytest.approx(LEFT * 2)
    assert pacer.limited
    assert pacer.scarce
    assert pacer.wait_s(SIZE) == pytest.approx(1 / pacer.rate)
    assert pacer.reason == "after a 429 at most 110 calls a minute"


def test_a_hold_counts_as_time(clock: "FakeClock") -> None:
    """60 calls in a burst and a hold until the minute is over are one call a second: the second 429 finds the limit."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=20, for_s=3)
    refuse(pacer)
    assert pacer.rate == pytest.approx(LEFT * 20)
    clock.advance(57)
    steadily(pacer, clock, rate=20, for_s=3)
    refuse(pacer)
    assert pacer.rate == pytest.approx(LEFT * 1)


def test_only_the_last_minute_counts(clock: "FakeClock") -> None:
    """An hour of peace does not make a rate of the past look slow, nor a busy past one of the present look fast."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=1, for_s=60)
    steadily(pacer, clock, rate=10, for_s=120)
    refuse(pacer)
    assert pacer.rate == pytest.approx(LEFT * 10, rel=0.1)
    late = Pacer(clock)
    steadily(late, clock, rate=10, for_s=60)
    clock.advance(3600)
    refuse(late)
    assert late.rate == pytest.approx(LEFT * FIRST_RATE)


def test_a_volley_of_429s_is_one(clock: "FakeClock") -> None:
    """Calls that left before the rate was lowered say nothing new."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=2, for_s=30)
    began = [pacer.started(SIZE) for _ in range(4)]
    clock.advance(0.1)
    for began_at in began:
        pacer.throttled(SIZE, began_at)
    assert pacer.rate == pytest.approx(LEFT * 2, rel=0.01)
    assert pacer.room == math.inf


def test_a_rate_is_never_below_three_calls_a_minute(clock: "FakeClock") -> None:
    """Whatever was refused."""
    pacer = Pacer(clock)
    serve(pacer)
    clock.advance(100)
    for _ in range(20):
        refuse(pacer)
        clock.advance(59)
        serve(pacer)
    assert pacer.rate >= SLOWEST
    assert pacer.wait_s(SIZE) <= 1 / SLOWEST + 1e-6


def test_a_call_that_is_refused_by_itself_is_halved(clock: "FakeClock") -> None:
    """The same call again says nothing more, the smaller one does; what is served lets it grow until it is free."""
    pacer = Pacer(clock)
    serve(pacer)
    for _ in range(3):
        refuse(pacer, 1_600)
    assert pacer.room == 800
    refuse(pacer, 800)
    assert pacer.room == 400
    refuse(pacer, 5_000)
    assert pacer.room == 400
    clock.advance(WINDOW_S + 10)
    pacer.started(SIZE)
    pacer.ended(SIZE)
    assert (pacer.rate, pacer.limited, pacer.room) == (math.inf, True, 400), "the pace ends, the size stays"
    rooms = []
    for _ in range(40):
        serve(pacer, size=10)
        rooms.append(pacer.room)
    assert rooms[:2] == pytest.approx([400 * GROWTH, 400 * GROWTH**2])
    assert rooms[-1] == math.inf
    assert max(room for room in rooms if room < math.inf) <= GROWTH * 2 * 1_600


# --- additive increase


def test_each_success_adds_the_same(clock: "FakeClock") -> None:
    """Evenly up to a little more than was reached, in 20 s; beyond it faster and faster."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=10, for_s=60)
    refuse(pacer)
    refused_at, rates = clock.monotonic(), [pacer.rate]
    while pacer.rate < 20:
        clock.advance(pacer.wait_s(SIZE))
        serve(pacer)
        rates.append(pacer.rate)
        if pacer.rate <= RISE * 10:
            back_at = clock.monotonic()
    steps = [after - before for before, after in pairwise(rates)]
    below = [step for step, rate in zip(steps, rates, strict=False) if rate < RISE * 10]
    assert len({round(step, 9) for step in below}) == 1
    assert back_at - refused_at == pytest.approx(RECOVERY_S, rel=0.15)
    assert steps[-1] > 4 * steps[0]


def test_a_slow_rate_needs_few_successes(clock: "FakeClock") -> None:
    """Six calls a minute are back after four of them: nobody waits an hour for a limit that is gone."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=0.1, for_s=60)
    refuse(pacer)
    for _ in range(15):
        clock.advance(pacer.wait_s(SIZE))
        serve(pacer)
    assert pacer.rate > 1


def test_the_pace_ends_when_less_than_half_of_it_is_asked_for(clock: "FakeClock") -> None:
    """Ten calls in a row that came a whole turn late; one that is in time begins the count anew."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=10, for_s=60)
    refuse(pacer)
    for _ in range(2):
        for _ in range(LATE_CALLS - 1):
            clock.advance(2.1 / pacer.rate)
            serve(pacer)
        clock.advance(1.1 / pacer.rate)
        serve(pacer)
        assert pacer.rate < math.inf
    for _ in range(LATE_CALLS):
        clock.advance(2.1 / pacer.rate)
        serve(pacer)
    assert (pacer.rate, pacer.limited, pacer.scarce, pacer.reason) == (math.inf, False, False, None)
    assert pacer.wait_s(SIZE) == 0


def test_the_pace_ends_after_a_minute_of_rest(clock: "FakeClock") -> None:
    """Limits are by the minute: after one without a call nothing is known any more."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=10, for_s=60)
    refuse(pacer)
    clock.advance(WINDOW_S + 1)
    assert pacer.reason is None
    pacer.started(SIZE)
    assert pacer.rate == math.inf


def test_a_429_does_not_shorten_a_wait_that_was_told(clock: "FakeClock") -> None:
    """Its own turn comes sooner than the reset of a limit that is used up: the later one counts."""
    pacer = Pacer(clock)
    serve(pacer, requests(0, 60, 40))
    refuse(pacer)
    assert pacer.rate < math.inf
    assert pacer.wait_s(SIZE) == 40


@settings(EXAMPLES, max_examples=200)
@given(data=st.data())
def test_no_call_starts_before_its_turn(clock: "FakeClock", data: st.DataObject) -> None:
    """Whatever the answers are: calls that wait for their turn are a turn apart, and no turn is longer than 20 s."""
    clock = type(clock)()
    pacer, previous_at, rate = Pacer(clock), -math.inf, math.inf
    for answer in data.draw(st.lists(st.sampled_from(["served", "refused", "failed"]), max_size=60)):
        clock.advance(data.draw(st.floats(0, 30)))
        wait_s = pacer.wait_s(SIZE)
        assert 0 <= wait_s <= 1 / SLOWEST + 1e-6
        clock.advance(wait_s)
        if pacer.rate < math.inf:
            assert clock.monotonic() - previous_at >= (1 - 1e-9) / max(rate, pacer.rate)
        began_at = pacer.started(SIZE)
        previous_at, rate = began_at, pacer.rate
        clock.advance(data.draw(st.floats(0, 5)))
        if answer == "served":
            pacer.served(SIZE, 0, NOTHING)
        elif answer == "refused":
            pacer.throttled(SIZE, began_at)
        pacer.ended(SIZE)
        assert pacer.rate >= SLOWEST


class Bucket:
    """A provider's limit: so many calls a second on average, so many at once."""

    def __init__(self, clock: "FakeClock", rate: float, depth: float) -> None:
        self._clock, self._rate, self._depth = clock, rate, depth
        self._left, self._at = depth, clock.monotonic()

    def admits(self) -> bool:
        now = self._clock.monotonic()
        self._left, self._at = min(self._depth, self._left + (now - self._at) * self._rate), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def played(clock: "FakeClock", limit: float, depth: float, latency_s: float, *, paced: bool) -> Iterator[bool]:
    """Ten minutes of a busy lane against a limit, whose 429 holds the gate for a second; which calls were served."""
    bucket, pacer, rng = Bucket(clock, limit, depth), Pacer(clock), random.Random(1)
    while clock.monotonic() < 1_600:
        if paced:
            clock.advance(pacer.wait_s(SIZE))
        began_at = pacer.started(SIZE)
        served = bucket.admits()
        clock.advance(latency_s * rng.uniform(0.7, 1.3))
        if served:
            pacer.served(SIZE, 0, NOTHING)
        else:
            pacer.throttled(SIZE, began_at)
            clock.advance(max(1.0, 1 / limit))
        pacer.ended(SIZE)
        yield served


@pytest.mark.parametrize("latency_s", [0.02, 0.1])
@pytest.mark.parametrize(("limit", "depth"), [(0.2, 3), (1.0, 10), (1.0, 60), (5.0, 5), (5.0, 300)])
def test_a_limit_is_used_up_and_rarely_run_into(
    clock: "FakeClock", limit: float, depth: float, latency_s: float
) -> None:
    """Against any limit that binds: at least 95 % of what a daemon without a pace gets, and a third of its 429s."""
    with_pace = list(played(type(clock)(), limit, depth, latency_s, paced=True))
    without = list(played(type(clock)(), limit, depth, latency_s, paced=False))
    assert sum(with_pace) >= 0.95 * sum(without)
    assert with_pace.count(False) <= without.count(False) / 3


def test_a_limit_that_does_not_bind_is_forgotten(clock: "FakeClock") -> None:
    """After one 429 that came from elsewhere the former rate is back within half a minute, and then free again."""
    pacer = Pacer(clock)
    steadily(pacer, clock, rate=5, for_s=60)
    refuse(pacer)
    waited = []
    for _ in range(400):
        wait_s = pacer.wait_s(SIZE)
        waited.append(wait_s)
        clock.advance(max(wait_s, 0.2))
        serve(pacer)
    assert sum(wait_s > 0.2 for wait_s in waited) < 120
    assert pacer.rate == math.inf


# --- limits that are told


def test_a_call_takes_no_more_than_the_tokens_that_are_left(clock: "FakeClock") -> None:
    """A byte may be a token as long as nothing is known; what is under way counts as used."""
    pacer = Pacer(clock)
    serve(pacer, tokens(1_000, 5_000, 30))
    assert pacer.limited
    assert pacer.room == 1_000
    pacer.started(400)
    assert pacer.room == 600
    pacer.ended(400)
    assert pacer.room == 1_000


def test_how_many_tokens_a_byte_holds_is_learned(clock: "FakeClock") -> None:
    """Down by a tenth with each call, never below a fifth more than was seen, and up at once."""
    pacer = Pacer(clock)
    rooms = []
    for _ in range(30):
        serve(pacer, tokens(1_000, 1_000, 30), size=4_000, charged=1_000)
        rooms.append(pacer.room)
    assert rooms[0] == pytest.approx(1_000 / 0.9)
    assert rooms == sorted(rooms)
    assert rooms[-1] == pytest.approx(1_000 / (0.25 * MARGIN))
    serve(pacer, tokens(1_000, 1_000, 30), size=10, charged=5)
    assert pacer.room == pytest.approx(1_000 / (0.5 * MARGIN))
    serve(pacer, tokens(1_000, 1_000, 30), size=10, charged=2**50)
    assert pacer.room == 1_000
    serve(pacer, tokens(1_000, 1_000, 30), size=10, charged=0)
    assert pacer.room == 1_000


@settings(EXAMPLES, max_examples=200)
@given(
    calls=st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.01, 1.0)), min_size=1, max_size=30),
    left=st.integers(0, 10**6),
)
def test_what_fits_is_never_more_than_what_is_left(
    clock: "FakeClock", calls: list[tuple[int, float]], left: int
) -> None:
    """Texts up to a fifth denser than those of the last call do not exceed the tokens that are left."""
    clock = type(clock)()
    pacer = Pacer(clock)
    for size, density in calls:
        charged = int(size * density)
        serve(pacer, tokens(left, 10**6, 30), size=size, charged=charged)
        assert pacer.room * min(1.0, 1.19 * charged / size) <= left


def test_when_not_even_one_text_fits_the_reset_is_waited_for(clock: "FakeClock") -> None:
    """Then the whole limit is there again; a text that exceeds even that goes when the limit is whole."""
    pacer = Pacer(clock)
    serve(pacer, tokens(150, 1_000, 30))
    assert pacer.wait_s(150) == 0
    assert pacer.wait_s(151) == 30
    assert pacer.wait_s(5_000) == 30
    clock.advance(30)
    assert pacer.room == 1_000
    assert pacer.wait_s(5_000) == 0


def test_what_is_under_way_is_not_waited_for_longer_than_the_reset(clock: "FakeClock") -> None:
    """A hung call that holds all tokens blocks nobody once they must have come back."""
    pacer = Pacer(clock)
    serve(pacer, tokens(1_000, 1_000, 10))
    pacer.started(1_000)
    assert pacer.wait_s(1) == 10
    clock.advance(10)
    assert pacer.wait_s(1) == 0


@pytest.mark.parametrize(
    ("limits", "wait_s"),
    [
        (requests(7, 60, 53), 0.0),
        (requests(6, 60, 54), 1.0),
        (requests(1, 60, 59), 1.0),
        (requests(0, 60, 60), 60.0),
        (requests(0, 60, 0), 0.0),
        (requests(60, 60, 60), 0.0),
        (tokens(101, 1_000, 54), 0.0),
        (tokens(100, 1_000, 54), 6.0),
        (tokens(5, 1_000, 54), 54 * 100 / 995),
    ],
)
def test_when_little_is_left_no_more_is_taken_than_comes_back(
    clock: "FakeClock", limits: RateLimits, wait_s: float
) -> None:
    """Below a tenth of the limit the next call waits as long as its share needs to return; at zero for the reset."""
    assert LOW == 0.1
    pacer = Pacer(clock)
    serve(pacer, limits, charged=100)
    assert pacer.wait_s(1) == pytest.approx(wait_s)
    assert pacer.scarce == (limits.requests is not None and limits.requests.remaining <= 6)
    told = pacer.reason
    assert (told is not None) == (wait_s > 0)
    if told:
        assert told.startswith("little is left of a limit: the next call in ")


def test_few_tokens_are_told(clock: "FakeClock") -> None:
    """Also when it is not the next call's turn that is waited for."""
    pacer = Pacer(clock)
    serve(pacer, tokens(50, 1_000, 30), charged=1)
    clock.advance(1)
    assert pacer.reason == "50 tokens are left for 29 s"
    clock.advance(30)
    assert pacer.reason is None


def test_what_cannot_be_waited_for_is_not_believed(clock: "FakeClock") -> None:
    """Limits that would stop the model for good are ignored, until a 429 bears them out."""
    pacer = Pacer(clock)
    empty = RateLimits(Allowance(10, 0, 86_400), Allowance(10, 0, 86_400))
    serve(pacer, empty)
    assert pacer.wait_s(SIZE) > LONGEST_WAIT_S
    pacer.doubt()
    for _ in range(2):
        assert (pacer.wait_s(SIZE), pacer.room, pacer.limited, pacer.reason) == (0, math.inf, False, None)
        serve(pacer, empty)
    refuse(pacer)
    serve(pacer, empty)
    assert pacer.wait_s(SIZE) > LONGEST_WAIT_S
