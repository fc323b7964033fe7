"""The rate of calls of one model, learnt from its 429s.

A 429 may be about the rate, or noise: an overloaded shard, another client. Only an experiment can distinguish them.
When refusals become too many (a CUSUM test), the rate is cut and the next calls are a trial. If fewer are refused, it
is a limit: the rate returns to just below the refused one, then rises further (CUBIC, RFC 9438, counted in successes).
If as many are, it is noise: the limit is removed. After too small a cut, or if most are, it is cut again, a few times.

A cut starts from the rate that the calls in flight and their usual duration allow, not from the rate of tasks: an idle
application is no congestion. Calls are spaced by GCRA, the cell rate algorithm of ATM.
"""

from dataclasses import dataclass
from enum import Enum, auto
from math import ceil, inf, log

#: calls of a trial; successes in which the rate returns
TRIAL = 20
#: CUSUM test: the tolerated share of refusals, and the excess that is too many. About 5 in 85 at a limit.
TOLERATED, TOO_MANY = 0.06, 3.0
#: margin with which known noise is tolerated, up to ``HALF``
NOISE_MARGIN = 1.5
#: a cut goes to this share of the accepted rate, so that a bucket refills; the least share of calls taken as accepted
CUT, LEAST_ACCEPTED = 0.9, 0.7
#: lowest rate, calls per second: it takes a minute at most to find out that a limit is gone
SLOWEST = 0.05
#: the rate returns to this share of the refused one
TOP = 0.92
#: share of refusals at a rate that the limit allows
FEW = 0.02
#: Noise has no memory. Of the calls within ``RIGHT_AFTER`` intervals of a refusal an empty bucket refuses about
#: ``STILL_EMPTY``, noise as many as before the cut (used when those were ``MANY``). ``CLUSTERED`` needs another cut.
RIGHT_AFTER, STILL_EMPTY, MANY, CLUSTERED = 2.0, 0.7, 0.2, 0.5
#: least calls of a trial after a second cut in a row
LEAST_SEEN = 9
#: A larger share of refusals than ``HALF`` needs another cut (Google SRE: a limit is beyond twice what is accepted),
#: once there are ``SHOWN`` of them; after such a cut, a share of ``STILL_MANY`` does.
HALF, SHOWN, STILL_MANY = 0.5, 3, 0.25
#: ``CUTS`` in a row leave a sixth of the rate. A limit then serves as many calls per second as before. If after
#: ``ENOUGH`` calls fewer are served, by the factor ``FELL``, the refusals are noise, however many they are.
CUTS, ENOUGH, FELL = 4, 6, 2.5
#: bound of the log odds of noise; at the lower one a trial is half as long
SURE = 4.0
#: log odds when most calls are refused and it is no limit: it is soon tested again
UNSURE = 0.2
#: log odds after a cut that was smaller than the share of refusals: the next cut decides
UNDECIDED = 2.0
#: log odds of noise that are lost with each call, and with a run of refusals that noise does not explain
FORGET, FORGET_AT_RUN = 0.002, 1.0
#: a run of refusals is odd below this probability; the share of noise assumed at least
ODD, MUCH_NOISE = 0.01, 0.3
#: limits are per minute: unused time up to this may be used at once, seconds
BURST_S = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call in flight. ``in_flight``: how many there were when it began, itself included.

    ``repeated``: its texts were refused before, so that one more refusal is weak evidence.
    """

    began_at: float
    tokens: int
    in_flight: int
    repeated: bool


class Finding(Enum):
    """A conclusion that one more call made possible."""

    TOO_MANY = auto()
    NOISE = auto()


@dataclass(slots=True)
class Sample:
    """Calls since the CUSUM score was last 0. ``rate``: that of its beginning."""

    began_at: float
    rate: float
    score: float = 0.0
    served: int = 0
    refused: int = 0
    most_in_flight: int = 0
    in_flight_served: int = 0
    least_in_flight_refused: float = inf

    @property
    def usually_in_flight(self) -> float:
        """Calls in flight when one was served, on average."""
        return self.in_flight_served / max(1, self.served)

    def add(self, in_flight: int, refused: bool, tolerated: float) -> None:
        self.score = max(0.0, self.score + refused - tolerated)
        self.most_in_flight = max(self.most_in_flight, in_flight)
        if refused:
            self.refused += 1
            self.least_in_flight_refused = min(self.least_in_flight_refused, in_flight)
        else:
            self.served += 1
            self.in_flight_served += in_flight


@dataclass(slots=True)
class Trial:
    """Calls since a cut.

    ``share``: of refusals before it. ``cuts``: in a row; ``goodput``: calls served per second before them. ``shallow``:
    the cut was smaller than the share of refusals. ``calls`` and ``refused`` exclude repeats, ``served`` does not.
    ``next_calls``: those that began right after a refusal.
    """

    began_at: float
    length: int
    share: float
    goodput: float
    cuts: int
    shallow: bool
    served: int = 0
    calls: int = 0
    refused: int = 0
    refused_at: float = -inf
    next_calls: int = 0
    next_refused: int = 0

    def note(self, now: float, call: Call, refused: bool, within_s: float) -> bool:
        """Count a call that began right after a refusal; was it refused as well?"""
        follows = 0 <= call.began_at - self.refused_at <= within_s
        self.next_calls += follows
        self.next_refused += follows and refused
        if refused:
            self.refused_at = now
        return follows and refused

    @property
    def clustered(self) -> bool:
        """Are most calls refused that began right after a refusal?"""
        return self.next_refused >= SHOWN and self.next_refused > CLUSTERED * self.next_calls

    def log_odds(self, refused: bool) -> float:
        """The evidence of one call for noise: nearly the share of refusals before the cut, against ``FEW``."""
        share = min(HALF, max(3 * FEW, 0.7 * self.share))
        return log(share / FEW) if refused else log((1 - share) / (1 - FEW))


@dataclass(slots=True)
class Curve:
    """How a rate returns, in successes: from ``base`` to ``top`` in ``TRIAL``, flat there, then faster and faster."""

    base: float
    top: float
    successes: int = 0

    @property
    def rate(self) -> float:
        x = self.successes / TRIAL - 1
        return self.top + (self.top - self.base) * (x if x < 0 else x / 2) ** 3


class Pace:
    """The rate of one model's calls. ``_trial`` is None except after a cut."""

    def __init__(self) -> None:
        self.rate = inf
        self.noise = 0.0
        self._due = -inf
        self._curve: Curve | None = None
        self._sample = Sample(-inf, inf)
        self._trial: Trial | None = None
        self._cut_at = -inf
        self._allowed = 0.0
        self._noise_odds = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next call is due."""
        return max(0.0, self._due - now)

    def begin(self, now: float) -> None:
        """A call starts."""
        self._due = max(self._due, now - BURST_S) + 1 / self.rate

    def refused(self, now: float) -> None:
        """A call was refused: no unused time is left."""
        self._due = max(self._due, now)

    def run(self, refusals: int) -> None:
        """``refusals`` calls were refused in a row. A run that noise does not explain lowers the odds of noise."""
        if refusals == ceil(log(ODD) / log(max(MUCH_NOISE, NOISE_MARGIN * self.noise))):
            self._noise_odds = max(-SURE, self._noise_odds - FORGET_AT_RUN)

    def learn(self, now: float, call: Call, *, refused: bool) -> Finding | None:
        """A call was served or refused. ``TOO_MANY`` refusals ask for ``cut`` or ``restart``."""
        if call.began_at < self._cut_at:
            return None
        if self._noise_odds > 0:
            self._noise_odds = max(0.0, self._noise_odds - FORGET)
        if self._trial is not None:
            self._trial.served += not refused
            if self._trial.note(now, call, refused, RIGHT_AFTER / self.rate) and MANY < self._trial.share < HALF:
                self._noise_odds = max(-SURE, self._noise_odds + log(self._trial.share / STILL_EMPTY))
            return None if call.repeated else self._try(now, self._trial, refused)
        if self._sample.score == 0.0:
            self.restart(now)
        self._sample.add(call.in_flight, refused, self._tolerated)
        if self._sample.score >= TOO_MANY:
            return Finding.TOO_MANY
        if self._curve is not None and not refused:
            self._curve.successes += 1
            self.rate = self._curve.rate
        return None

    @property
    def sample(self) -> Sample:
        """Calls since the CUSUM score was last 0."""
        return self._sample

    def restart(self, now: float) -> None:
        """Begin a new sample."""
        self._sample = Sample(now, self.rate)

    def cut(self, now: float, usual_s: float) -> None:
        """Too many refusals: begin a trial. ``usual_s``: how long a call takes."""
        sample = self._sample
        calls = sample.served + sample.refused
        possible = min(sample.rate, sample.most_in_flight / usual_s)
        if possible <= self._allowed:
            self._noise_odds = max(0.0, self._noise_odds)
        goodput = sample.served / max(now - sample.began_at, usual_s)
        self._begin_trial(now, possible, sample.refused / calls, sample.refused / (calls + 5), goodput)

    @property
    def _tolerated(self) -> float:
        noise = NOISE_MARGIN * self.noise if self._noise_odds > 0 else 0.0
        return min(HALF, TOLERATED + noise)

    def _begin_trial(
        self, now: float, rate: float, refused: float, share: float, goodput: float = 0.0, cuts: int = 1
    ) -> None:
        """Cut ``rate``, at which this share was ``refused``; the trial compares with ``share``."""
        shallow = 1 - refused < LEAST_ACCEPTED
        base = max(SLOWEST, CUT * max(LEAST_ACCEPTED, 1 - refused) * rate)
        self._curve = Curve(base, max(base, TOP * rate))
        self.rate, self._cut_at = self._curve.base, now
        self._due = max(self._due, now + 1 / self.rate)
        self._trial = Trial(now, TRIAL if self._noise_odds > -SURE else TRIAL // 2, share, goodput, cuts, shallow)

    def _try(self, now: float, trial: Trial, refused: bool) -> Finding | None:
        """Decide whether the cut helped. The log odds carry over from trial to trial."""
        trial.calls, trial.refused = trial.calls + 1, trial.refused + refused
        seen = trial.refused / trial.calls
        if trial.refused >= SHOWN and (seen > HALF or trial.clustered):
            self._noise_odds = min(0.0, self._noise_odds)
            return self._cut_again(now, trial, seen, share=1.0)
        if not refused or trial.share < HALF:
            self._noise_odds = min(SURE, max(-SURE, self._noise_odds + trial.log_odds(refused)))
        early = trial.cuts > 1 and trial.calls < LEAST_SEEN
        if trial.calls < trial.length and (self._noise_odds < SURE or seen > HALF or early):
            return None
        noise = self._noise_odds > 0
        if noise and trial.shallow and trial.cuts == 1:
            self._noise_odds = min(self._noise_odds, UNDECIDED)
            return self._cut_again(now, trial, seen, share=seen)
        if (noise and trial.length < TRIAL) or (trial.share >= HALF and seen > STILL_MANY):
            return self._cut_again(now, trial, seen, share=seen)
        fell = seen > 3 * FEW and self._goodput(now, trial) < trial.goodput / FELL
        return self._end_trial(now, trial, noise or fell)

    def _goodput(self, now: float, trial: Trial) -> float:
        """Calls served per second."""
        return trial.served * self.rate / max(1.0, self.rate * (now - trial.began_at))

    def _cut_again(self, now: float, trial: Trial, seen: float, share: float) -> Finding | None:
        """Too many calls are still refused. If several cuts in a row did not help, the rate is not the limit."""
        goodput = self._goodput(now, trial)
        if trial.cuts >= CUTS:
            if trial.calls < ENOUGH:
                return None
            if goodput < trial.goodput / FELL:
                return self._end_trial(now, trial, noise=True)
        self._begin_trial(now, self.rate, seen, share, max(goodput, trial.goodput), trial.cuts + 1)
        return None

    def _end_trial(self, now: float, trial: Trial, noise: bool) -> Finding | None:
        self._trial = None
        self.noise = 0.0
        if noise:
            self._noise_odds = max(self._noise_odds, UNSURE)
            refused, served = trial.refused + self._sample.refused, trial.calls - trial.refused + self._sample.served
            self.noise = min(HALF, refused / (refused + served))
            self.rate, self._curve, self._due, self._allowed = inf, None, now, 0.0
        else:
            self._allowed = self.rate
        self.restart(now)
        return Finding.NOISE if noise else None
