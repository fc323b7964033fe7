"""The model API: OpenAI's published rules for embeddings, with OpenAI's error shape.

A token is counted as four bytes of UTF-8, rounded up: close to the real tokenizer for English, and
the same on every machine. Vectors are a hash of the text.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ai_task_processor.sandbox.answers import Response, answer, openai_error, parsed
from ai_task_processor.sandbox.vectors import DIMENSIONS, unit_vector

#: models that chat; completions take any name
CHAT_MODELS: Final = ("gpt-4.1-mini", "o3")
MAX_INPUTS: Final = 2048
MAX_INPUT_TOKENS: Final = 8192
MAX_TOKENS: Final = 300_000
REQUESTS_PER_MINUTE: Final = 10_000
TOKENS_PER_MINUTE: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request for embeddings."""

    texts: Sequence[str]
    model: str
    dimensions: int
    base64: bool
    tokens: Sequence[int]


class Refusal(Exception):
    """The whole call is refused with this answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Allowance:
    """A token bucket that refills ``per_minute``; it holds ``depth``, by default a minute's amount."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float], depth: int | None = None) -> None:
        self.limit = per_minute if depth is None else depth
        self._per_second = per_minute / 60
        self._monotonic = monotonic
        self._left, self._at = float(self.limit), monotonic()

    @property
    def left(self) -> float:
        now = self._monotonic()
        self._left, self._at = min(self.limit, self._left + (now - self._at) * self._per_second), now
        return self._left

    def wait_s(self, amount: int) -> float:
        """Seconds until ``amount`` is left."""
        return max(0.0, (amount - self.left) / self._per_second)

    def take(self, amount: int) -> None:
        self._left = max(0.0, self.left - amount)

    def headers(self, kind: str) -> dict[str, str]:
        return {
            f"x-ratelimit-limit-{kind}": str(self.limit),
            f"x-ratelimit-remaining-{kind}": str(int(self.left)),
            f"x-ratelimit-reset-{kind}": f"{self.wait_s(self.limit):.3f}s",
        }


class ModelApi:
    """``POST /v1/embeddings`` and ``GET /v1/models``. ``calls``, ``inputs`` and ``tokens`` are what was charged.

    ``throttled``: calls that were answered with 429 because they exceeded a limit.
    """

    def __init__(self, api_key: str, monotonic: Callable[[], float], refused_marker: str = "[[refuse]]") -> None:
        self.api_key = api_key
        self.refused_marker = refused_marker
        self.calls = self.inputs = self.tokens = self.throttled = 0
        self._monotonic = monotonic
        self._charged: Counter[bytes] = Counter()
        self._requests = Allowance(REQUESTS_PER_MINUTE, monotonic)
        self._tokens = Allowance(TOKENS_PER_MINUTE, monotonic)
        self._enforced, self._announced = False, True

    def limit(
        self,
        *,
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        tokens_per_minute: int = TOKENS_PER_MINUTE,
        depth: int | None = None,
        announced: bool = True,
    ) -> None:
        """Answer 429 to calls beyond these limits from now on. By default an allowance is shown, but not enforced.

        ``depth``: how many requests may arrive at once. ``announced``: do headers show what is left?
        """
        self._requests = Allowance(requests_per_minute, self._monotonic, depth)
        self._tokens = Allowance(tokens_per_minute, self._monotonic)
        self._enforced, self._announced = True, announced

    def times_charged(self, text: str) -> int:
        """How often this text was charged for."""
        return self._charged[_digest(text)]

    def models(self, authorization: str, name: str = "") -> Response:
        """The list, or one model by its name."""
        if refusal := self.unauthorized(authorization):
            return refusal
        if not name:
            return answer({"object": "list", "data": [_model(model) for model in (*DIMENSIONS, *CHAT_MODELS)]})
        return answer(_model(name)) if name in (*DIMENSIONS, *CHAT_MODELS) else _no_model(name).response

    def embeddings(self, authorization: str, body: bytes) -> Response:
        if refusal := self.unauthorized(authorization):
            return refusal
        try:
            call = checked(body, self.refused_marker)
        except Refusal as refused:
            return refused.response
        if refusal := self._throttled(sum(call.tokens)):
            return refusal
        self._charge(call)
        vectors = [unit_vector(text, call.model, call.dimensions) for text in call.texts]
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.tobytes()).decode() if call.base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ]
        total = sum(call.tokens)
        usage = {"prompt_tokens": total, "total_tokens": total}
        fields = {"object": "list", "data": data, "model": call.model, "usage": usage}
        return answer(fields, headers=self._rate_headers())

    def _charge(self, call: Call) -> None:
        self.calls += 1
        self.inputs += len(call.texts)
        self.tokens += sum(call.tokens)
        self._charged.update(map(_digest, call.texts))

    def _throttled(self, tokens: int) -> Response | None:
        wait_s = max(self._requests.wait_s(1), self._tokens.wait_s(tokens))
        if self._enforced and wait_s > 0:
            self.throttled += 1
            headers = {"Retry-After": str(math.ceil(wait_s)), **self._rate_headers()}
            message = f"Rate limit reached. Please try again in {wait_s:.3f}s."
            return openai_error(429, message, kind="requests", code="rate_limit_exceeded", headers=headers)
        self._requests.take(1)
        self._tokens.take(tokens)
        return None

    def _rate_headers(self) -> dict[str, str]:
        return {**self._requests.headers("requests"), **self._tokens.headers("tokens")} if self._announced else {}

    def unauthorized(self, authorization: str) -> Response | None:
        if authorization == f"Bearer {self.api_key}":
            return None
        return openai_error(401, "Incorrect API key provided.", code="invalid_api_key")


def checked(body: bytes, refused_marker: str) -> Call:
    """Raises ``Refusal`` as OpenAI would answer."""
    try:
        fields = parsed(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise _bad("We could not parse the JSON body of your request.")
    model = fields.get("model")
    if not isinstance(model, str):
        raise _bad("you must provide a model parameter")
    if model not in DIMENSIONS:
        raise _no_model(model)
    texts, tokens = _inputs(fields.get("input"), refused_marker)
    encoding = fields.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise _bad("encoding_format must be float or base64", "encoding_format")
    return Call(texts, model, _dimensions(fields.get("dimensions"), model), encoding == "base64", tokens)


def _inputs(value: object, refused_marker: str) -> tuple[list[str], list[int]]:
    given = value if isinstance(value, list) else [value]
    texts = [text for text in given if isinstance(text, str) and text]
    if not texts or len(texts) != len(given):
        raise _bad("'$.input' is invalid: a string, or a list of strings, none of them empty.", "input")
    if len(texts) > MAX_INPUTS:
        message = f"Invalid 'input': array too long. Expected at most {MAX_INPUTS} items, got {len(texts)}."
        raise _bad(message, "input", "array_above_max_length")
    tokens = [count_tokens(text) for text in texts]
    if (longest := max(tokens)) > MAX_INPUT_TOKENS:
        message = f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens, however you requested {longest}."
        raise _bad(message)
    if (total := sum(tokens)) > MAX_TOKENS:
        message = f"Requested {total} tokens, max {MAX_TOKENS} tokens per request"
        code = "max_tokens_per_request"
        raise Refusal(openai_error(400, message, kind=code, code=code))
    if any(refused_marker in text for text in texts):
        raise _bad("Your input was refused by our usage policies.", "input", "content_policy_violation")
    return texts, tokens


def _dimensions(value: object, model: str) -> int:
    native = DIMENSIONS[model]
    if value is None:
        return native
    if not model.startswith("text-embedding-3-"):
        raise _bad("This model does not support specifying dimensions.", "dimensions")
    if type(value) is not int or not 1 <= value <= native:
        raise _bad(f"Invalid value for 'dimensions': expected 1 to {native}.", "dimensions")
    return value


def count_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def _bad(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(openai_error(400, message, param=param, code=code))


def _no_model(name: str) -> Refusal:
    message = f"The model `{name}` does not exist or you do not have access to it."
    return Refusal(openai_error(404, message, code="model_not_found"))


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1705948997, "owned_by": "sandbox"}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
