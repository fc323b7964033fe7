"""A provider whose API key may be replaced while the process runs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar, TypeVar

from pydantic import SecretStr

from ai_task_processor.core.checks import Check, Finding, Remote
from ai_task_processor.core.errors import Unauthorized
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Embeddings, Provider
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.net.services import Services
from ai_task_processor.providers import MAX_ANSWER_BYTES, MAX_CHAT_BYTES, OPENAI_URL
from ai_task_processor.providers.checks import remedies, try_models, warn_of_model
from ai_task_processor.providers.deferred import DeferredProvider
from ai_task_processor.providers.memory import FORMS_FILES, ModelMemory
from ai_task_processor.providers.mock import MockProvider
from ai_task_processor.providers.settings import ChatSettings, ModelSettings

#: to one model API
CONNECTIONS = 64

T = TypeVar("T")


class RotatingProvider(Provider):
    """Makes a new provider for each key. A call refused with 401 or 403 is repeated once if the key was replaced.

    ``key`` is the current one. ``own``: its server is not also that of another provider, which ``doctor`` checks.
    """

    settings_groups: ClassVar = (ModelSettings,)
    chat_groups: ClassVar = (ChatSettings,)

    def __init__(
        self,
        make: Callable[[], Provider],
        secrets: Secrets,
        key: Callable[[], SecretStr | None],
        remote: Remote,
        check: Callable[[Provider, Remote], AsyncIterator[Finding]],
        *,
        own: bool = True,
    ) -> None:
        self._make = make
        self._secrets = secrets
        self._current_key = key
        self._key = key()
        self._provider = make()
        self._remote = remote
        self._check = check
        self._own = own
        self.name = self._provider.name

    @classmethod
    def build(cls, services: Services) -> Provider | None:
        """OpenAI, or a compatible server; mock vectors with the placeholder key, None without key and server."""
        model, secrets = services.settings[ModelSettings], services.secrets
        if model.mode == "mock":
            return MockProvider(model.embedding_dimensions)
        if model.mode == "none":
            return None
        url = model.base_url or OPENAI_URL
        client = services.client(url, CONNECTIONS, max_answer_bytes=MAX_ANSWER_BYTES)

        def make() -> Provider:
            from ai_task_processor.providers.openai_api import OpenAIProvider

            return OpenAIProvider(secrets[ModelSettings], client, services.metrics)

        return cls(
            lambda: DeferredProvider("openai", make),
            secrets,
            lambda: secrets[ModelSettings].api_key,
            Remote("model API", "OPENAI_BASE_URL", url),
            lambda provider, remote: try_models(
                provider,
                secrets[ModelSettings].checked_models(),
                remote,
                remedies("OPENAI_API_KEY", "DEFAULT_EMBEDDING_MODEL, MODEL_ALIASES or OPENAI_BASE_URL"),
            ),
        )

    @classmethod
    def build_chat(cls, services: Services) -> Provider | None:
        """The same for conversations; with the placeholder key mock answers."""
        chat, secrets = services.settings[ChatSettings], services.secrets
        if chat.mode == "mock":
            return MockProvider(use="chat")
        if chat.mode == "none":
            return None
        url = chat.base_url or OPENAI_URL
        client = services.client(url, CONNECTIONS, max_answer_bytes=MAX_CHAT_BYTES)
        memory = None if services.directory is None else ModelMemory(services.directory, FORMS_FILES[chat.api])

        def make() -> Provider:
            from ai_task_processor.providers.openai_chat import OpenAIChat

            prices = services.settings[ModelSettings].prices
            return OpenAIChat(secrets[ChatSettings], client, services.metrics, memory, prices)

        setting = "OPENAI_BASE_URL" if chat.own_base_url is None else "CHAT_BASE_URL"
        embeddings = services.settings[ModelSettings].mode == "openai"
        own = bool(chat.own_base_url or chat.own_api_key or services.settings.parts.task_types or not embeddings)
        own |= chat.api == "responses"  # an endpoint of its own, which a compatible server may lack
        known = remedies("CHAT_API_KEY" if chat.own_api_key else "OPENAI_API_KEY", f"CHAT_MODEL or {setting}")
        return cls(
            lambda: DeferredProvider("openai", make),
            secrets,
            lambda: secrets[ChatSettings].api_key,
            Remote("chat API", setting, url),
            lambda provider, remote: (
                try_models(provider, [chat.model], remote, known) if own else warn_of_model(provider, chat.model)
            ),
            own=own,
        )

    def remotes(self) -> Sequence[Remote]:
        return (self._remote,) if self._own else ()

    def checks(self) -> Sequence[Check]:
        name = self._remote.name.removesuffix(" API")
        work = partial(self._check, self, self._remote)
        return (Check(name, work, self._remote.setting, self.remotes()),)

    async def prepare(self) -> None:
        await self._provider.prepare()

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        return await self._repeated(lambda provider: provider.embed(texts, model))

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        return await self._repeated(lambda provider: provider.complete(request))

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
        if self._current_key() != self._key:
            self._key = self._current_key()
            self._provider = self._make()
        return self._provider
