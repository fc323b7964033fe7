"""OpenAI, and whatever speaks its API: embeddings through the official client, every answer checked.

The client's own retries are off (they would multiply with ours and sleep inside a slot), its
environment variables too. Answers are decoded here: the client lets NaN, missing and misindexed
vectors pass, and takes a page of HTML for an answer.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import httpx2
import openai

from ai_task_processor import codec
from ai_task_processor.errors import (
    Ambiguous,
    InputRefused,
    InvalidAnswer,
    Misconfigured,
    ModelRefused,
    NeighbourError,
    QuotaExhausted,
    TaskError,
    Throttled,
    Unauthorized,
    Unsent,
)
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Usage, Vector
from ai_task_processor.ports import Embeddings
from ai_task_processor.settings import ModelSettings
from ai_task_processor.transport import deadline, status_error, translate

#: 2,048 vectors of 3,072 floats in base64 are 34 MB; a compatible server may answer digits instead
MAX_ANSWER_BYTES = 128 * 2**20
CHECK_TIMEOUT_S = 15.0
OPENAI_URL = "https://api.openai.com/v1"
OPENAI_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
_REQUEST_PARAMETERS = frozenset({"model", "dimensions", "encoding_format", "user"})
_OUTCOMES: Mapping[type[Exception], str] = {
    InputRefused: "refused_input",
    Throttled: "throttled",
    Unauthorized: "unauthorized",
    QuotaExhausted: "quota",
    Misconfigured: "misconfigured",
    ModelRefused: "misconfigured",
    InvalidAnswer: "invalid_answer",
    Unsent: "network_error",
    Ambiguous: "timeout",
}

T = TypeVar("T")


class OpenAIProvider:
    """``ports.Provider`` over an OpenAI-compatible API. The HTTP client is handed in and closed with it."""

    name = "openai"

    def __init__(self, settings: ModelSettings, client: httpx2.AsyncClient, metrics: Metrics) -> None:
        key = settings.api_key.get_secret_value() if settings.api_key else "not-needed"
        self._api = openai.AsyncOpenAI(
            api_key=key,
            base_url=settings.base_url or OPENAI_URL,
            http_client=client,
            max_retries=0,
            timeout=None,
            default_headers={"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()},  # type: ignore[dict-item]  # documented way to leave a header out
        )
        self._official = settings.base_url is None
        self._dimensions = settings.embedding_dimensions
        self._timeout_s = settings.timeout_s
        self._metrics = metrics

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        started_at = time.perf_counter()
        outcome = "other"
        try:
            answer = await self._request(
                lambda: self._api.embeddings.with_raw_response.create(
                    input=list(texts),
                    model=model,
                    encoding_format="base64",
                    dimensions=openai.omit if self._dimensions is None else self._dimensions,
                ),
                self._timeout_s,
            )
            self._note_limits(answer.headers)
            embeddings = parse_embeddings(answer.content, len(texts), self._expected(model))
            outcome = "ok"
        except (NeighbourError, TaskError) as error:
            outcome = _OUTCOMES.get(type(error), "server_error")
            raise
        finally:
            self._metrics.model_request(model=model, outcome=outcome, duration_s=time.perf_counter() - started_at)
        usage = embeddings.usage
        self._metrics.model_tokens(model=model, prompt=usage.prompt_tokens, completion=usage.completion_tokens)
        return embeddings

    async def check(self, model: str) -> None:
        """Ask for the model's card: it costs nothing and needs a valid key. Servers without such a page pass."""
        try:
            await self._request(lambda: self._api.models.with_raw_response.retrieve(model), CHECK_TIMEOUT_S)
        except Misconfigured as error:
            if error.status not in (404, 405) or self._official:
                raise

    async def aclose(self) -> None:
        await self._api.close()

    def _expected(self, model: str) -> int | None:
        if self._dimensions is not None:
            return self._dimensions
        return OPENAI_DIMENSIONS.get(model) if self._official else None

    async def _request(self, call: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        try:
            async with deadline(timeout_s):
                return await call()
        except openai.APIStatusError as error:
            raise classify(error.response, error.body) from error
        except openai.APIError as error:
            cause = error.__cause__ or error.__context__
            raise (translate(cause) if cause is not None else InvalidAnswer(type(error).__name__)) from error

    def _note_limits(self, headers: Mapping[str, str]) -> None:
        for kind in ("requests", "tokens"):
            left = headers.get(f"x-ratelimit-remaining-{kind}", "")
            if left.isascii() and left.isdigit():
                self._metrics.ratelimit_remaining(kind, float(left[:15]))


def classify(response: httpx2.Response, body: object) -> NeighbourError | TaskError:
    """Whose fault a refusal of the model API is. ``body``: the error object, as the client unwrapped it."""
    status = response.status_code
    own = isinstance(body, Mapping) and isinstance(body.get("message"), str)
    code = str(body.get("code") or body.get("type") or "") if isinstance(body, Mapping) else ""
    param = str(body.get("param") or "") if isinstance(body, Mapping) else ""
    message = str(body.get("message", "")) if isinstance(body, Mapping) else ""
    if code == "insufficient_quota" or (isinstance(body, Mapping) and body.get("type") == "insufficient_quota"):
        return QuotaExhausted("the provider's quota is used up (insufficient_quota)", status=status)
    if code == "model_not_found" or (status == 404 and own and "model" in message.lower()):
        return ModelRefused("the provider does not know this model", status=status)
    if status in (400, 413, 422) and own:
        if param in _REQUEST_PARAMETERS:
            return ModelRefused(f"the provider refuses the parameter {param}", status=status)
        too_long = code == "context_length_exceeded" or "maximum" in message.lower()
        return InputRefused("text_too_long" if too_long else "input_refused", "the model refuses this text")
    return status_error(response, "the model API")


def parse_embeddings(content: bytes, count: int, dimensions: int | None) -> Embeddings:
    """Check an answer: as many vectors as texts, each index once, one dimension, finite, not zero.

    A single unusable vector becomes None; raises ``InvalidAnswer`` when the answer as a whole is not to
    be trusted. Without an expected dimension the most frequent one of the answer is it.
    """
    try:
        answer = codec.loads(content)
    except ValueError as error:
        raise InvalidAnswer("the model API did not answer JSON") from error
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or len(data) != count:
        raise InvalidAnswer("the model API answered another number of vectors than texts")
    vectors: list[Vector | None] = [None] * count
    seen: set[int] = set()
    for item in data:
        index = item.get("index") if isinstance(item, dict) else None
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count or index in seen:
            raise InvalidAnswer("the model API answered a vector with a wrong index")
        seen.add(index)
        vectors[index] = codec.vector(item.get("embedding"), dimensions)
    if dimensions is None:
        vectors = _of_one_dimension(vectors)
    if not any(vectors):
        raise InvalidAnswer("the model API answered no usable vector")
    return Embeddings(vectors, _usage(answer.get("usage") if isinstance(answer, dict) else None))


def _of_one_dimension(vectors: list[Vector | None]) -> list[Vector | None]:
    sizes = Counter(vector.dimensions for vector in vectors if vector)
    usual = sizes.most_common(1)[0][0] if sizes else 0
    return [vector if vector and vector.dimensions == usual else None for vector in vectors]


def _usage(value: object) -> Usage:
    tokens = value.get("prompt_tokens") if isinstance(value, dict) else None
    return Usage(tokens if isinstance(tokens, int) and 0 <= tokens < 2**53 else 0)
