"""Texts for which a model fails again and again while it serves others: sent alone, later and later, and named.

A text that was the probe of a model that is paused, in vain, is remembered, too: it may be at no fault, but the next
probe must be another one.
"""

from collections import OrderedDict
from dataclasses import dataclass

#: the first and the longest time that such a text is left alone, seconds; doubled with each further failure
FIRST_S, LONGEST_S = 15.0, 900.0
#: no more are remembered: those that failed longest ago are forgotten
MOST = 10_000
#: so many tasks are named
NAMED = 5


@dataclass(slots=True)
class Offence:
    """``times`` that it was set aside; ``until``: not tried before, on the monotonic clock; ``task``: who had it."""

    times: int
    until: float
    reason: str
    task: str = ""


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
        self._add(key, Offence(offence.times + 1, now + delay_s, reason, offence.task))
        return delay_s

    def probed(self, key: bytes, reason: str) -> None:
        """The text was a probe in vain."""
        if key not in self._offences:
            self._add(key, Offence(0, 0.0, reason))

    def name(self, key: bytes, task: str) -> None:
        """Who has brought the text."""
        offence = self._offences.get(key)
        if offence is not None:
            offence.task = task

    def _add(self, key: bytes, offence: Offence) -> None:
        self._offences[key] = offence
        if len(self._offences) > MOST:
            self._offences.popitem(last=False)

    def clear(self, key: bytes) -> None:
        """The text was served, or refused for good."""
        if self._offences:
            self._offences.pop(key, None)

    def reason(self) -> str | None:
        """How many there are, of which tasks, and how the last one failed; None when there is none."""
        aside = [offence for offence in self._offences.values() if offence.times]
        if not aside:
            return None
        named = ", ".join([offence.task for offence in reversed(aside) if offence.task][:NAMED])
        return f"{len(aside)} texts fail alone while others are served, last: {aside[-1].reason}" + (
            f" ({named})" if named else ""
        )
