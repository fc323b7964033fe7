"""Texts for which a model fails again and again while it serves others: sent alone, later and later, and named."""

from collections import OrderedDict
from dataclasses import dataclass

#: the first and the longest time that such a text is left alone, seconds; doubled with each further failure
FIRST_S, LONGEST_S = 15.0, 900.0
#: no more are remembered: those that failed longest ago are forgotten
MOST = 10_000


@dataclass(slots=True)
class Offence:
    """``until``: not tried before, on the monotonic clock."""

    times: int
    until: float
    reason: str


class Offenders:
    """By the key of a text; no text is kept."""

    def __init__(self) -> None:
        self._offences: OrderedDict[bytes, Offence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._offences)

    def get(self, key: bytes) -> Offence | None:
        return self._offences.get(key) if self._offences else None

    def again(self, key: bytes, now: float, reason: str) -> float:
        """The text has failed alone once more; answers the seconds that it is left alone now."""
        offence = self._offences.pop(key, None) or Offence(0, 0.0, reason)
        delay_s = min(FIRST_S * 2.0 ** min(offence.times, 16), LONGEST_S)
        self._offences[key] = Offence(offence.times + 1, now + delay_s, reason)
        if len(self._offences) > MOST:
            self._offences.popitem(last=False)
        return delay_s

    def clear(self, key: bytes) -> None:
        """The text was served, or refused for good."""
        if self._offences:
            self._offences.pop(key, None)

    def reason(self) -> str | None:
        """How many there are and how the last one failed; None when there is none."""
        if not self._offences:
            return None
        last = next(reversed(self._offences.values()))
        return f"{len(self._offences)} texts fail alone while others are served, last: {last.reason}"
