"""Statistics of the served calls of one model: when the last one was, how long they take, when a call hangs."""

from math import inf

#: the model counts as healthy this long after it served a call: seconds, or this many times the usual call
TRUSTED_S, TRUSTED_FACTOR = 2.0, 3.0
#: a call is abnormally slow when it takes this many times the usual, and at least a second
SLOW_FACTOR, SLOW_AT_LEAST_S = 3.0, 1.0
#: A call hangs after so many seconds and so many times the longest that was served, in proportion to its size. It is
#: cancelled when one that began later is served: its texts are sent again in parts, before the timeout.
HANGS_S, HANGS_FACTOR, LONGEST_FADES = 5.0, 5.0, 0.99


class ServedCalls:
    """``count`` of this process, the last one ``at`` (monotonic, seconds); ``usual_s``: how long one takes."""

    def __init__(self, *, known: bool) -> None:
        """``known``: an earlier process was served by this model."""
        self.count = 0
        self.at = -inf
        self.usual_s = 0.0
        self._known = known
        self._longest_s = 0.0
        #: the latest start of a served call
        self._began_at = -inf

    def add(self, began_at: float, now: float) -> None:
        """One more was served."""
        took_s = now - began_at
        self.usual_s = took_s if self.usual_s == 0.0 else 0.8 * self.usual_s + 0.2 * took_s
        self._longest_s = max(took_s, LONGEST_FADES * self._longest_s)
        self._began_at = max(self._began_at, began_at)
        self.count, self.at = self.count + 1, now

    @property
    def ever(self) -> bool:
        """Has the model been served, by this process or an earlier one?"""
        return self._known or self.count > 0

    def lately(self, now: float) -> bool:
        """Has the model served a call within ``TRUSTED_S``?"""
        return now - self.at < max(TRUSTED_S, TRUSTED_FACTOR * self.usual_s)

    def slow_at(self, began_at: float) -> float:
        """The moment from which a call counts as abnormally slow."""
        return began_at + max(SLOW_AT_LEAST_S, SLOW_FACTOR * self.usual_s)

    def hangs_after_s(self, times_larger: float) -> float:
        """Seconds after which a call hangs; ``times_larger`` than those that were served."""
        return max(HANGS_S, HANGS_FACTOR * self._longest_s * times_larger) if self._longest_s else inf

    def overtook(self, began_at: float) -> bool:
        """Was a call served that began after this moment?"""
        return self._began_at > began_at
