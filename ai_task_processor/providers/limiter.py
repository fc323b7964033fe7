"""How fast one model may be called, and how many calls at once: learnt from its answers alone.

``Limiter`` asks its parts, each of which knows one kind of limit: ``Pace`` (calls a second), ``CallsAtOnce``,
``Pause`` (nothing is answered but 429s, ``Retry-After``) and ``ToldLimit`` (``x-ratelimit-*``).
Nothing here waits, reads a clock or draws a number. Times are seconds of a monotonic clock.
"""

from dataclasses import dataclass
from math import ceil, inf, isfinite, log

from ai_task_processor.ports import Allowance, RateLimits

#: no Retry-After and no reset is believed beyond this, seconds
LONGEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call under way. ``in_flight``: calls under way when it began, this one included.

    ``repeated``: its work was refused before, so that another refusal says little that is new.
    """

    began_at: float
    tokens: int
    in_flight: int
    repeated: bool


#: attempts that a cut is watched; successes in which a rate comes back
N = 20
#: this share of refusals is let pass; that many more cut the rate
TOLERATED, ALARM = 0.06, 3.0
#: cut to 0.9 of what was accepted, by 0.7 at most; come back to 0.92 of the rate
BELOW, DEEPEST, TOP = 0.9, 0.7, 0.92
#: refusals at a rate that a limit allows; log odds are kept within this
FEW, SURE = 0.02, 4.0
#: (Google SRE: K = 2) a share of refusals above it is a limit, whatever else may be believed
HALF = 0.5
#: log odds lost with each attempt: that refusals are noise is put to the test again after a thousand
FORGET = 0.002
#: limits are by the minute: so much unused time may be made up for at once
BURST_S = 60.0
#: pauses when so many refusals in a row would be odd
HOLD_S, ODD = 0.05, 0.01


class CallsAtOnce:
    """How many calls may be under way: fewer than were refused, and now and then one more is tried."""

    def __init__(self) -> None:
        self.most = inf
        self._since_probe, self._patience = 0, 4 * N

    def allows(self, in_flight: int) -> bool:
        return in_flight < self.most + (self._since_probe >= self._patience)

    def begun(self, in_flight: int) -> None:
        if in_flight > self.most:
            self._since_probe = 0

    def served(self, in_flight: int) -> None:
        self._since_probe += 1
        if in_flight > self.most:
            self.most, self._patience = in_flight, self._patience // 2

    def refused(self, in_flight: int) -> None:
        if in_flight > self.most:
            self._patience = 4 * N

    def limit(self, most: int) -> None:
        self.most, self._since_probe, self._patience = most, 0, 4 * N


class Limiter:
    """Pace, pause and calls at once of one model."""

    def __init__(self) -> None:
        self.rate = self._base = self._top = inf
        self._due, self._in_flight, self._usual_s = 0.0, 0, 0.0
        self._at_once = CallsAtOnce()
        self._k = 0
        self._trial, self._tried, self._bad, self._share, self._cut_at = 0, 0, 0, 0.0, -inf
        self._belief, self._noise = 0.0, 0.0
        self._run, self._hold_s, self._refused_at, self._served_at = 0, 0.0, -inf, 0.0
        self._run_began_at: float | None = None
        self._told: dict[str, tuple[float, float, float, float]] = {}
        self._sample()

    @property
    def calls_at_once(self) -> float:
        """Calls that may be under way, infinite as long as no limit is known."""
        return self._at_once.most

    def wait_s(self, now: float, tokens: int) -> float:
        """Seconds until a call of this size may start; infinite: not before another ends."""
        if not self._at_once.allows(self._in_flight):
            return inf
        wait_s = self._due - now
        for kind, (limit, left, per_s, at) in self._told.items():
            need = min(tokens, limit) if kind == "tokens" else 1
            wait_s = max(wait_s, min((need - left) / per_s, LONGEST_S) - (now - at))
        return max(0.0, wait_s)

    def reason(self, now: float, tokens: int) -> str | None:
        """Why the next call does not start at once; None when it does."""
        if not self._at_once.allows(self._in_flight):
            return f"at most {self.calls_at_once:.0f} calls at once"
        if (wait_s := self.wait_s(now, tokens)) <= 0:
            return None
        if self._hold_s > 0 or self.rate == inf:
            return f"the next call in {wait_s:.1f} s"
        return f"after 429s at most {60 * self.rate:.0f} calls a minute"

    def refused_for_s(self, now: float) -> float:
        """For how long nothing but 429s has been answered; 0 when the last answer was good."""
        return 0.0 if self._run_began_at is None else max(0.0, now - self._run_began_at)

    def begin(self, now: float, tokens: int, *, repeated: bool) -> Call:
        """A call starts."""
        self._in_flight += 1
        self._at_once.begun(self._in_flight)
        self._due = max(self._due, now - BURST_S) + max(1 / self.rate, self._hold_s)
        self._told = {
            kind: (limit, left - (tokens if kind == "tokens" else 1), per_s, at)
            for kind, (limit, left, per_s, at) in self._told.items()
        }
        return Call(now, tokens, self._in_flight, repeated)

    def failed(self, call: Call) -> None:
        """A call ended with no answer, or one that says nothing about limits."""
        self._in_flight -= 1

    def served(self, now: float, call: Call, limits: RateLimits) -> None:
        """A call was answered well."""
        self._in_flight -= 1
        self._usual_s += (now - call.began_at - self._usual_s) * (0.1 if self._usual_s else 1.0)
        self._run, self._served_at, self._run_began_at = 0, now, None
        self._at_once.served(call.in_flight)
        if call.began_at >= self._refused_at:
            self._hold_s, self._due = 0.0, min(self._due, now + 1 / self.rate)
        self._told = {}
        told: tuple[tuple[str, Allowance | None], ...] = (("requests", limits.requests), ("tokens", limits.tokens))
        for kind, a in told:
            if a and a.remaining < a.limit and a.reset_s > 0:
                self._told[kind] = (a.limit, a.remaining, (a.limit - a.remaining) / a.reset_s, now)
        self._learn(now, call, 0)

    def refused(self, now: float, call: Call, retry_after_s: float | None) -> None:
        """A call was answered with 429."""
        self._in_flight -= 1
        self._run += 1
        self._run_began_at = now if self._run_began_at is None else self._run_began_at
        self._at_once.refused(call.in_flight)
        if self._run <= 2:  # repeats in a row say nothing new: neither does an outage
            self._learn(now, call, 1)
        believable = retry_after_s is not None and isfinite(retry_after_s) and 0 < retry_after_s <= LONGEST_S
        wish_s = retry_after_s if believable and retry_after_s is not None else 0.0
        if max(FEW, self._noise) ** self._run > ODD:
            wish_s = 0.0 if self._noise else wish_s
        elif call.began_at >= self._refused_at:
            self._hold_s = min(
                max(HOLD_S, 2 * self._hold_s), max(5.0, (now - max(self._served_at, self._run_began_at)) / 8), LONGEST_S
            )
        self._due, self._refused_at = max(self._due, now + max(self._hold_s, wish_s)), now

    def _sample(self) -> None:
        self._score, self._first, self._n, self._b = 0.0, self.rate, 0, 0
        self._peak, self._sum = 0, 0
        self._low = inf

    def _learn(self, now: float, call: Call, refused: int) -> None:
        if call.began_at < self._cut_at or not self._usual_s:
            return None
        self._belief = self._belief if self._belief <= 0 else max(0.0, self._belief - FORGET)
        if self._trial:
            if not call.repeated:
                self._try(now, refused)
            return None
        if self._score == 0.0:
            self._sample()
        self._n, self._b, self._peak = self._n + 1, self._b + refused, max(self._peak, call.in_flight)
        if refused:
            self._low = min(self._low, call.in_flight)
        else:
            self._sum += call.in_flight
        noise = 1.5 * self._noise if self._belief > 0 else 0.0
        self._score = max(0.0, self._score + refused - min(HALF, TOLERATED + noise))
        if self._score >= ALARM:
            usual = self._sum / max(1, self._n - self._b)
            if self._low > usual + 0.5 and ceil(usual) < self._at_once.most:
                self._at_once.limit(ceil(usual))
                return self._sample()
            self._share = self._b / (self._n + 5)
            self._cut(now, min(self._first, self._peak / self._usual_s), self._b / self._n)
        elif self._base < inf:
            self._k += not refused
            x = self._k / N - 1
            self.rate = self._top + (self._top - self._base) * (x if x < 0 else x / 2) ** 3  # CUBIC, in successes

    def _cut(self, now: float, rate: float, share: float) -> None:
        self._top, self._base = TOP * rate, BELOW * max(DEEPEST, 1 - share) * rate
        self.rate, self._k, self._cut_at = self._base, 0, now
        self._due = max(self._due, now + 1 / self._base)
        self._trial, self._tried, self._bad = N if self._belief > -SURE else N // 2, 0, 0

    def _try(self, now: float, refused: int) -> None:
        self._tried, self._bad = self._tried + 1, self._bad + refused
        seen = self._bad / self._tried
        if self._bad >= 3 and seen > HALF:
            self._share, self._belief = 1.0, min(0.0, self._belief)
            return self._cut(now, self.rate, seen)
        if not refused or self._share < HALF:
            more = min(HALF, max(3 * FEW, 0.7 * self._share))
            self._belief += log(more / FEW) if refused else log((1 - more) / (1 - FEW))
            self._belief = min(SURE, max(-SURE, self._belief))
        if self._tried < self._trial and (self._belief < SURE or seen > HALF):
            return None
        if (self._belief > 0 and self._trial < N) or (self._share >= HALF and seen > 0.25):
            self._share = seen
            return self._cut(now, self.rate, seen)
        self._noise = 0.0
        if self._belief > 0:
            self._noise = (self._b + self._bad) / (self._n + self._tried)
            self.rate = self._base = self._top = self._at_once.most = inf
        self._trial = self._k = 0
        return self._sample()
