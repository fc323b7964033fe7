"""A provider whose key may be replaced while the process runs."""

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, TypeVar

from ai_task_processor.core.errors import Unauthorized
from ai_task_processor.core.ports import Embeddings, Provider
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.providers.settings import ModelSettings

T = TypeVar("T")


class RotatingProvider:
    """``ports.Provider``: a new one for each key. A refused call is repeated once if there is another key by then."""

    settings_groups: ClassVar = (ModelSettings,)

    def __init__(self, make: Callable[[], Provider], secrets: Secrets) -> None:
        self._make = make
        self._secrets = secrets
        self._key = secrets[ModelSettings].api_key
        self._provider = make()

    @property
    def name(self) -> str:
        return self._provider.name

    async def prepare(self) -> None:
        await self._provider.prepare()

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        return await self._repeated(lambda provider: provider.embed(texts, model))

    async def check(self, model: str) -> None:
        await self._repeated(lambda provider: provider.check(model))

    async def aclose(self) -> None:
        await self._provider.aclose()

    async def _repeated(self, call: Callable[[Provider], Awaitable[T]]) -> T:
        provider = self._current()
        try:
            return await call(provider)
        except Unauthorized:
            await self._secrets.reread()
            if self._current() is provider:
                raise
        return await call(self._provider)

    def _current(self) -> Provider:
        """The provider with the present key. One that is replaced has calls under way, and shares its client."""
        if self._secrets[ModelSettings].api_key != self._key:
            self._key = self._secrets[ModelSettings].api_key
            self._provider = self._make()
        return self._provider
