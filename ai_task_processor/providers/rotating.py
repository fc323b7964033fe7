"""A provider whose API key may be replaced while the process runs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar, TypeVar

from ai_task_processor.core.checks import Check, Remote
from ai_task_processor.core.errors import Unauthorized
from ai_task_processor.core.ports import Embeddings, Provider
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.net.services import Services
from ai_task_processor.providers import MAX_ANSWER_BYTES, OPENAI_URL
from ai_task_processor.providers.checks import try_models
from ai_task_processor.providers.deferred import DeferredProvider
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.providers.settings import ModelSettings

T = TypeVar("T")


class RotatingProvider(Provider):
    """Makes a new provider for each key. A call refused with 401 or 403 is repeated once if the key was replaced."""

    settings_groups: ClassVar = (ModelSettings,)

    def __init__(self, make: Callable[[], Provider], secrets: Secrets, url: str = OPENAI_URL) -> None:
        self._make = make
        self._secrets = secrets
        self._key = secrets[ModelSettings].api_key
        self._provider = make()
        self._remote = Remote("model API", "OPENAI_BASE_URL", url)
        self.name = self._provider.name

    @classmethod
    def build(cls, services: Services) -> Provider | None:
        """OpenAI, or a compatible server; mock vectors with the placeholder key, None without key and server."""
        model = services.settings[ModelSettings]
        if model.mode == "mock":
            return MockProvider(model.embedding_dimensions)
        if model.mode == "none":
            return None
        url = model.base_url or OPENAI_URL
        client = services.client(url, 64, max_answer_bytes=MAX_ANSWER_BYTES)

        def make() -> Provider:
            from ai_task_processor.providers.openai_api import OpenAIProvider

            return OpenAIProvider(services.secrets[ModelSettings], client, services.metrics)

        return cls(lambda: DeferredProvider("openai", make), services.secrets, url)

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self.aclose()

    def remotes(self) -> Sequence[Remote]:
        return (self._remote,)

    def checks(self) -> Sequence[Check]:
        work = partial(try_models, self, self._secrets[ModelSettings], self._remote)
        return (Check("model", work, self._remote.setting, (self._remote,)),)

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
        """The provider with the current key. A replaced one stays open: its calls go on, and the client is shared."""
        if self._secrets[ModelSettings].api_key != self._key:
            self._key = self._secrets[ModelSettings].api_key
            self._provider = self._make()
        return self._provider
