"""A provider that is made when it is first needed, or prepared for."""

import asyncio
from collections.abc import Callable, Sequence

from ai_task_processor.core.ports import Embeddings, Provider


class DeferredProvider(Provider):
    """``ports.Provider`` in front of one whose library takes the better part of a second to import.

    Old results must not wait for that after a restart. ``make`` runs once, in a thread.
    """

    def __init__(self, name: str, make: Callable[[], Provider]) -> None:
        self.name = name
        self._make = make
        self._made: Provider | None = None
        self._lock = asyncio.Lock()

    async def prepare(self) -> None:
        await (await self._provider()).prepare()

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        return await (await self._provider()).embed(texts, model)

    async def check(self, model: str) -> None:
        await (await self._provider()).check(model)

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.aclose()

    async def _provider(self) -> Provider:
        async with self._lock:
            if self._made is None:
                self._made = await asyncio.to_thread(self._make)
            return self._made
