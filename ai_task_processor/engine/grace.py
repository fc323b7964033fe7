"""The grace period: from the first signal to the end of everything."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ai_task_processor.core.deadline import Deadline, Stalls, stalls_of


class GracePeriod:
    """No limit until ``begin``; from then on a ``share`` block is cancelled when its part is over.

    A stall (SIGSTOP, a paused machine) does not count, as in every ``Deadline``.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began_at: float | None = None
        self._stalls: Stalls | None = None
        self._stalled_s = 0.0
        self._shares: dict[Deadline, float] = {}

    @property
    def begun(self) -> bool:
        return self._began_at is not None

    def begin(self) -> None:
        """To be called in the event loop, once."""
        loop = asyncio.get_running_loop()
        self._stalls = stalls_of(loop)
        self._began_at, self._stalled_s = loop.time(), self._stalls.total_s
        for deadline, part in self._shares.items():
            deadline.strike_in(part * self.seconds)

    def left_s(self, part: float = 1.0) -> float:
        """Seconds until this part (0 to 1) is over; below 0 when it was over before."""
        if self._began_at is None or self._stalls is None:
            return math.inf
        past_s = asyncio.get_running_loop().time() - self._began_at
        return part * self.seconds - past_s + self._stalls.total_s - self._stalled_s

    @asynccontextmanager
    async def share(self, part: float) -> AsyncIterator[None]:
        """Cancel the block when this part (0 to 1) of the grace period is over. Raises ``TimeoutError``."""
        with Deadline(max(0.0, self.left_s(part))) as deadline:
            self._shares[deadline] = part
            try:
                yield
            finally:
                del self._shares[deadline]
