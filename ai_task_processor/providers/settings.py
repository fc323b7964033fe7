"""The settings of the model side."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, Json, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ai_task_processor.core.groups import SENTENCES, Bytes, Group, Lower, Printable, Seconds, Url, setting
from ai_task_processor.core.toml_file import TomlFile
from ai_task_processor.providers import NATIVE_DIMENSIONS
from ai_task_processor.providers.prices import Prices

PLACEHOLDER_KEY = "your_openai_api_key_here"
_PRICES_NOTE = """For each, by the provider's name and for a million tokens: prompt, cached (of the prompt, out of the
provider's cache; the price of the prompt if not set) and completion (not for embeddings).
  currency = "USD"
  [models."gpt-4.1-mini"]
  prompt = 0.40
  cached = 0.10
  completion = 1.60"""
_WARNINGS: Mapping[str, str] = {
    "mock": "OPENAI_API_KEY is the placeholder: mock vectors are made, no model is called",
    "none": "OPENAI_API_KEY and OPENAI_BASE_URL are not set: embedding tasks stay pending",
}


def _mode(provider: str, key: SecretStr | None, base_url: str | None) -> str:
    """The provider that is called: ``mock`` with the placeholder, too; ``none`` without key and server."""
    if provider != "openai":
        return provider
    if key is not None and key.get_secret_value() == PLACEHOLDER_KEY:
        return "mock"
    return "openai" if key or base_url else "none"


def _prices(path: str) -> Prices:
    """What the file says. A path that names none is not shown: it may be a secret at the wrong place."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a PEM
        raise ValueError("names no file that can be read: correct the path")
    problems: list[str] = []
    prices = TomlFile(Path(path), "a price table", problems).parsed(Prices)
    if prices is None:
        raise PydanticCustomError(SENTENCES, "\n".join(f"MODEL_PRICES: {problem}" for problem in problems))
    return prices


class ModelSettings(Group):
    """The model API: its address, key, models, timeout and retries; the prices are those of chat models, too."""

    section = "Model"

    provider: str = setting("EMBEDDING_PROVIDER", "the name of the provider of embeddings", "openai")
    api_key: Annotated[SecretStr | None, Printable] = setting(
        "OPENAI_API_KEY",
        f"the key of the model API; {PLACEHOLDER_KEY} switches to mock vectors",
        example=PLACEHOLDER_KEY,
        note=("Remove the line to run without a key (with OPENAI_BASE_URL, or to leave embedding tasks pending)."),
    )
    base_url: Url | None = setting(
        "OPENAI_BASE_URL",
        "the base URL of a compatible server; OpenAI's if not set",
        note="For example Ollama, vLLM, OpenRouter, LiteLLM.",
    )
    timeout_s: Seconds = setting("OPENAI_TIMEOUT", "seconds for one model call, in total", "60")
    embedding_dimensions: int | None = setting(
        "EMBEDDING_DIMENSIONS",
        "the length of a vector, asked for and checked; the model's own if not set",
        ge=1,
        le=65536,
    )
    embedding_result: Annotated[Literal["vector", "object"], Lower] = setting(
        "EMBEDDING_RESULT", "what is sent as result: vector (plain), or object (with model and usage)", "vector"
    )
    aliases: Json[dict[str, Annotated[str, Field(min_length=1)]]] = setting(
        "MODEL_ALIASES", 'a JSON object of texts, for example {"name in the task": "name at the provider"}', "{}"
    )
    default_embedding_model: str = setting(
        "DEFAULT_EMBEDDING_MODEL", "the model for tasks that name none", "text-embedding-3-small"
    )
    max_retries: int = setting("MAX_RETRIES", "attempts after the first for one model call", "3", ge=0, le=20)
    retry_backoff_factor: Annotated[float, Field(gt=0, le=60)] = setting(
        "RETRY_BACKOFF_FACTOR", "the base of the exponential backoff, in seconds", "2.0"
    )
    vector_cache_bytes: Bytes = setting(
        "VECTOR_CACHE_BYTES",
        "the memory for vectors of texts that may come again; bytes, or like 64MiB; 0 for none",
        "2MiB",
        ge=0,
        le=2**40,
    )
    prices: Annotated[Prices, BeforeValidator(_prices)] | None = setting(
        "MODEL_PRICES",
        "a TOML file with the prices of models, for a metric of what calls cost",
        note=_PRICES_NOTE,
    )

    @field_validator("base_url", mode="before")
    @classmethod
    def _called(cls, url: object, info: ValidationInfo) -> object:
        """The provider ``mock`` calls no server: its URL is not read."""
        return None if info.data.get("provider") == "mock" else url

    @property
    def mode(self) -> str:
        """The provider that is called: ``mock`` with the placeholder, too; ``none`` without key and server."""
        return _mode(self.provider, self.api_key, self.base_url)

    def counted_models(self) -> list[str]:
        """The models with metric series of their own; the rest is counted as ``other``."""
        return list(dict.fromkeys((self.default_embedding_model, *self.aliases.values(), *NATIVE_DIMENSIONS)))[:3]

    def checked_models(self) -> list[str]:
        """The models that ``doctor`` asks for, by the provider's names."""
        default = self.aliases.get(self.default_embedding_model, self.default_embedding_model)
        return list(dict.fromkeys((default, *self.aliases.values())))

    def vector_length(self, name: str) -> tuple[int | None, int | None]:
        """The dimension of a model's vectors, if it is known, and the one that is usual for its name."""
        native = NATIVE_DIMENSIONS.get(name)
        known = self.embedding_dimensions or (native if self.base_url is None else None)
        return (known or native or 1536 if self.mode == "mock" else known), native

    def warnings(self) -> Iterator[str]:
        yield from super().warnings()
        if self.provider == "openai" and self.mode in _WARNINGS:
            yield _WARNINGS[self.mode]

    def renewed(self, fresh: Self) -> Self:
        """A key that is added or removed changes the mode: that needs a restart."""
        return super().renewed(fresh) if fresh.mode == self.mode else self


class ChatSettings(Group):
    """Where chat goes, and its models and limits. Address and key are those of ``ModelSettings`` if not set."""

    section = "Chat"

    provider: str = setting("CHAT_PROVIDER", "the name of the provider of chat models", "openai")
    own_api_key: Annotated[SecretStr | None, Printable] = setting(
        "CHAT_API_KEY", "the key of the API for chat; OPENAI_API_KEY if not set"
    )
    api_key_of_model: Annotated[SecretStr | None, Printable] = setting(
        "OPENAI_API_KEY",
        f"the key of the model API; {PLACEHOLDER_KEY} switches to mock vectors",
        example=PLACEHOLDER_KEY,
        note=("Remove the line to run without a key (with OPENAI_BASE_URL, or to leave embedding tasks pending)."),
    )
    own_base_url: Url | None = setting("CHAT_BASE_URL", "the base URL of the API for chat; OPENAI_BASE_URL if not set")
    base_url_of_model: Url | None = setting(
        "OPENAI_BASE_URL",
        "the base URL of a compatible server; OpenAI's if not set",
        note="For example Ollama, vLLM, OpenRouter, LiteLLM.",
    )
    api: Annotated[Literal["chat_completions", "responses"], Lower] = setting(
        "CHAT_API",
        "the API for chat: chat_completions, or responses (OpenAI's newer one)",
        "chat_completions",
        note="Few compatible servers have responses.",
    )
    model: str = setting("CHAT_MODEL", "the model of chat tasks that name none", "gpt-4.1-mini")
    timeout_s: Seconds = setting("CHAT_TIMEOUT", "seconds for one chat call, in total", "120")

    @property
    def api_key(self) -> SecretStr | None:
        return self.own_api_key or self.api_key_of_model

    @property
    def base_url(self) -> str | None:
        return self.own_base_url or self.base_url_of_model

    @property
    def mode(self) -> str:
        """The provider that is called: ``mock`` with the placeholder key, too; ``none`` without key and server."""
        return _mode(self.provider, self.api_key, self.base_url)

    def renewed(self, fresh: Self) -> Self:
        """A key that is added or removed changes the mode: that needs a restart."""
        return super().renewed(fresh) if fresh.mode == self.mode else self
