"""Classifies a refusal of a model API: by its status, headers and error code first, by its message last. Pure.

Error bodies differ from server to server, and all of these are read (documented or reported by their users)::

    {"error": {"message", "type", "param", "code"}}      OpenAI, Azure, vLLM, LiteLLM, OpenRouter, llama.cpp, DashScope
    {"error": "…"}, {"error": "…", "error_type": "…"}    Ollama, Text Embeddings Inference
    {"message", "type", "param", "code"}                 Mistral, Cohere, older vLLM
    {"detail": "…"}, {"detail": [{"loc", "msg"}]}        Voyage, FastAPI
    {"errors": [{"message", "code"}]}                    Cloudflare Workers AI, Jina
    [{"error": {"code", "message", "status"}}]           Gemini
    HTML                                                 a proxy or a firewall in front

The message is only used to classify. It is not logged or reported, because it may quote the text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from ai_task_processor.core import codec
from ai_task_processor.core.errors import (
    CallRefused,
    InputRefused,
    ModelRefused,
    QuotaExhausted,
    RemoteError,
    Throttled,
    Transient,
)

#: characters of an error message that are read
MAX_WORDS = 2_000
#: parameters that the daemon sets: a refusal that names one of them is not about a text
REQUEST_PARAMETERS = frozenset({"model", "dimensions", "encoding_format", "user"})
#: statuses of a request that is refused for its content
_CONTENT_STATUSES = frozenset({400, 413, 422})
#: statuses of a timeout: 408, Cloudflare's 522 and 524, a gateway's 504
TOO_SLOW = frozenset({408, 504, 522, 524})

_MODEL_CODES = frozenset(
    {"model_not_found", "deploymentnotfound", "modelnotfound", "model_not_available", "invalid_model", "unknown_model"}
)
_LENGTH_CODES = frozenset(
    {"context_length_exceeded", "string_above_max_length", "max_tokens_per_request", "exceed_context_size_error",
     "array_above_max_length", "request_too_large"}
)  # fmt: skip
_FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed"}
)
#: error codes and types about payment, of any server
_QUOTA_CODE = re.compile(
    r"quota|billing|budget|arrear|overdue|credit|(?<!load_)balance|payment|insufficient_funds", re.IGNORECASE
)
_RATE_CODE = re.compile(r"rate_?limit|too_?many_?requests|throttl|resource_exhausted", re.IGNORECASE)
#: What servers write instead of a code when one text is too long: OpenAI ("This model's maximum context length is
#: 8192 tokens, however you requested …"), vLLM, Text Embeddings Inference ("must have less than 512 tokens"), Ollama
_TOO_LONG = re.compile(
    r"\b(context|sequence) (length|size|window)\b|\b(input|string|text|prompt)s?\b.{0,40}\btoo (long|large|many)\b"
    r"|\b(input|string|text|prompt|sequence) (length|size|tokens?)\b.{0,60}"
    r"\b(exceed\w*|longer|larger|greater|max(imum)?)\b"
    r"|\b(exceed\w*|longer than|larger than|less than|at most|max(imum)?( of)?)\b.{0,60}"
    r"\b(input|sequence|prompt) (length|size|tokens?)\b|\btoo many tokens\b"
    r"|\b(less|longer|more|greater) than [0-9,]+ tokens\b|\brequested [0-9,]+ tokens\b",
    re.IGNORECASE | re.DOTALL,
)
#: words about money or time: what is exceeded then is no length
_NOT_A_LENGTH = re.compile(
    r"\b(budget|quota|credits?|spend|billing|balance|plan|rate|daily|monthly|today|access token|api (key|token)"
    r"|per (second|minute|hour|day|month))\b",
    re.IGNORECASE,
)
_DIMENSIONS = re.compile(r"\bdimensions?\b", re.IGNORECASE)
#: the same of a call: too many inputs ("batch size 128 > maximum allowed batch size 32"), too large a body
_TOO_MANY = re.compile(
    r"\b(batch|inputs?|texts?|array|items?|elements?|list|documents?)\b.{0,80}"
    r"\b(too (many|long|large|big)|exceed\w*|max(imum)?|at most|no more than|limit(ed)?|(larger|greater|less) than)\b"
    r"|\b(too many|at most|no more than|max(imum)?( of)?)\b.{0,40}"
    r"\b(batch|inputs?|texts?|items?|elements?|documents?)\b"
    r"|\b(request|body|payload|entity|content)\b.{0,30}\btoo (large|big|long)\b",
    re.IGNORECASE | re.DOTALL,
)
_REQUEST_TOO_LARGE = re.compile(r"\brequest (is )?too large\b", re.IGNORECASE)
#: the limit in such a message, as opposed to the size that was sent: "maximum … 32", "at most 100"
_LIMIT = re.compile(
    r"\b(?:max(?:imum)?|limit(?:ed)?|at most|no more than|up to|(?:less|larger|greater|more) than)\b[^0-9]{0,40}?"
    r"\b([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,9})\b",
    re.IGNORECASE,
)
#: an unknown model, or one that cannot do what is asked of it
_NO_SUCH_MODEL = re.compile(
    r"\b(unknown|invalid|unsupported|no such) model\b|\bnot a valid model\b|\bno endpoints found\b"
    r"|\b(models?|deployment)\b.{0,200}"
    r"\b(not found|not exist|not (be )?support(ed)?|not (have )?access|not available|not (been )?loaded"
    r"|deprecated|decommissioned)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error body, as far as it could be read. ``codes``: of all fields with a code or type, in lower case."""

    codes: frozenset[str] = frozenset()
    param: str | None = None
    words: str = field(default="", repr=False)
    #: was it JSON? A page of HTML comes from a proxy in front of the model API
    structured: bool = False


def read_refusal(content: bytes) -> Refusal:
    """An error body in any of the shapes above."""
    try:
        body = codec.loads(content)
    except ValueError:
        return Refusal()
    codes: set[str] = set()
    words: list[str] = []
    param: str | None = None
    for part in _error_objects(body):
        codes |= {
            str(part[key]).lower()[:64] for key in ("code", "type", "status", "error_type") if _short(part.get(key))
        }
        words += [word for key in ("message", "msg", "error", "detail") if isinstance(word := part.get(key), str)]
        if param is None and isinstance(named := part.get("param"), str):
            param = named
    if isinstance(body, str):
        words.append(body)
    return Refusal(frozenset(codes), param, " ".join(words)[:MAX_WORDS], structured=True)


def _error_objects(body: object) -> Iterator[Mapping[str, object]]:
    """The objects of an error body that can hold a code or a message: the body and those nested in it."""
    todo, left = [body], 20
    while todo and left:
        left -= 1
        part = todo.pop(0)
        if isinstance(part, list):
            todo += part[:5]
        elif isinstance(part, dict):
            yield part
            todo += [part[key] for key in ("error", "errors", "detail") if isinstance(part.get(key), dict | list)]


def _short(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and len(str(value)) <= 64


def classify(status: int, content: bytes, otherwise: RemoteError) -> RemoteError:
    """The error for a refusal. ``otherwise``: the error by status and headers only (429, 401, Retry-After)."""
    refusal = read_refusal(content)
    codes = refusal.codes
    named_quota = any(map(_QUOTA_CODE.search, codes)) and not any(map(_RATE_CODE.search, codes))
    if named_quota or status == HTTPStatus.PAYMENT_REQUIRED:
        return QuotaExhausted(
            "the provider's quota is used up, or nobody pays for it",
            status=status,
            retry_after_s=otherwise.retry_after_s,
        )
    if codes & _MODEL_CODES:
        return ModelRefused("the provider does not know this model", status=status, sure=True)
    if status == HTTPStatus.TOO_MANY_REQUESTS and _REQUEST_TOO_LARGE.search(refusal.words):
        # OpenAI's 429 "Request too large for … on tokens per min (TPM): Limit 10000, Requested 12000" never succeeds.
        return _too_large(status, refusal, final=False)
    if isinstance(otherwise, Throttled):
        return otherwise
    if status == HTTPStatus.UNAUTHORIZED or (status == HTTPStatus.FORBIDDEN and refusal.structured):
        return otherwise
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY):
        return Transient(f"the model API answered {status}", status=status)
    return _about_the_request(status, refusal, otherwise)


def _about_the_request(status: int, refusal: Refusal, otherwise: RemoteError) -> RemoteError:
    param = (refusal.param or "").lower()
    if param in REQUEST_PARAMETERS:
        return ModelRefused(f"the provider refuses the parameter {param}", status=status)
    if refusal.codes & _LENGTH_CODES or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return _too_large(status, refusal)
    if refusal.codes & _FILTER_CODES:
        final = InputRefused("input_refused", "the model refuses this text")
        return CallRefused("the provider's content filter refuses a text", status=status, final=final, explained=True)
    if not _NOT_A_LENGTH.search(refusal.words):
        if _DIMENSIONS.search(refusal.words):
            return ModelRefused("the provider refuses the dimensions", status=status)
        if _TOO_LONG.search(refusal.words) or _TOO_MANY.search(refusal.words):
            return _too_large(status, refusal)
    if _NO_SUCH_MODEL.search(refusal.words):
        return ModelRefused("the provider does not know this model, or it cannot do what is asked", status=status)
    if status == HTTPStatus.NOT_FOUND or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return otherwise
    refused = InputRefused("input_refused", "the model refuses this text")
    return CallRefused(
        f"the model API answered {status}", status=status, final=refused if status in _CONTENT_STATUSES else None
    )


def _too_large(status: int, refusal: Refusal, *, final: bool = True) -> CallRefused:
    limit = _LIMIT.search(refusal.words)
    too_long = InputRefused("text_too_long", "the model refuses this text: it is too long")
    return CallRefused(
        f"the model API answered {status}: the call or a text in it is too large",
        status=status,
        final=too_long if final else None,
        # A page of a proxy is no evidence about the model: its limits are found by trying.
        explained=final and refusal.structured,
        too_large=True,
        limit=None if limit is None else int(limit[1].replace(",", "")),
    )
