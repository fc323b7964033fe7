"""The real clock. Everything that needs time is handed one, so that tests can hand another."""

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
