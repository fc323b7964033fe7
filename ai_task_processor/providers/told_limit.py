"""A limit that the provider tells in its headers (``x-ratelimit-*``): obeyed, until it contradicts itself."""

from math import inf

from ai_task_processor.ports import Allowance

#: no reset is believed beyond this, seconds
LONGEST_RESET_S = 60.0
#: a limit that a 429 bore out is put to the test again after twice as long, up to this
LONGEST_TRUST_S = 3_600.0
#: so many calls beyond what was told, served in a row, prove the limit wrong
PROOF = 10


class ToldLimit:
    """One limit of one model, of requests or of tokens.

    Four states. *Silent*: nothing was told, or there is room. *Obeyed*: what is left does not allow the next call, which
    waits for what comes back. *Tested*: it was used up for longer than its own reset, as a header that does not move
    would tell, so calls are sent regardless. *Disproved*: they were served. A 429 ends a test in the limit's favour;
    only a limit that is found by refusals makes a disproved one heard again.
    """

    def __init__(self) -> None:
        self.left, self._limit, self._per_s, self._at = inf, inf, inf, 0.0
        self._trust_s = 0.0
        self._used_up_since: float | None = None
        self._tested = self._disproved = False
        self._excess = 0

    def wait_s(self, now: float, amount: float) -> float:
        """Seconds until the limit allows this much."""
        return 0.0 if self._tested or self._disproved else self._missing_s(now, amount)

    def begin(self, now: float, amount: float) -> None:
        """A call of this amount starts."""
        if self._missing_s(now, amount) > 0:
            self._excess += 1
        self.left -= amount

    def served(self, now: float, amount: float, told: Allowance | None) -> None:
        """A call was served, and this was told with the answer."""
        if told is None or told.remaining >= told.limit or told.reset_s <= 0:
            self.left, self._used_up_since, self._tested = inf, None, False
            return
        self.left, self._limit, self._at = told.remaining, told.limit, now
        self._per_s = (told.limit - told.remaining) / min(told.reset_s, LONGEST_RESET_S)
        if told.remaining >= min(amount, told.limit):
            self._used_up_since, self._tested = None, False
            return
        if self._used_up_since is None:
            self._used_up_since, self._excess = now, 0
            self._trust_s = max(self._trust_s, min(told.reset_s, LONGEST_RESET_S))
        if not self._tested and now - self._used_up_since >= self._trust_s:
            self._tested, self._excess = True, 0
        self._disproved = self._disproved or (self._tested and self._excess >= PROOF)

    def refused(self) -> None:
        """A call was answered with 429."""
        self._excess = 0
        if self._tested and not self._disproved:
            self._tested, self._used_up_since = False, None
            self._trust_s = min(2 * self._trust_s, LONGEST_TRUST_S)

    def confirmed(self) -> None:
        """There is a limit: fewer calls made fewer refusals."""
        self._disproved = False

    def _missing_s(self, now: float, amount: float) -> float:
        missing = min(amount, self._limit) - self.left
        return max(0.0, missing / self._per_s - (now - self._at)) if missing > 0 else 0.0
