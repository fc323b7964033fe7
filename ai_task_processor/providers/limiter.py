"""Rate limiting of one model: decides when its next call may start. The limits are learnt from the answers.

``Limiter`` combines four parts, one for each kind of limit: ``Pace`` (calls per second), ``CallsAtOnce`` (concurrency),
``Pause`` (only 429s; ``Retry-After``) and ``StatedLimit`` (``x-ratelimit-*``).
Nothing here waits, reads a clock or draws random numbers. Times are seconds of a monotonic clock.
"""

from math import ceil, inf

from ai_task_processor.core.ports import RateLimits
from ai_task_processor.ops.status import ModelStatus, limit
from ai_task_processor.providers.pace import ODD, TRIAL, Call, Finding, Pace, Sample
from ai_task_processor.providers.stated_limit import StatedLimit

__all__ = ["Call", "Limiter"]

#: a longer Retry-After is ignored, and no pause is longer, seconds
LONGEST_S = 60.0
#: calls pause when so many in a row are refused that known noise, and this share at least, does not explain it
SOME_NOISE = 0.15
#: the first pause, and the most that Retry-After makes of it, seconds; each next one is twice as long
FIRST_PAUSE_S, FIRST_ASKED_PAUSE_S = 0.05, 0.25
#: longest pause: seconds, or this share of the time since a call was served; so its end is noticed soon
PAUSE_S, PAUSE_SHARE = 5.0, 1 / 8
#: after so long without a call a 429 is no evidence any more, seconds
FORGOTTEN_S = 120.0
#: refusals in a row that count for the rate: more of them are repeats or an outage
COUNTED_RUN = 2
#: served calls before one more concurrent call is tried than was refused
ONE_MORE_AFTER = 4 * TRIAL
#: calls in flight at refusals beyond those at served calls, from which on concurrency is the limit
MORE_IN_FLIGHT = 0.5


class CallsAtOnce:
    """How many calls may be in flight: as many as usually pass, and now and then one more."""

    def __init__(self) -> None:
        self.most = inf
        self._served, self._one_more_after = 0, ONE_MORE_AFTER

    def allows(self, in_flight: int) -> bool:
        """May another call start?"""
        return in_flight < self.most + (self._served >= self._one_more_after)

    def begin(self, in_flight: int) -> None:
        """A call starts as the last of ``in_flight``."""
        if in_flight > self.most:
            self._served = 0

    def served(self, in_flight: int) -> None:
        """A call that began as the last of ``in_flight`` was served."""
        self._served += 1
        if in_flight > self.most:
            self.most, self._one_more_after = in_flight, self._one_more_after // 2

    def refused(self, in_flight: int) -> None:
        """A call that began as the last of ``in_flight`` was refused."""
        if in_flight > self.most:
            self._one_more_after = ONE_MORE_AFTER

    def explains(self, sample: Sample) -> bool:
        """Were calls refused only while more were in flight than usually pass? Then concurrency is the limit."""
        usual = sample.usually_in_flight
        if sample.least_in_flight_refused <= usual + MORE_IN_FLIGHT or ceil(usual) >= self.most:
            return False
        self.most, self._served, self._one_more_after = ceil(usual), 0, ONE_MORE_AFTER
        return True


class Pause:
    """No calls for a while, when only 429s are answered.

    ``Retry-After`` lengthens the first pause only: after that, single calls at doubling intervals show when it is over.
    """

    def __init__(self) -> None:
        self.run = 0
        self._run_began_at: float | None = None
        self.asked_until = self._until = self._refused_at = self._served_at = -inf
        self._hold_s = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next call may be tried."""
        return max(0.0, self._until - now)

    def refused_for_s(self, now: float) -> float:
        """Seconds for which only 429s have been answered; 0 after a served call, or a long time without calls."""
        if self._run_began_at is None or now - self._refused_at > FORGOTTEN_S:
            return 0.0
        return now - self._run_began_at

    def begin(self, now: float) -> None:
        """A call starts: while calls pause, it is the only one."""
        if self._hold_s:
            self._until = max(self._until, now + self._hold_s)

    def served(self, now: float, call: Call) -> None:
        """A call was served. One that began before the last refusal does not end the pause."""
        self.run, self._run_began_at, self._served_at = 0, None, now
        if call.began_at >= self._refused_at:
            self._hold_s, self._until, self.asked_until = 0.0, -inf, -inf

    def refused(self, now: float, call: Call, retry_after_s: float | None, noise: float) -> None:
        """A call was refused. ``noise``: the usual share of refusals."""
        if self._run_began_at is None or now - self._refused_at > FORGOTTEN_S:
            self.run, self._run_began_at = 0, now
        self.run += 1
        odd = max(SOME_NOISE, noise) ** self.run <= ODD
        if odd and call.began_at >= self._refused_at:
            asked_s = retry_after_s if retry_after_s is not None and 0 < retry_after_s <= LONGEST_S else 0.0
            first_s = max(FIRST_PAUSE_S, min(asked_s, FIRST_ASKED_PAUSE_S))
            since_s = now - max(self._served_at, self._run_began_at)
            self._hold_s = min(max(first_s, 2 * self._hold_s), max(PAUSE_S, PAUSE_SHARE * since_s), LONGEST_S)
            self._until, self.asked_until = now + self._hold_s, now + asked_s
        self._refused_at = now


class Limiter:
    """Decides when the next call of one model may start.

    Begin a call with ``begin``, and end each with exactly one of ``served``, ``refused`` and ``failed``.
    """

    def __init__(self) -> None:
        self._pace, self._at_once, self._pause = Pace(), CallsAtOnce(), Pause()
        self._requests, self._tokens = StatedLimit(), StatedLimit()
        self._in_flight, self._usual_s = 0, 0.0

    @property
    def rate(self) -> float:
        """Calls per second; infinite as long as no limit is known."""
        return self._pace.rate

    @property
    def calls_at_once(self) -> float:
        """Calls that may be in flight, infinite as long as no limit is known."""
        return self._at_once.most

    def wait_s(self, now: float, tokens: int) -> float:
        """Seconds until a call of this size may start; infinite: not before another ends."""
        if not self._at_once.allows(self._in_flight):
            return inf
        return max(
            self._pace.wait_s(now),
            self._pause.wait_s(now),
            self._requests.wait_s(now, 1),
            self._tokens.wait_s(now, tokens),
        )

    def reason(self, now: float, tokens: int) -> str | None:
        """Why a call of this size may not start now, for status; None when it may."""
        if not self._at_once.allows(self._in_flight):
            return f"at most {self._at_once.most:.0f} calls at once"
        wait_s = self.wait_s(now, tokens)
        if wait_s <= 0:
            return None
        if wait_s == self._pause.wait_s(now):
            if self._pause.asked_until > now:
                return f"the provider asked for {self._pause.asked_until - now:.0f} s"
            return f"nothing but 429s for {self.refused_for_s(now):.0f} s: the next call in {wait_s:.1f} s"
        if wait_s == self._pace.wait_s(now):
            return f"after 429s at most {60 * self.rate:,.0f} calls a minute"
        if wait_s == self._requests.wait_s(now, 1):
            return f"the provider reports that no calls are left for {wait_s:.0f} s"
        return f"{max(0.0, self._tokens.left):,.0f} tokens are left for {wait_s:.0f} s"

    def status(
        self,
        model: str,
        kind: str,
        *,
        running: int,
        waiting: int,
        waits_because: str | None,
        paused_because: str | None,
    ) -> ModelStatus:
        """For ``/status``: the limits of its model beside the state of its calls."""
        return ModelStatus(
            name=model,
            kind=kind,
            calls_per_minute=limit(60 * self.rate),
            calls_at_once=None if self.calls_at_once == inf else int(self.calls_at_once),
            running_calls=running,
            waiting_calls=waiting,
            waits_because=waits_because,
            paused_because=paused_because,
        )

    def refused_for_s(self, now: float) -> float:
        """See ``Pause.refused_for_s``."""
        return self._pause.refused_for_s(now)

    def begin(self, now: float, tokens: int, *, repeated: bool) -> Call:
        """A call starts. ``repeated``: its work was refused before."""
        self._in_flight += 1
        self._at_once.begin(self._in_flight)
        self._pace.begin(now)
        self._pause.begin(now)
        self._requests.begin(1)
        self._tokens.begin(tokens)
        return Call(now, tokens, self._in_flight, repeated)

    def failed(self, call: Call) -> None:  # noqa: ARG002 - the same shape as the other two
        """A call ended without evidence about limits: no answer, 5xx, 400, cancelled."""
        self._in_flight -= 1

    def served(self, now: float, call: Call, limits: RateLimits) -> None:
        """A call was served. ``limits``: those in the headers of the answer."""
        self._in_flight -= 1
        took_s = now - call.began_at
        self._usual_s = self._usual_s + 0.1 * (took_s - self._usual_s) if self._usual_s else took_s
        self._at_once.served(call.in_flight)
        self._pause.served(now, call)
        self._requests.served(now, 1, limits.requests)
        self._tokens.served(now, call.tokens, limits.tokens)
        self._learn(now, call, refused=False)

    def refused(self, now: float, call: Call, retry_after_s: float | None) -> None:
        """A call was answered with 429. ``retry_after_s`` may be any number."""
        self._in_flight -= 1
        self._at_once.refused(call.in_flight)
        self._requests.refused()
        self._tokens.refused()
        self._pace.refused(now)
        self._pause.refused(now, call, retry_after_s, self._pace.noise)
        self._pace.run(self._pause.run)
        if self._pause.run <= COUNTED_RUN:
            self._learn(now, call, refused=True)

    def _learn(self, now: float, call: Call, *, refused: bool) -> None:
        if not self._usual_s:
            return
        finding = self._pace.learn(now, call, refused=refused)
        if finding is Finding.NOISE:
            self._at_once = CallsAtOnce()
        elif finding is Finding.TOO_MANY:
            if self._at_once.explains(self._pace.sample):
                self._pace.restart(now)
            else:
                self._pace.cut(now, self._usual_s)
