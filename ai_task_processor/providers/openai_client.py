"""The connection to an OpenAI-compatible API, over the official client.

The client's retries are off, because they would multiply with ours and sleep inside a slot; so are its environment
variables. Answers are decoded by the callers: the client accepts a page of HTML, and what an answer must not be.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import openai
from pydantic import SecretStr

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
from ai_task_processor.models.task import Usage
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import HttpClient, deadline
from ai_task_processor.net.transport_errors import translate
from ai_task_processor.ops import tracing
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers import OPENAI_URL
from ai_task_processor.providers.answers import amount
from ai_task_processor.providers.prices import Prices
from ai_task_processor.providers.refusals import classify

CHECK_TIMEOUT_S = 15.0
#: the most models without a price that are logged
MAX_UNPRICED = 20
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

log = get_logger(__name__)


class OpenAIClient:
    """Sends requests with one key to one server. It closes the HTTP client that it is given."""

    def __init__(
        self,
        key: SecretStr | None,
        base_url: str | None,
        timeout_s: float,
        client: HttpClient,
        metrics: Metrics,
        prices: Prices | None = None,
    ) -> None:
        self._api = openai.AsyncOpenAI(
            api_key=key.get_secret_value() if key else "not-needed",
            base_url=base_url or OPENAI_URL,
            http_client=client.over_httpx2(),
            max_retries=0,
            timeout=None,
        )
        # The client reads OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS, which can replace even the key;
        # no option prevents that.
        self._api.organization = self._api.project = None
        self._api._custom_headers = {}
        self._client = client
        signed = {**self._api.auth_headers, **self._api.default_headers}
        self._headers = {name: value for name, value in signed.items() if isinstance(value, str)}
        #: whether it is OpenAI's own server
        self.official = base_url is None
        server = urlsplit(base_url or OPENAI_URL)
        self._server = server.hostname or "", server.port or (443 if server.scheme == "https" else 80)
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._prices = prices
        self._unpriced: set[str] = set()

    def url(self, path: str) -> str:
        """The URL of ``/embeddings`` and the like."""
        return str(self._api._prepare_url(path))

    async def post(self, url: str, body: Mapping[str, object], timeout_s: float | None = None) -> Answer:
        """Send what the client's own ``post`` would send; returns the answer, whatever its status.

        That one copies options, headers and URLs in half a millisecond, more than the rest of a small batch takes.
        """
        tracing.reached(*self._server)
        answer = await self._client.exchange(
            "POST", url, headers=self._headers, content=codec.line(body), timeout_s=timeout_s or self._timeout_s
        )
        for kind in ("requests", "tokens"):
            left = amount(answer.headers, f"x-ratelimit-remaining-{kind}")
            if left is not None and answer.is_success:
                self._metrics.ratelimit_remaining(kind, left)
        return answer

    @contextmanager
    def counted(self, model: str) -> Iterator[None]:
        """Count one call in the metrics, by its outcome and duration."""
        started_at, outcome = time.perf_counter(), "other"
        try:
            yield
            outcome = "ok"
        except (RemoteError, TaskError) as error:
            outcome = _OUTCOMES.get(type(error), "server_error")
            raise
        finally:
            self._metrics.model_request(model=model, outcome=outcome, duration_s=time.perf_counter() - started_at)

    def charged(self, model: str, usage: Usage) -> None:
        """Count the tokens of a call, and its cost where there are prices."""
        self._metrics.model_tokens(
            model=model, prompt=usage.prompt_tokens, completion=usage.completion_tokens, cached=usage.cached_tokens
        )
        if self._prices is None:
            return
        cost = self._prices.cost(model, usage)
        if cost is not None:
            self._metrics.model_cost(model=model, amount=cost)
        elif model not in self._unpriced and len(self._unpriced) < MAX_UNPRICED:
            self._unpriced.add(model)
            log.warning("cost.not_counted", model=model[:64], reason="MODEL_PRICES has no price for its calls")

    async def check(self, model: str) -> None:
        """Get ``/models/{model}``: it costs nothing and needs a valid key. Compatible servers may lack it."""
        try:
            await self._request(lambda: self._api.models.with_raw_response.retrieve(model), CHECK_TIMEOUT_S)
        except Misconfigured as error:
            sure = isinstance(error, ModelRefused) and error.sure
            if sure or error.status not in (404, 405) or self.official:
                raise

    async def aclose(self) -> None:
        await self._api.close()
        await self._client.aclose()

    async def _request(self, call: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        try:
            async with deadline(timeout_s):
                return await call()
        except openai.APIStatusError as error:
            response = error.response
            answer = Answer(response.status_code, response.headers, response.content, str(response.url))
            raise refusal_error(answer) from error
        except openai.APIError as error:
            cause = error.__cause__ or error.__context__
            raise (translate(cause) if cause is not None else InvalidAnswer(type(error).__name__)) from error


def refusal_error(answer: Answer) -> RemoteError:
    """The error for an answer that is no success."""
    return classify(answer.status_code, answer.content, status_error(answer, "the model API"))
