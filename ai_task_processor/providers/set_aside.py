"""Texts that are set aside: a model fails for them while it serves others. Each failure doubles the delay.

A text with which the probe of a paused model failed is stored as well, with 0 failures: it may not be at fault, but
the next probe must be another text.
"""

from collections import OrderedDict
from dataclasses import dataclass

#: the first and the longest delay of such a text, seconds; doubled with each further failure
FIRST_S, LONGEST_S = 15.0, 900.0
#: the most texts that are stored: those that failed longest ago are dropped
MOST = 10_000
#: the most tasks that ``reason`` names
NAMED = 5


@dataclass(slots=True)
class AtFault:
    """``times`` that it was set aside; ``until``: not sent before, on the monotonic clock; ``task``: whose text."""

    times: int
    until: float
    reason: str
    task: str = ""


class SetAsideTexts:
    """By the key of a text; texts are not stored."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[bytes, AtFault] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> AtFault | None:
        return self._by_key.get(key) if self._by_key else None

    def again(self, key: bytes, now: float, reason: str) -> float:
        """The text has failed by itself once more; returns the seconds until it may be sent again."""
        entry = self._by_key.pop(key, None) or AtFault(0, 0.0, reason)
        delay_s = min(FIRST_S * 2.0 ** min(entry.times, 16), LONGEST_S)
        self._add(key, AtFault(entry.times + 1, now + delay_s, reason, entry.task))
        return delay_s

    def probed(self, key: bytes, reason: str) -> None:
        """A probe with this text failed."""
        if key not in self._by_key:
            self._add(key, AtFault(0, 0.0, reason))

    def name(self, key: bytes, task: str) -> None:
        """The task whose text it is."""
        entry = self._by_key.get(key)
        if entry is not None:
            entry.task = task

    def _add(self, key: bytes, entry: AtFault) -> None:
        self._by_key[key] = entry
        if len(self._by_key) > MOST:
            self._by_key.popitem(last=False)

    def clear(self, key: bytes) -> None:
        """The text was served, or refused for good."""
        if self._by_key:
            self._by_key.pop(key, None)

    def reason(self) -> str | None:
        """How many are set aside, of which tasks, and how the last one failed; None when none is."""
        aside = [entry for entry in self._by_key.values() if entry.times]
        if not aside:
            return None
        named = ", ".join([entry.task for entry in reversed(aside) if entry.task][:NAMED])
        return f"{len(aside)} texts fail alone while others are served, last: {aside[-1].reason}" + (
            f" ({named})" if named else ""
        )
