"""The grace period: from the first signal to the end of everything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class GracePeriod:
    """Endless until ``begin``; from then on what stands in ``share`` is cut when its part is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began_at: float | None = None
        self._shares: dict[asyncio.Timeout, float] = {}

    @property
    def begun(self) -> bool:
        return self._began_at is not None

    def begin(self) -> None:
        """To be called in the event loop, once."""
        self._began_at = asyncio.get_running_loop().time()
        for timeout, part in self._shares.items():
            timeout.reschedule(self._end_of(part))

    @asynccontextmanager
    async def share(self, part: float) -> AsyncIterator[None]:
        """Cancels what stands inside when this part (0 to 1) of the grace period is over: ``TimeoutError``."""
        async with asyncio.timeout_at(self._end_of(part)) as timeout:
            self._shares[timeout] = part
            try:
                yield
            finally:
                del self._shares[timeout]

    def _end_of(self, part: float) -> float | None:
        return None if self._began_at is None else self._began_at + part * self.seconds
