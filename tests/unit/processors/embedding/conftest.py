"""For all tests of micro-batching."""

from collections.abc import AsyncIterator

import pytest

from ai_task_processor.processors.embedding.cache import VectorCache
from tests.unit.conftest import FakeClock
from tests.unit.processors.embedding.house import House


@pytest.fixture
async def house(clock: FakeClock) -> AsyncIterator[House]:
    async with House(clock).open() as made:
        yield made


@pytest.fixture
async def remembering(clock: FakeClock) -> AsyncIterator[House]:
    """One with a cache."""
    async with House(clock, cache=VectorCache(2**20)).open() as made:
        yield made
