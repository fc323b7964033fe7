"""A provider that is constructed when it is first used or prepared."""

import asyncio
from collections.abc import Callable, Sequence

from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Embeddings, Provider


class DeferredProvider(Provider):
    """Wraps a provider whose library takes most of a second to import, so that delivery after a restart starts at once.

    ``make`` runs once, in a thread.
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

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        return await (await self._provider()).complete(request)

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
