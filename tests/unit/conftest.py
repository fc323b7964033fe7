"""Virtual time for unit tests: nobody waits, everything that sleeps wakes in the right order."""

import asyncio
import heapq
import math
from datetime import UTC, datetime, timedelta
from itertools import count

import httpx2
import pytest
import respx

from ai_task_processor.net import client
from tests.mock_http import MockPool

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
#: turns of the event loop with nothing left to run before time moves on
QUIET_TURNS = 3


class FakeClock:
    """``ports.Clock`` whose time moves on by itself, to the next sleeper, when nothing else can run.

    ``slept`` holds every wish in the order it was made. What runs in a thread is not waited for.
    """

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._time = 1_000.0
        self._wall = timedelta()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        self._watching = False

    def monotonic(self) -> float:
        return self._time

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._time) + self._wall

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = max(self._time + seconds, math.nextafter(self._time, math.inf))  # time moves, however short the sleep
        heapq.heappush(self._sleepers, (due, next(self._order), future))
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_soon(self._watch, 0)
        await future

    def advance(self, seconds: float) -> None:
        """Move time on now; whoever is due wakes at the next await."""
        self._time += seconds
        self._wake()

    def jump(self, seconds: float) -> None:
        """Move the wall clock alone, as an administrator or NTP does."""
        self._wall += timedelta(seconds=seconds)

    def _watch(self, quiet: int) -> None:
        self._wake()
        self._watching = bool(self._sleepers)
        if not self._watching:
            return
        loop = asyncio.get_running_loop()
        quiet = 0 if getattr(loop, "_ready") else quiet + 1  # noqa: B009  asyncio has no public word for "nothing to run"
        if quiet >= QUIET_TURNS:
            quiet, self._time = 0, max(self._time, self._sleepers[0][0])
            self._wake()
        loop.call_soon(self._watch, quiet)

    def _wake(self) -> None:
        while self._sleepers and (self._sleepers[0][0] <= self._time or self._sleepers[0][2].done()):
            *_, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)


@pytest.fixture
def clock() -> FakeClock:
    """A clock of its own for every test."""
    return FakeClock()


@pytest.fixture
def httpx2_mock(httpx2_mock: respx.Router, monkeypatch: pytest.MonkeyPatch) -> respx.Router:
    """respx sees what goes through httpx2's own transport: in these tests everything does."""

    def pool(*_: object) -> MockPool:
        return MockPool(httpx2.AsyncHTTPTransport(verify=False, trust_env=False))

    monkeypatch.setattr(client, "Pool", pool)
    return httpx2_mock
