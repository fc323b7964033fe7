"""What isolated runs may cost: a fifth of the slots' time, earned before it is spent. Values and a clock.

An isolated run needs the process for itself: what runs is waited for (the drain), nothing else starts, then one
task runs. The cost is counted in seconds of all slots: one second with 12 of 16 slots idle costs 0.75 s.
"""

from collections.abc import Collection
from dataclasses import dataclass

from ai_task_processor.core.ports import Clock
from ai_task_processor.models.task import Claim

#: the part of the time since the start that isolation may cost
SHARE = 0.2
#: what a drain is expected to cost, in parts of the longest time that a task takes: the slots end one after the other
DRAIN_COST = 0.5
#: The longest attempt is forgotten by this factor with each attempt that ends: one long task among short ones counts
#: for the next few hundred.
FORGETTING = 0.98
#: savings end at so many seconds above the next need: no stretch is long because nothing was isolated before it
SAVINGS_S = 10.0


class IsolationBudget:
    """Earns ``SHARE`` of the time, and learns how long tasks take here."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._left_s = 0.0
        self._longest_s = 0.0

    @property
    def overdrawn(self) -> bool:
        self._earn()
        return self._left_s < 0.0

    def ended(self, took_s: float) -> None:
        """An attempt has left its slot after so long."""
        self._longest_s = max(took_s, FORGETTING * self._longest_s)

    def affords(self, run_s: float, running_s: Collection[float]) -> bool:
        """Is there enough for an isolated run that takes at least ``run_s``, and the drain before it?

        ``running_s``: the ages of what runs. The run is expected to take as long as the longest attempt that is
        known of. While nothing is known, nothing is affordable.
        """
        self._earn()
        return 0.0 < self._need_s(run_s, running_s) <= self._left_s

    def bound(self, run_s: float, running_s: Collection[float]) -> None:
        """Keep no more than the most expensive run needs, and ``SAVINGS_S``."""
        self._earn()
        self._left_s = min(self._left_s, self._need_s(run_s, running_s) + SAVINGS_S)

    def spend(self, seconds: float) -> None:
        """So much was lost."""
        self._left_s -= seconds

    def _need_s(self, run_s: float, running_s: Collection[float]) -> float:
        longest_s = max(self._longest_s, run_s, *running_s)
        return longest_s * (1.0 + (DRAIN_COST if running_s else 0.0))

    def _earn(self) -> None:
        now = self._clock.monotonic()
        self._left_s, self._at = self._left_s + SHARE * (now - self._at), now


@dataclass(slots=True)
class Stretch:
    """Isolated runs, one after the other. ``claims`` wait for theirs; ``running`` is how many tasks ran ``at`` last.

    ``spare``: there was nothing else to do when it began. ``runs``: how many have begun, 0 while it drains.
    """

    claims: list[Claim]
    running: int
    spare: bool
    at: float
    runs: int = 0

    @property
    def goes_on(self) -> bool:
        """Is there one more, as far as the stretch alone can say?"""
        return bool(self.claims) and not (self.spare and self.runs)

    def cost_s(self, now: float, running: int, slots: int) -> float:
        """Seconds of all slots that were lost since the last call."""
        idle = 0.0 if self.spare else 1.0 - min(self.running, slots) / slots
        seconds, self.at, self.running = now - self.at, now, running
        return seconds * idle
