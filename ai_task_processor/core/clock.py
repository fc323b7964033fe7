"""The real clock. A clock is always an argument, so that tests can pass another one."""

import asyncio
import time
from datetime import UTC, datetime


class SystemClock:
    """``ports.Clock`` over the operating system."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
