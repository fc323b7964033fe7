"""How fast a model may be asked, and for how much at once: AIMD over its 429s, and the limits that it tells.

Additive increase, multiplicative decrease: after a 429 calls start at a part of the rate that was really
reached, and each success adds a little. A call is no larger than the tokens that the provider says are
left, and when little is left of a limit, no more is asked for than comes back. Without a sign of a limit
there is no pace. Nothing here waits: batching does, and never for longer than ``LONGEST_WAIT_S``, whatever
a neighbour tells.
"""

from math import inf

from ai_task_processor.ports import Allowance, Clock, RateLimits

LONGEST_WAIT_S = 60.0
#: after a 429 this part of the rate that was reached, but no less than three calls a minute
DECREASE, SLOWEST = 0.85, 0.05
#: a rate that rises from its decrease to its ceiling reaches less than that on average
RISE = 2 / (1 + DECREASE)
#: what counts as reached when nothing was served before the first 429
FIRST_RATE = 1.0
#: After this time the rate is back where it was refused, or after so many successes when they take longer. Beyond it
#: the steps grow, too: the limit may have changed.
RECOVERY_S, RECOVERY_STEPS = 20.0, 4
#: limits are by the minute: what was reached is counted over the last half to whole minute, but not over less than
#: a second, and a call that comes a minute after its turn ends the pace
WINDOW_S, SHORTEST_S = 60.0, 1.0
#: so many calls in a row that came a whole turn late ask for half the rate at most: they end the pace, too
LATE_CALLS = 10
#: below this share of a limit there is little left
LOW = 0.1
#: a call that is refused again and again is halved; with each success the next may be larger by this factor
GROWTH = 1.15
#: texts may have this many times the tokens a byte that were seen; the densest call fades by a tenth with each other
MARGIN, MEMORY = 1.2, 0.9


class Pacer:
    """The pace of one model's calls. A size is in bytes of UTF-8, which bound tokens from above.

    ``rate``: calls a second, infinite without a pace. ``limited``: False as long as there is nothing to ask.
    ``scarce``: it is calls that are short, so that each should carry as much as it can.
    """

    def __init__(self, clock: Clock) -> None:
        self.rate = inf
        self.limited = self.scarce = False
        self._clock = clock
        self._next_at = 0.0
        self._late_calls = 0
        self._ceiling = self._step = self._steepness = 0.0
        self._decreased_at = -inf
        self._served, self._since = 0.0, clock.monotonic()
        self._largest, self._refused = inf, 0
        self._believed = True
        self._tokens, self._tokens_limit, self._whole_at = inf, inf, 0.0
        self._tokens_a_byte = 1.0
        self._flying = 0

    @property
    def room(self) -> float:
        """The size that the next call should not exceed. A single text may: nothing else would help it."""
        return min(self._affordable(self._clock.monotonic()), self._largest)

    def wait_s(self, size: int) -> float:
        """Seconds until the next call may start, which holds this size at least: 0 when it may now."""
        now = self._clock.monotonic()
        starts_at = self._next_at if size <= self._affordable(now) else max(self._next_at, self._whole_at)
        return max(0.0, starts_at - now)

    @property
    def reason(self) -> str | None:
        """Why calls do not start at once; None when they do."""
        now = self._clock.monotonic()
        if self.rate < inf and now - self._next_at < WINDOW_S:
            return f"after a 429 at most {60 * self.rate:.0f} calls a minute"
        if now < self._next_at:
            return f"little is left of a limit: the next call in {self._next_at - now:.1f} s"
        if now < self._whole_at and self._tokens < LOW * self._tokens_limit:
            return f"{self._tokens:.0f} tokens are left for {self._whole_at - now:.0f} s"
        return None

    def started(self, size: int) -> float:
        """A call begins; ``throttled`` asks for the time that this answers."""
        now = self._clock.monotonic()
        self._flying += size
        if self.rate < inf:
            late_s = now - self._next_at
            self._late_calls = self._late_calls + 1 if late_s * self.rate >= 1 else 0
            if late_s >= WINDOW_S or self._late_calls >= LATE_CALLS:
                self.rate, self.scarce = inf, False
                self.limited = min(self._tokens_limit, self._largest) < inf
            else:
                self._next_at = max(self._next_at, now + 1 / self.rate)
        return now

    def ended(self, size: int) -> None:
        """A call ended, whatever became of it."""
        self._flying -= size

    def served(self, size: int, tokens: int, limits: RateLimits) -> None:
        """A call was answered well. ``tokens`` were charged for it, 0 when that is unknown."""
        now = self._clock.monotonic()
        self._forget(now)
        self._served += 1
        if self.rate < inf:
            self._increase()
        if self._largest < inf:
            self._largest = GROWTH * self._largest if self._largest < 2 * self._refused else inf
        if size and tokens:
            self._tokens_a_byte = min(1.0, max(MARGIN * tokens / size, MEMORY * self._tokens_a_byte))
        if self._believed:
            self._heed(limits, now, tokens or size)

    def throttled(self, size: int, began_at: float) -> None:
        """A call was answered with 429. One from before the last decrease says nothing new."""
        if began_at < self._decreased_at:
            return
        now = self._clock.monotonic()
        self._forget(now)
        if self._served > 0:
            self._decrease(self._served / max(now - self._since, SHORTEST_S))
        elif self.rate == inf:
            self._decrease(FIRST_RATE)
        else:
            # Nothing was served in between, so that the pace is not to blame: the call may be more than a limit allows.
            self._refused = size if self._largest == inf else self._refused
            self._largest = min(self._largest, size / 2)
        self._served, self._since = 0.0, now
        self._decreased_at, self._late_calls = now, 0
        self._next_at = max(self._next_at, now + 1 / self.rate)
        self._believed = self.limited = self.scarce = True

    def doubt(self) -> None:
        """What the provider tells cannot be waited for: it is not believed until a 429 bears it out."""
        self._believed = False
        self._tokens = self._tokens_limit = inf
        self._next_at = self._clock.monotonic()
        self.scarce = self.rate < inf
        self.limited = min(self.rate, self._largest) < inf

    def _affordable(self, now: float) -> float:
        tokens = self._tokens if now < self._whole_at else self._tokens_limit
        return tokens / self._tokens_a_byte - self._flying

    def _forget(self, now: float) -> None:
        age_s = now - self._since
        if age_s > WINDOW_S:
            self._served, self._since = (self._served / 2, now - WINDOW_S / 2) if age_s < 2 * WINDOW_S else (0.0, now)

    def _decrease(self, reached: float) -> None:
        self._ceiling = min(self.rate, RISE * reached)
        self.rate = max(DECREASE * self._ceiling, SLOWEST)
        steps = max(RECOVERY_S * self.rate, RECOVERY_STEPS)
        self._step = (1 - DECREASE) * self.rate / steps
        self._steepness = 1 + RECOVERY_STEPS / steps

    def _increase(self) -> None:
        if self.rate > self._ceiling:
            self._step *= self._steepness
        self.rate += self._step

    def _heed(self, limits: RateLimits, now: float, cost: int) -> None:
        """``cost``: tokens of the call that was answered; the next one will be like it."""
        if (requests := limits.requests) is not None:
            self.scarce = self._spare(requests, 1, now) or self.rate < inf
        if (tokens := limits.tokens) is not None:
            self._spare(tokens, cost, now)
            self._tokens, self._tokens_limit = tokens.remaining, tokens.limit
            self._whole_at = now + tokens.reset_s
            self.limited = True

    def _spare(self, allowance: Allowance, cost: int, now: float) -> bool:
        """Of a limit that is nearly used up no more is taken than comes back; of one that is used up, nothing.

        Is it one of those?
        """
        if allowance.remaining > LOW * allowance.limit:
            return False
        share = cost / (allowance.limit - allowance.remaining) if allowance.remaining else 1.0
        self._next_at = max(self._next_at, now + min(share, 1.0) * allowance.reset_s)
        self.limited = True
        return True
