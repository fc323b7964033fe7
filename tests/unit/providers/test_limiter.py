"""What answers make of the pace, the pauses and the calls at once of a model."""

import math
import random
from collections.abc import Callable
from math import inf, nan

import pytest

from ai_task_processor.core.ports import Allowance, RateLimits
from ai_task_processor.providers.limiter import LONGEST_S, Call, Limiter
from ai_task_processor.providers.pace import SLOWEST
from ai_task_processor.providers.stated_limit import StatedLimit

NOTHING = RateLimits()
LATENCY_S = 0.04


class Player:
    """Calls one after the other, as soon as they may start; time is virtual and begins long after zero."""

    def __init__(self) -> None:
        self.limiter, self.now = Limiter(), 100_000.0
        self._repeated = False

    def call(self, refuse: bool, *, limits: RateLimits = NOTHING, retry_after_s: float | None = None) -> float:
        """One call; the seconds that it waited."""
        waited_s = self.limiter.wait_s(self.now, 100)
        self.now += waited_s
        call = self.limiter.begin(self.now, 100, repeated=self._repeated)
        self.now += LATENCY_S
        self._repeated = refuse
        if refuse:
            self.limiter.refused(self.now, call, retry_after_s)
        else:
            self.limiter.served(self.now, call, limits)
        return waited_s

    def play(self, seconds: float, refuse: Callable[[], bool], retry_after_s: float | None = None) -> int:
        """Calls served in a time."""
        ends, served = self.now + seconds, 0
        while self.now < ends:
            refused = refuse()
            self.call(refused, retry_after_s=retry_after_s)
            served += not refused
        return served

    def limit(self, per_s: float, seconds: float) -> tuple[int, int]:
        """A bucket of 10 calls: served and refused."""
        left, at, served, refused, ends = 10.0, self.now, 0, 0, self.now + seconds
        while self.now < ends:
            began = self.now + self.limiter.wait_s(self.now, 100)
            left, at = min(10.0, left + (began - at) * per_s), began
            if left >= 1:
                left, served = left - 1, served + 1
                self.call(False)
            else:
                refused += 1
                self.call(True)
        return served, refused


@pytest.fixture
def player() -> Player:
    return Player()


def refuse_at_random(share: float, seed: int = 1) -> Callable[[], bool]:
    rng = random.Random(seed)
    return lambda: rng.random() < share


# --- no limit


def test_without_a_refusal_there_is_no_limit(player: Player) -> None:
    for _ in range(1_000):
        assert player.call(False) == 0
    limiter = player.limiter
    assert (limiter.rate, limiter.calls_at_once, limiter.reason(player.now, 10**9)) == (inf, inf, None)
    assert limiter.refused_for_s(player.now) == 0


def test_any_number_of_calls_may_start_at_once(player: Player) -> None:
    for _ in range(10_000):
        assert player.limiter.wait_s(player.now, 10**9) == 0
        player.limiter.begin(player.now, 10**9, repeated=False)


def test_what_fails_otherwise_says_nothing(player: Player) -> None:
    """5xx, time-outs, cancelled calls: neither pace nor pause, and the call is not in flight any more."""
    for _ in range(1_000):
        player.limiter.failed(player.limiter.begin(player.now, 1, repeated=True))
    assert player.limiter.wait_s(player.now, 1) == 0
    assert player.limiter.rate == inf


@pytest.mark.parametrize("retry_after_s", [None, 0.0, -5.0, nan, inf, 1e-9, 30.0, 60.0, 61.0, 86_400.0])
def test_a_single_refusal_costs_nothing(player: Player, retry_after_s: float | None) -> None:
    """Whatever Retry-After says."""
    for _ in range(10):
        player.call(False)
    player.call(True, retry_after_s=retry_after_s)
    assert player.call(False) <= 0.1
    assert player.limiter.rate == inf


@pytest.mark.parametrize("retry_after_s", [None, 0.0, nan, 1.0, 30.0, 86_400.0])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.12])
def test_refusals_at_random_do_not_slow_down(player: Player, share: float, retry_after_s: float | None) -> None:
    served = player.play(120, refuse_at_random(share), retry_after_s=retry_after_s)
    assert served >= 0.9 * (1 - share) * 120 / LATENCY_S


# --- a limit of calls a second


@pytest.mark.parametrize("per_s", [1, 5, 10])
def test_a_limit_is_used_and_seldom_exceeded(player: Player, per_s: float) -> None:
    player.limit(per_s, 60)
    served, refused = player.limit(per_s, 240)
    assert served >= 0.95 * 240 * per_s
    assert refused <= 0.08 * (served + refused)
    assert player.limiter.rate < 2 * per_s


def test_a_limit_is_found_in_the_middle_of_noise(player: Player) -> None:
    player.play(60, refuse_at_random(0.12))
    player.limit(10, 20)
    served, refused = player.limit(10, 60)
    assert served >= 0.9 * 600
    assert refused <= 0.08 * (served + refused)


def test_unused_time_may_be_made_up_for_until_a_refusal(player: Player) -> None:
    """A minute of it. A refusal shows that there is nothing left."""
    player.limit(10, 120)
    player.now += 600
    assert [player.call(False) for _ in range(50)] == [0] * 50
    player.call(True)
    assert player.call(False) + player.call(False) > 0


def test_no_more_than_a_minute_is_made_up_for(player: Player) -> None:
    player.limit(10, 120)
    player.now += 3_600
    calls = 0
    while player.limiter.wait_s(player.now, 1) == 0:
        player.limiter.begin(player.now, 1, repeated=False)
        calls += 1
    assert calls == pytest.approx(60 * player.limiter.rate, rel=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_noise_after_a_limit_is_told_from_it(player: Player, seed: int) -> None:
    """Even when the limit was sure: refusals at a rate that it allowed are not about it."""
    player.limit(10, 120)
    player.play(120, refuse_at_random(0.12, seed))
    assert player.play(30, refuse_at_random(0.12, seed + 100)) >= 0.7 * 0.88 * 30 / LATENCY_S


def test_the_pace_is_named(player: Player) -> None:
    player.limit(10, 120)
    for _ in range(601):  # what was saved up in a minute is used up
        player.limiter.begin(player.now, 1, repeated=False)
    assert player.limiter.reason(player.now, 1) == f"after 429s at most {60 * player.limiter.rate:,.0f} calls a minute"


@pytest.mark.parametrize("share", [0.6, 0.8, 0.95])
def test_many_refusals_that_are_over_do_not_count(player: Player, share: float) -> None:
    """However many calls were refused for however long: half a minute later the pace is back."""
    player.play(30, refuse_at_random(0.0))
    player.play(600, refuse_at_random(share))
    player.play(40, lambda: False)
    assert player.play(20, lambda: False) >= 0.9 * 20 / LATENCY_S


def test_no_rate_is_lower_than_three_calls_a_minute(player: Player) -> None:
    player.limit(0.01, 3_600)
    assert player.limiter.rate >= SLOWEST


# --- pauses


@pytest.mark.parametrize("outage_s", [5, 60, 600])
@pytest.mark.parametrize("retry_after_s", [None, 0.0, nan, inf, -1.0, 7.0, 60.0, 86_400.0])
def test_an_outage_holds_for_an_eighth_longer_at_most(
    player: Player, outage_s: float, retry_after_s: float | None
) -> None:
    player.play(30, lambda: False)
    began = player.now
    while player.now < began + outage_s:
        player.call(True, retry_after_s=retry_after_s)
    assert player.limiter.refused_for_s(player.now) == pytest.approx(player.now - began, abs=1)
    waited_s = player.call(False)
    assert waited_s <= max(5.1, outage_s / 8 + 1)
    assert player.limiter.refused_for_s(player.now) == 0
    assert player.play(10, lambda: False) >= 0.9 * 10 / LATENCY_S


def test_while_it_lasts_an_outage_is_asked_seldom(player: Player) -> None:
    player.play(10, lambda: False)
    calls, began = 0, player.now
    while player.now < began + 3_600:
        player.call(True)
        calls += 1
    assert calls <= 150
    assert player.limiter.wait_s(player.now, 1) <= LONGEST_S


def test_during_a_pause_only_one_call_is_tried(player: Player) -> None:
    for _ in range(10):
        player.call(True)
    player.now += player.limiter.wait_s(player.now, 1)
    player.limiter.begin(player.now, 1, repeated=True)
    assert player.limiter.wait_s(player.now, 1) > 0


def test_what_was_asked_for_is_named(player: Player) -> None:
    for _ in range(6):
        player.call(True, retry_after_s=12)
    assert player.limiter.reason(player.now, 1) == "the provider asked for 12 s"
    for _ in range(6):
        player.call(True, retry_after_s=86_400)
    reason = player.limiter.reason(player.now, 1)
    assert reason is not None
    assert reason.startswith("nothing but 429s for ")


def test_a_refusal_before_a_long_silence_says_nothing_about_now(player: Player) -> None:
    player.call(True)
    player.now += 3_600
    assert player.limiter.refused_for_s(player.now) == 0
    player.call(True)
    assert player.limiter.refused_for_s(player.now) == 0


# --- calls at once


def at_once(limiter: Limiter, most: int, wanted: int, rounds: int) -> tuple[int, int]:
    """As many calls as are allowed, again and again; those beyond ``most`` are refused. Served, refused."""
    now, served, refused = 1_000.0, 0, 0
    for _ in range(rounds):
        calls: list[Call] = []
        while len(calls) < wanted and limiter.wait_s(now, 1) == 0:
            calls.append(limiter.begin(now, 1, repeated=False))
        now += 1.0 + (limiter.wait_s(now, 1) if not calls else 0.0)
        for call in calls:
            if call.in_flight <= most:
                limiter.served(now, call, NOTHING)
                served += 1
            else:
                limiter.refused(now, call, None)
                refused += 1
    return served, refused


def test_calls_at_once_are_limited_when_it_is_they_that_are_refused() -> None:
    limiter = Limiter()
    at_once(limiter, 4, 16, 50)
    served, refused = at_once(limiter, 4, 16, 200)
    assert served >= 0.5 * 4 * 200
    assert refused <= 0.2 * served
    assert limiter.calls_at_once < 16 or limiter.rate < inf


def test_calls_at_once_are_named() -> None:
    limiter = Limiter()
    limiter._at_once.most = 4
    for _ in range(4):
        limiter.begin(0.0, 1, repeated=False)
    assert limiter.wait_s(0.0, 1) == inf
    assert limiter.reason(0.0, 1) == "at most 4 calls at once"


# --- what the provider reports


def requests(remaining: int, limit: int, reset_s: float) -> RateLimits:
    return RateLimits(requests=Allowance(limit, remaining, reset_s))


def tokens(remaining: int, limit: int, reset_s: float) -> RateLimits:
    return RateLimits(tokens=Allowance(limit, remaining, reset_s))


@pytest.mark.parametrize(
    ("limits", "wait_s"),
    [
        (requests(0, 60, 60.0), 1.0),
        (requests(1, 60, 59.0), 0.0),
        (requests(0, 1, 20.0), 20.0),
        (requests(0, 1, 86_400.0), 60.0),
        (requests(0, 60, 0.0), 0.0),
        (requests(0, 0, 30.0), 0.0),
        (requests(60, 60, 30.0), 0.0),
        (tokens(0, 6_000, 60.0), 1.0),
        (tokens(50, 6_050, 60.0), 0.5),
        (tokens(100, 6_000, 60.0), 0.0),
        (tokens(0, 50, 30.0), 30.0),
        (NOTHING, 0.0),
    ],
)
def test_a_limit_that_is_told_is_obeyed(player: Player, limits: RateLimits, wait_s: float) -> None:
    """A call of 100 tokens waits until enough has come back, but never longer than a minute."""
    player.call(False, limits=limits)
    assert player.limiter.wait_s(player.now, 100) == pytest.approx(wait_s)
    assert (player.limiter.reason(player.now, 100) is None) == (wait_s == 0)


def test_told_limits_are_named(player: Player) -> None:
    player.call(False, limits=requests(0, 1, 20.0))
    assert player.limiter.reason(player.now, 100) == "the provider reports that no calls are left for 20 s"
    player.call(False, limits=tokens(40, 100, 30.0))
    assert player.limiter.reason(player.now, 100) == "40 tokens are left for 30 s"


@pytest.mark.parametrize("reset_s", [1.0, 30.0, 59.0, 600.0])
@pytest.mark.parametrize("kind", [requests, tokens])
def test_a_header_that_does_not_move_is_ignored_after_its_own_reset(
    player: Player, kind: Callable[[int, int, float], RateLimits], reset_s: float
) -> None:
    """0 left whatever is sent. After the reset calls go out, are served, and that disproves it for good."""
    began = player.now
    while player.now < began + min(reset_s, 60) + 12:
        player.call(False, limits=kind(0, 60, reset_s))
    for _ in range(1_000):
        assert player.call(False, limits=kind(0, 60, reset_s)) == 0


def test_a_told_limit_that_429s_bear_out_is_tested_ever_more_rarely() -> None:
    """One call a second, told and true, and never any room: tests after 1, 2, 4, ... minutes, two 429s each."""
    limit, now, served_at, refused = StatedLimit(), 0.0, -1.0, 0
    while now < 4 * 3_600:
        now += max(0.001, limit.wait_s(now, 1))
        limit.begin(1)
        if now - served_at >= 0.999:
            served_at = now
            limit.served(now, 1, Allowance(60, 0, 60.0))
        else:
            refused += 1
            limit.refused()
    assert 10 <= refused <= 20


def test_a_header_that_moves_again_is_obeyed_again(player: Player) -> None:
    began = player.now
    while player.now < began + 60:
        player.call(False, limits=requests(0, 60, 30.0))
    player.call(False, limits=requests(59, 60, 1.0))
    player.call(False, limits=requests(0, 60, 60.0))
    assert player.limiter.wait_s(player.now, 1) == pytest.approx(1.0)


# --- anything at all


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_answers_breaks_it(seed: int) -> None:
    """Any answers, headers and pauses, many calls at once: a wait is never longer than a minute while none is out."""
    rng, limiter, now = random.Random(seed), Limiter(), 50.0
    calls: list[Call] = []
    for _ in range(3_000):
        now += rng.choice([0.0, 0.001, 0.1, 5.0])
        wait_s = limiter.wait_s(now, rng.randrange(10**6))
        assert not math.isnan(wait_s)
        assert wait_s >= 0
        assert calls or wait_s <= 2 * LONGEST_S
        limiter.reason(now, 5)
        if wait_s == 0 and rng.random() < 0.6:
            calls.append(limiter.begin(now, rng.randrange(10**6), repeated=rng.random() < 0.3))
        elif calls:
            call, what = calls.pop(rng.randrange(len(calls))), rng.random()
            if what < 0.4:
                told = Allowance(rng.choice([0, 1, 100]), 0, rng.choice([0.0, 1e-9, 59.0, 1e9]))
                limiter.served(now, call, RateLimits(rng.choice([None, told]), rng.choice([None, told])))
            elif what < 0.8:
                limiter.refused(now, call, rng.choice([None, nan, inf, -inf, -1.0, 0.0, 1e-300, 5.0, 1e300]))
            else:
                limiter.failed(call)
    assert limiter.refused_for_s(now) >= 0
