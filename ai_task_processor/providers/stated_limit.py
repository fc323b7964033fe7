"""A limit that the provider states in its headers (``x-ratelimit-*``): obeyed until calls disprove it."""

from dataclasses import dataclass
from math import inf

from ai_task_processor.core.ports import Allowance

#: a longer reset counts as this, seconds
LONGEST_RESET_S = 60.0
#: a limit that a test confirmed is tested again after twice as long, up to this, seconds
LONGEST_TRUST_S = 3_600.0
#: calls served beyond a limit that disprove it; 429s that confirm it
DISPROVED, CONFIRMED = 3, 2


@dataclass(slots=True)
class _Test:
    """Calls are sent regardless of the limit. It allows ``allowed`` at the beginning, and ``per_s`` more per second."""

    began_at: float
    allowed: float
    per_s: float
    served: float = 0.0
    refused: int = 0


class StatedLimit:
    """One limit of one model, of requests or of tokens.

    It is *inactive* as long as the headers are absent or leave enough, else *obeyed*: calls wait until it refills. A
    limit that was used up for longer than its own reset is *tested*, since a header that never changes looks the same.
    When more is served than it allows it is *disproved*, and ignored until it changes; 429s confirm it.
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

    def served(self, now: float, amount: float, stated: Allowance | None) -> None:
        """A call was served. ``stated``: the limit in the headers of its answer."""
        if stated is None or stated.reset_s <= 0 or stated.remaining >= min(max(amount, 1), stated.limit):
            self._used_up_since, self._test, self._disproved = None, None, False
        elif self._used_up_since is None:
            self._used_up_since, self._trust_s = now, max(self._trust_s, min(stated.reset_s, LONGEST_RESET_S))
        self._update(now, stated)
        if self._test is not None:
            self._test.served += amount
            allowed = self._test.allowed + self._test.per_s * (now - self._test.began_at)
            if self._test.served > allowed + DISPROVED * amount:
                self._test, self._disproved = None, True
        elif self._used_up_since is not None and now - self._used_up_since >= self._trust_s and not self._disproved:
            self._test = _Test(now, self.left, self._per_s)

    def refused(self) -> None:
        """A call was answered with 429."""
        if self._test is None:
            return
        self._test.refused += 1
        if self._test.refused >= CONFIRMED:
            self._test, self._used_up_since = None, None
            self._trust_s = min(2 * self._trust_s, LONGEST_TRUST_S)

    def _update(self, now: float, stated: Allowance | None) -> None:
        if stated is None or stated.reset_s <= 0 or stated.remaining >= stated.limit:
            self.left = inf
            return
        self.left, self._limit, self._at = stated.remaining, stated.limit, now
        self._per_s = (stated.limit - stated.remaining) / min(stated.reset_s, LONGEST_RESET_S)
