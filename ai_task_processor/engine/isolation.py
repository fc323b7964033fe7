"""The budget of isolated runs: a fifth of the slots' time, earned before it is spent. Pure but for the clock.

Before an isolated run all running tasks end (the drain) and nothing else starts; then one task runs.
The cost is counted in seconds of all slots: one second with 12 of 16 slots idle costs 0.75 s.
"""

from collections.abc import Collection
from dataclasses import dataclass

from ai_task_processor.core.ports import Clock
from ai_task_processor.models.task import Claim

#: part of the time since the start that isolation may cost
SHARE = 0.2
#: expected cost of a drain, as a part of the longest attempt: the slots become idle one after the other
DRAIN_COST = 0.5
#: decay of the longest attempt per ended attempt: one long task among short ones counts for the next few hundred
FORGETTING = 0.98
#: the budget is capped at this many seconds above the next need: a long time without isolation buys no long stretch
SAVINGS_S = 10.0


class IsolationBudget:
    """Earns ``SHARE`` of the time, and estimates how long attempts take."""

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
        """Note how long an attempt took."""
        self._longest_s = max(took_s, FORGETTING * self._longest_s)

    def affords(self, run_s: float, running_s: Collection[float]) -> bool:
        """Whether the budget covers an isolated run of at least ``run_s`` and the drain before it.

        ``running_s``: the ages of the running tasks. The run is expected to take as long as the longest known
        attempt. Before the first attempt has ended the answer is false.
        """
        self._earn()
        return 0.0 < self._need_s(run_s, running_s) <= self._left_s

    def bound(self, run_s: float, running_s: Collection[float]) -> None:
        """Cap the budget at the need of the most expensive run plus ``SAVINGS_S``."""
        self._earn()
        self._left_s = min(self._left_s, self._need_s(run_s, running_s) + SAVINGS_S)

    def spend(self, seconds: float) -> None:
        """Subtract a cost."""
        self._left_s -= seconds

    def _need_s(self, run_s: float, running_s: Collection[float]) -> float:
        longest_s = max(self._longest_s, run_s, *running_s)
        return longest_s * (1.0 + (DRAIN_COST if running_s else 0.0))

    def _earn(self) -> None:
        now = self._clock.monotonic()
        self._left_s, self._at = self._left_s + SHARE * (now - self._at), now


@dataclass(slots=True)
class Stretch:
    """Consecutive isolated runs of ``claims``. ``running``: how many tasks ran at the time ``at``, the last sample.

    ``spare``: there was nothing else to do when it began. ``runs``: runs begun so far, 0 during the drain.
    """

    claims: list[Claim]
    running: int
    spare: bool
    at: float
    runs: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether another run may follow, apart from budget and quiet time."""
        return bool(self.claims) and not (self.spare and self.runs)

    def cost_s(self, now: float, running: int, slots: int) -> float:
        """Seconds of all slots that were lost since the last call."""
        idle = 0.0 if self.spare else 1.0 - min(self.running, slots) / slots
        seconds, self.at, self.running = now - self.at, now, running
        return seconds * idle
