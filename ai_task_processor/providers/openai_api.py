"""OpenAI, and whatever speaks its API: embeddings through the official client, every answer checked.

The client's own retries are off (they would multiply with ours and sleep inside a slot), its
environment variables too. Answers are decoded here: the client lets NaN, missing and misindexed
vectors pass, and takes a page of HTML for an answer.
"""

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
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
from ai_task_processor.http1 import Answer
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Usage, Vector
from ai_task_processor.ports import Allowance, Embeddings, RateLimits
from ai_task_processor.providers import NATIVE_DIMENSIONS, OPENAI_URL
from ai_task_processor.settings import ModelSettings
from ai_task_processor.transport import deadline, exchange, status_error, translate

CHECK_TIMEOUT_S = 15.0
_REQUEST_PARAMETERS = frozenset({"model", "dimensions", "encoding_format", "user"})
_QUOTA = frozenset({"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"})
_TOO_LONG = frozenset(
    {"context_length_exceeded", "string_above_max_length", "max_tokens_per_request", "exceed_context_size_error"}
)
#: what servers write instead of a code: OpenAI ("This model's maximum context length is 8192 tokens, however you
#: requested …"), vLLM, Text Embeddings Inference ("must have less than 512 tokens"), llama.cpp, Ollama
_SAYS_TOO_LONG = re.compile(
    r"(?=.*\b(tokens?|context (length|size|window)|(input|string|text) (length|(is )?too (long|large)))\b)"
    r"(?=.*\b(max(imum)?|exceed\w*|less than|longer than|too (long|large|many)|limit(ed)?)\b)",
    re.IGNORECASE | re.DOTALL,
)
#: an unknown model, or one that cannot do what is asked of it: the same for every text
_SAYS_NO_SUCH_MODEL = re.compile(
    r"\b(unknown|invalid) model\b|\bnot a valid model\b"
    r"|\bmodel\b.{0,200}\b(not found|not exist|not supported|not support|not have access)\b",
    re.IGNORECASE | re.DOTALL,
)
#: A piece of a duration as Go writes it and OpenAI's headers hold it: 6m0s, 1h2m3.5s, 12ms. Without a unit: seconds.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|µs|ns|\Z)")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
#: limits are by the minute or by the day
LONGEST_RESET_S = 86_400.0
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
        )
        # The client has read OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS, which can replace even
        # the key, and has no switch against it.
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

    async def prepare(self) -> None:
        """All is there."""

    async def embed(self, texts: Sequence[str], model: str) -> Embeddings:
        started_at = time.perf_counter()
        outcome = "other"
        try:
            answer = await self._post(self._embeddings_url, self._body(texts, model))
            # A plain dictionary: what httpx2 has for headers takes as long for each name as this for all of them.
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers.raw}
            self._note_remaining(headers)
            embeddings = parse_embeddings(answer.content, len(texts), self._expected(model))
            outcome = "ok"
        except (NeighbourError, TaskError) as error:
            outcome = _OUTCOMES.get(type(error), "server_error")
            raise
        finally:
            self._metrics.model_request(model=model, outcome=outcome, duration_s=time.perf_counter() - started_at)
        usage = embeddings.usage
        self._metrics.model_tokens(model=model, prompt=usage.prompt_tokens, completion=usage.completion_tokens)
        return replace(embeddings, limits=parse_limits(headers))

    def _body(self, texts: Sequence[str], model: str) -> dict[str, object]:
        body: dict[str, object] = {"input": list(texts), "model": model, "encoding_format": "base64"}
        return body if self._dimensions is None else {**body, "dimensions": self._dimensions}

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
        return NATIVE_DIMENSIONS.get(model) if self._official else None

    async def _post(self, url: str, body: Mapping[str, object]) -> Answer | httpx2.Response:
        """What the client's own ``post`` sends, without what it makes anew for every call.

        Its copies of the options, models, headers and URLs take half a millisecond, which is more than all the rest of
        a small batch. The first of them stays the same for ever, and a refusal is still read by the client.
        """
        answer = await exchange(
            self._client, "POST", url, headers=self._headers, content=codec.line(body), timeout_s=self._timeout_s
        )
        if not answer.is_success:
            error = self._api._make_status_error_from_response(_response(url, answer))
            raise classify(error.response, error.body) from error
        return answer

    async def _request(self, call: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        try:
            async with deadline(timeout_s):
                return await call()
        except openai.APIStatusError as error:
            raise classify(error.response, error.body) from error
        except openai.APIError as error:
            cause = error.__cause__ or error.__context__
            raise (translate(cause) if cause is not None else InvalidAnswer(type(error).__name__)) from error

    def _note_remaining(self, headers: Mapping[str, str]) -> None:
        for kind in ("requests", "tokens"):
            left = _amount(headers, f"x-ratelimit-remaining-{kind}")
            if left is not None:
                self._metrics.ratelimit_remaining(kind, left)


def _response(url: str, answer: Answer | httpx2.Response) -> httpx2.Response:
    """An answer as the client takes it. Its body has been decoded, or left out."""
    headers = [(name, value) for name, value in answer.headers.raw if name.lower() != b"content-encoding"]
    request = httpx2.Request("POST", url)
    return httpx2.Response(answer.status_code, headers=headers, content=answer.content, request=request)


def classify(response: httpx2.Response, body: object) -> NeighbourError | TaskError:
    """Whose fault a refusal of the model API is. ``body``: the error object, as the client unwrapped it."""
    status = response.status_code
    told = body if isinstance(body, Mapping) else {}
    codes = {str(told.get("code")), str(told.get("type"))}
    message = told.get("message")
    if codes & _QUOTA or status == httpx2.codes.PAYMENT_REQUIRED:
        return QuotaExhausted("the provider's quota is used up, or nobody pays for it", status=status)
    if "model_not_found" in codes:
        return ModelRefused("the provider does not know this model", status=status)
    if status in (400, 404, 413, 422) and isinstance(message, str):
        return _refusal(status, codes, told.get("param"), message[:2000])
    return status_error(response, "the model API")


def _refusal(status: int, codes: set[str], param: object, message: str) -> NeighbourError | TaskError:
    """A refusal in the provider's own words. They only sort it, and are not repeated: they may quote the text."""
    if isinstance(param, str) and param in _REQUEST_PARAMETERS:
        return ModelRefused(f"the provider refuses the parameter {param}", status=status)
    if _SAYS_NO_SUCH_MODEL.search(message):
        return ModelRefused("the provider does not know this model, or it cannot do what is asked", status=status)
    if status == httpx2.codes.NOT_FOUND:
        return Misconfigured("the model API answered 404", status=status)
    too_long = codes & _TOO_LONG or _SAYS_TOO_LONG.match(message)
    return InputRefused("text_too_long" if too_long else "input_refused", "the model refuses this text")


def parse_limits(headers: Mapping[str, str]) -> RateLimits:
    """What ``x-ratelimit-*`` tells, of each kind all three headers or nothing."""
    return RateLimits(_allowance(headers, "requests"), _allowance(headers, "tokens"))


def _allowance(headers: Mapping[str, str], kind: str) -> Allowance | None:
    limit = _amount(headers, f"x-ratelimit-limit-{kind}")
    remaining = _amount(headers, f"x-ratelimit-remaining-{kind}")
    reset_s = duration_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
    if limit is None or remaining is None or reset_s is None or not remaining <= limit > 0:
        return None
    return Allowance(limit, remaining, reset_s)


def _amount(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


def duration_s(text: str) -> float | None:
    """Seconds out of ``1s``, ``6m0s``, ``12ms``, ``1h2m3.5s`` or ``1.5``; None for garbage, and above a day."""
    pieces = _DURATION.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in pieces)
    return seconds if seconds <= LONGEST_RESET_S else None


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
        # Taken out: of a large batch, texts and vectors need not be in memory together.
        vectors[index] = codec.vector(item.pop("embedding", None), dimensions)
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
