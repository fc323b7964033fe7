"""A limit that the provider tells in its headers (``x-ratelimit-*``): obeyed, until it contradicts itself."""

from dataclasses import dataclass
from math import inf

from ai_task_processor.core.ports import Allowance

#: no reset is believed beyond this, seconds
LONGEST_RESET_S = 60.0
#: a limit that a test bore out is tested again after twice as long, up to this
LONGEST_TRUST_S = 3_600.0
#: so many calls served beyond what was told prove it wrong; so many refused bear it out
PROOF, BORNE_OUT = 3, 2


@dataclass(slots=True)
class _Test:
    """Calls are sent regardless of what was told. ``allowed``: of which so much comes back in a second."""

    began_at: float
    allowed: float
    per_s: float
    served: float = 0.0
    refused: int = 0


class ToldLimit:
    """One limit of one model, of requests or of tokens.

    It is *silent* as long as nothing was told or there is room, else *obeyed*: calls wait for what comes back. A limit
    that was used up for longer than its own reset is *tested*, because a header that does not move would tell the same.
    When more is served than it allows it is *disproved*, and ignored until it moves; 429s bear it out.
    """

    def __init__(self) -> None:
        self.left, self._limit, self._per_s, self._at = inf, inf, inf, 0.0
        self._used_up_since: float | None = None
        self._trust_s = 0.0
        self._test: _Test | None = None
        self._disproved = False

    def wait_s(self, now: float, amount: float) -> float:
        """Seconds until the limit allows this much."""
        if self.left >= amount:
            return 0.0
        missing = min(amount, self._limit) - self.left
        if missing <= 0 or self._test is not None or self._disproved:
            return 0.0
        return max(0.0, min(missing / self._per_s, LONGEST_RESET_S) - (now - self._at))

    def begin(self, amount: float) -> None:
        """A call of this amount starts."""
        self.left -= amount

    def served(self, now: float, amount: float, told: Allowance | None) -> None:
        """A call was served, and this was told with the answer."""
        if told is None or told.reset_s <= 0 or told.remaining >= min(max(amount, 1), told.limit):
            self._used_up_since, self._test, self._disproved = None, None, False
        elif self._used_up_since is None:
            self._used_up_since, self._trust_s = now, max(self._trust_s, min(told.reset_s, LONGEST_RESET_S))
        self._hear(now, told)
        if self._test is not None:
            self._test.served += amount
            allowed = self._test.allowed + self._test.per_s * (now - self._test.began_at)
            if self._test.served > allowed + PROOF * amount:
                self._test, self._disproved = None, True
        elif self._used_up_since is not None and now - self._used_up_since >= self._trust_s and not self._disproved:
            self._test = _Test(now, self.left, self._per_s)

    def refused(self) -> None:
        """A call was answered with 429."""
        if self._test is None:
            return
        self._test.refused += 1
        if self._test.refused >= BORNE_OUT:
            self._test, self._used_up_since = None, None
            self._trust_s = min(2 * self._trust_s, LONGEST_TRUST_S)

    def _hear(self, now: float, told: Allowance | None) -> None:
        if told is None or told.reset_s <= 0 or told.remaining >= told.limit:
            self.left = inf
            return
        self.left, self._limit, self._at = told.remaining, told.limit, now
        self._per_s = (told.limit - told.remaining) / min(told.reset_s, LONGEST_RESET_S)
