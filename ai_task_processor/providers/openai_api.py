"""Embeddings of OpenAI and compatible servers, through the official client; every answer is checked.

The client's retries are off, because they would multiply with those of the batcher and sleep inside a slot; so are
its environment variables. Answers are decoded here, because the client accepts NaN, missing and misindexed vectors
and a page of HTML.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import openai

from ai_task_processor.core import codec
from ai_task_processor.core.errors import (
    Ambiguous,
    CallRefused,
    InputRefused,
    InvalidAnswer,
    Misconfigured,
    ModelRefused,
    QuotaExhausted,
    RemoteError,
    TaskError,
    Throttled,
    Unauthorized,
    Unsent,
)
from ai_task_processor.core.ports import Embeddings, Provider
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import HttpClient, deadline, translate
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers import NATIVE_DIMENSIONS, OPENAI_URL
from ai_task_processor.providers.answers import amount, parse_embeddings, parse_limits
from ai_task_processor.providers.refusals import classify
from ai_task_processor.providers.settings import ModelSettings

CHECK_TIMEOUT_S = 15.0
#: the most models whose form of request is stored
MAX_MODELS = 256
#: shortest interval between trials of other forms of a request, while none was served, seconds
SHAPES_AGAIN_S = 60.0
_OUTCOMES: Mapping[type[Exception], str] = {
    InputRefused: "refused_input",
    CallRefused: "refused_input",
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


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of a request: the encoding of vectors, and whether ``dimensions`` is sent."""

    encoding: str
    dimensions: bool


class OpenAIProvider(Provider):
    """``ports.Provider`` over an OpenAI-compatible API. It closes the HTTP client that it is given."""

    name = "openai"

    def __init__(self, settings: ModelSettings, client: HttpClient, metrics: Metrics) -> None:
        key = settings.api_key.get_secret_value() if settings.api_key else "not-needed"
        self._api = openai.AsyncOpenAI(
            api_key=key,
            base_url=settings.base_url or OPENAI_URL,
            http_client=client.over_httpx2(),
            max_retries=0,
            timeout=None,
        )
        # The client reads OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS, which can replace even the key;
        # no option prevents that.
        self._api.organization = self._api.project = None
        self._api._custom_headers = {}
        self._client = client
        self._embeddings_url = str(self._api._prepare_url("/embeddings"))
        signed = {**self._api.auth_headers, **self._api.default_headers}
        self._headers = {name: value for name, value in signed.items() if isinstance(value, str)}
        self._official = settings.base_url is None
        self._dimensions = settings.embedding_dimensions
        self._timeout_s = settings.timeout_s
        self._metrics = metrics
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
        started_at = time.perf_counter()
        outcome = "other"
        try:
            answer = await self._post(self._embeddings_url, self._body(texts, model, shape))
            self._note_remaining(answer.headers)
            embeddings = parse_embeddings(answer.content, len(texts), self._expected(model))
            outcome = "ok"
        except (RemoteError, TaskError) as error:
            outcome = _OUTCOMES.get(type(error), "server_error")
            raise
        finally:
            self._metrics.model_request(model=model, outcome=outcome, duration_s=time.perf_counter() - started_at)
        usage = embeddings.usage
        self._metrics.model_tokens(model=model, prompt=usage.prompt_tokens, completion=usage.completion_tokens)
        return replace(embeddings, limits=parse_limits(answer.headers))

    def _body(self, texts: Sequence[str], model: str, shape: Shape) -> dict[str, object]:
        body: dict[str, object] = {"input": list(texts), "model": model, "encoding_format": shape.encoding}
        return {**body, "dimensions": self._dimensions} if shape.dimensions else body

    async def check(self, model: str) -> None:
        """Get ``/models/{model}``: it costs nothing and needs a valid key. Compatible servers may lack it."""
        try:
            await self._request(lambda: self._api.models.with_raw_response.retrieve(model), CHECK_TIMEOUT_S)
        except Misconfigured as error:
            sure = isinstance(error, ModelRefused) and error.sure
            if sure or error.status not in (404, 405) or self._official:
                raise

    async def aclose(self) -> None:
        await self._api.close()
        await self._client.aclose()

    def _expected(self, model: str) -> int | None:
        if self._dimensions is not None:
            return self._dimensions
        return NATIVE_DIMENSIONS.get(model) if self._official else None

    async def _post(self, url: str, body: Mapping[str, object]) -> Answer:
        """Send what the client's own ``post`` would send.

        That one copies options, headers and URLs in half a millisecond, more than the rest of a small batch takes.
        """
        answer = await self._client.exchange(
            "POST", url, headers=self._headers, content=codec.line(body), timeout_s=self._timeout_s
        )
        if not answer.is_success:
            raise _refusal(answer)
        return answer

    async def _request(self, call: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        try:
            async with deadline(timeout_s):
                return await call()
        except openai.APIStatusError as error:
            response = error.response
            answer = Answer(response.status_code, response.headers, response.content, str(response.url))
            raise _refusal(answer) from error
        except openai.APIError as error:
            cause = error.__cause__ or error.__context__
            raise (translate(cause) if cause is not None else InvalidAnswer(type(error).__name__)) from error

    def _note_remaining(self, headers: Mapping[str, str]) -> None:
        for kind in ("requests", "tokens"):
            left = amount(headers, f"x-ratelimit-remaining-{kind}")
            if left is not None:
                self._metrics.ratelimit_remaining(kind, left)


def _refusal(answer: Answer) -> RemoteError:
    return classify(answer.status_code, answer.content, status_error(answer, "the model API"))
