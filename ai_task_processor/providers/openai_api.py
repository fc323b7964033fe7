"""Embeddings of OpenAI and compatible servers; every answer is checked.

Answers are decoded here, because the client accepts NaN, missing and misindexed vectors and a page of HTML.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ai_task_processor.core.errors import CallRefused, InvalidAnswer, ModelRefused, RemoteError
from ai_task_processor.core.ports import Embeddings, Provider
from ai_task_processor.net.client import HttpClient
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers import NATIVE_DIMENSIONS
from ai_task_processor.providers.answers import parse_embeddings, parse_limits
from ai_task_processor.providers.openai_client import OpenAIClient, refusal_error
from ai_task_processor.providers.settings import ModelSettings

#: the most models whose form of request is stored
MAX_MODELS = 256
#: shortest interval between trials of other forms of a request, while none was served, seconds
SHAPES_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of a request: the encoding of vectors, and whether ``dimensions`` is sent."""

    encoding: str
    dimensions: bool


class OpenAIProvider(Provider):
    """``ports.Provider`` over an OpenAI-compatible API. It closes the HTTP client that it is given."""

    name = "openai"

    def __init__(self, settings: ModelSettings, client: HttpClient, metrics: Metrics) -> None:
        self._api = OpenAIClient(
            settings.api_key, settings.base_url, settings.timeout_s, client, metrics, settings.prices
        )
        self._url = self._api.url("/embeddings")
        self._dimensions = settings.embedding_dimensions
        asks = (False,) if settings.embedding_dimensions is None else (True, False)
        self._shapes = [Shape(encoding, dimensions) for dimensions in asks for encoding in ("base64", "float")]
        #: by model: the form that was served, and when all others failed
        self._served: dict[str, Shape] = {}
        self._tried_at: dict[str, float] = {}

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        """If a model refuses the usual form of request and has served none yet, the other forms are tried once each;
        the one that it serves is stored."""
        shape = self._served.get(model)
        if shape is not None:
            try:
                return await self._embed(texts, model, shape)
            except ModelRefused:
                del self._served[model]  # it may be another model by now
                raise
        try:
            embeddings = await self._embed(texts, model, shape := self._shapes[0])
        except (CallRefused, ModelRefused, InvalidAnswer) as error:
            if time.monotonic() - self._tried_at.get(model, -SHAPES_AGAIN_S) < SHAPES_AGAIN_S:
                raise
            embeddings, shape = await self._embed_otherwise(texts, model, error)
        if len(self._served) >= MAX_MODELS:
            del self._served[next(iter(self._served))]
        self._served[model] = shape
        self._tried_at.pop(model, None)
        return embeddings

    async def _embed_otherwise(
        self, texts: Sequence[str], model: str, refusal: RemoteError
    ) -> tuple[Embeddings, Shape]:
        for shape in self._shapes[1:]:
            try:
                return await self._embed(texts, model, shape), shape
            except (CallRefused, ModelRefused, InvalidAnswer):
                continue
        if len(self._tried_at) >= MAX_MODELS:
            self._tried_at.clear()
        self._tried_at[model] = time.monotonic()
        raise refusal

    async def _embed(self, texts: Sequence[str], model: str, shape: Shape) -> Embeddings:
        with self._api.counted(model):
            answer = await self._api.post(self._url, self._body(texts, model, shape))
            if not answer.is_success:
                raise refusal_error(answer)
            embeddings = parse_embeddings(answer.content, len(texts), self._expected(model))
        self._api.charged(model, embeddings.usage)
        return replace(embeddings, limits=parse_limits(answer.headers))

    def _body(self, texts: Sequence[str], model: str, shape: Shape) -> dict[str, object]:
        body: dict[str, object] = {"input": list(texts), "model": model, "encoding_format": shape.encoding}
        return {**body, "dimensions": self._dimensions} if shape.dimensions else body

    async def check(self, model: str) -> None:
        await self._api.check(model)

    async def aclose(self) -> None:
        await self._api.aclose()

    def _expected(self, model: str) -> int | None:
        if self._dimensions is not None:
            return self._dimensions
        return NATIVE_DIMENSIONS.get(model) if self._api.official else None
