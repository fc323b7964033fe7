"""How many calls a second a model takes, learnt from its 429s.

A 429 may be about the rate, or noise: an overloaded shard, another client. Only an experiment can tell. When refusals
become too many (a CUSUM test), the rate is cut and the next calls are watched. Fewer refusals: a limit, and the rate
comes back to just below what was refused, then rises further (CUBIC, RFC 9438, counted in successes). As many refusals:
noise, and the rate is let go. Most calls refused, or a cut too shallow to tell: another cut, a few times at most.

The rate that is cut is what the calls in flight and their usual length allow, never what was asked for: an idle
application is no congestion. Calls are spaced by GCRA, the cell rate algorithm of ATM.
"""

from dataclasses import dataclass
from enum import Enum, auto
from math import ceil, inf, log

#: calls that a cut is watched; successes in which the rate comes back
TRIAL = 20
#: The test: this share of refusals is tolerated, and so many more than that are too many. About 5 in 85 at a limit.
TOLERATED, TOO_MANY = 0.06, 3.0
#: noise that is known is tolerated, with this margin, up to the share that the trials call a limit
NOISE_MARGIN = 1.5
#: A cut goes to this share of what was accepted, so that a bucket refills; what was accepted counts as this at least.
CUT, LEAST_ACCEPTED = 0.9, 0.7
#: no rate is lower, calls a second: to find out that a limit is gone takes a minute at most
SLOWEST = 0.05
#: the rate comes back to this share of the one that was refused
TOP = 0.92
#: refusals at a rate that the limit allows
FEW = 0.02
#: Noise has no memory. Of the calls right after a refusal, within so many times the distance of calls, an empty bucket
#: refuses about this share, and noise as many as before the cut, if these were ``MANY``. Most ask for another cut.
RIGHT_AFTER, STILL_EMPTY, MANY, CLUSTERED = 2.0, 0.7, 0.2, 0.5
#: After a second cut in a row so many calls are seen at least.
LEAST_SEEN = 9
#: More refusals than this ask for another cut (Google SRE: a limit is beyond twice what is accepted), once there are
#: so many of them; after such a cut a smaller share does, too.
HALF, SHOWN, STILL_MANY = 0.5, 3, 0.25
#: So many cuts in a row make a sixth of the rate. A limit serves as many calls a second as before. When in so many
#: calls fewer are served, by this factor at least, the refusals are noise, however many they are.
CUTS, ENOUGH, FELL = 4, 6, 2.5
#: Log odds of noise are kept within this; a new trial of a limit that is sure is short.
SURE = 4.0
#: log odds when most calls are refused and it is no limit: soon put to the test again
UNSURE = 0.2
#: log odds after a cut that was shallower than what was accepted: only the next one can tell
UNDECIDED = 2.0
#: log odds of noise that are lost with each call, and with refusals in a row that noise would not make
FORGET, FORGET_AT_RUN = 0.002, 1.0
#: refusals in a row that are rarer than this at random are odd; at so much noise at least, as long as none is known
ODD, MUCH_NOISE = 0.01, 0.3
#: Limits are by the minute: so many seconds of unused time may be made up for at once.
BURST_S = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call in flight. ``in_flight``: how many there were when it began, this one included.

    ``repeated``: its work was refused before, so that one more refusal says little that is new.
    """

    began_at: float
    tokens: int
    in_flight: int
    repeated: bool


class Finding(Enum):
    """What a call was the last piece of evidence for."""

    TOO_MANY = auto()
    NOISE = auto()


@dataclass(slots=True)
class Sample:
    """Calls since refusals began to be too many. ``rate``: the one at its beginning."""

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

    ``share``: of refusals before it. ``cuts``: in a row; ``goodput``: calls served a second before them. ``shallow``:
    less was cut than was refused. ``calls`` and ``refused`` leave out repeats, ``served`` does not. ``next_calls``:
    those that began right after a refusal.
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
        """Was the call refused right after another one? Those that began right after a refusal are counted."""
        follows = 0 <= call.began_at - self.refused_at <= within_s
        self.next_calls += follows
        self.next_refused += follows and refused
        if refused:
            self.refused_at = now
        return follows and refused

    @property
    def clustered(self) -> bool:
        """Are most calls refused that follow a refusal?"""
        return self.next_refused >= SHOWN and self.next_refused > CLUSTERED * self.next_calls

    def log_odds(self, refused: bool) -> float:
        """What a call says about noise: at nearly the share before the cut, instead of at few."""
        share = min(HALF, max(3 * FEW, 0.7 * self.share))
        return log(share / FEW) if refused else log((1 - share) / (1 - FEW))


@dataclass(slots=True)
class Curve:
    """How a rate comes back, in successes: from ``base`` to ``top`` in ``TRIAL``, level there, then ever faster."""

    base: float
    top: float
    successes: int = 0

    @property
    def rate(self) -> float:
        x = self.successes / TRIAL - 1
        return self.top + (self.top - self.base) * (x if x < 0 else x / 2) ** 3


class Pace:
    """The rate of one model's calls: watched (``_trial`` is None), or on trial after a cut."""

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
        """Nothing is left to make up for."""
        self._due = max(self._due, now)

    def run(self, refusals: int) -> None:
        """So many calls were refused in a row. More than noise would make are no noise."""
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
        """What was seen since refusals began to be too many."""
        return self._sample

    def restart(self, now: float) -> None:
        """The sample is explained, or over."""
        self._sample = Sample(now, self.rate)

    def cut(self, now: float, usual_s: float) -> None:
        """Too many refusals: a trial begins. ``usual_s``: how long a call takes."""
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
        """Cut a rate at which this share was ``refused``; ``share`` is what the trial compares with."""
        shallow = 1 - refused < LEAST_ACCEPTED
        base = max(SLOWEST, CUT * max(LEAST_ACCEPTED, 1 - refused) * rate)
        self._curve = Curve(base, max(base, TOP * rate))
        self.rate, self._cut_at = self._curve.base, now
        self._due = max(self._due, now + 1 / self.rate)
        self._trial = Trial(now, TRIAL if self._noise_odds > -SURE else TRIAL // 2, share, goodput, cuts, shallow)

    def _try(self, now: float, trial: Trial, refused: bool) -> Finding | None:
        """Did the cut help? The log odds are kept from trial to trial."""
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
        """Calls served a second."""
        return trial.served * self.rate / max(1.0, self.rate * (now - trial.began_at))

    def _cut_again(self, now: float, trial: Trial, seen: float, share: float) -> Finding | None:
        """Too many calls are still refused. If several cuts in a row changed nothing, it is not about the rate."""
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
