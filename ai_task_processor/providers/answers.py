"""Parses and checks the answers of a model API. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.core.errors import CallRefused, InvalidAnswer, QuotaExhausted, RemoteError
from ai_task_processor.core.ports import Allowance, Embeddings, RateLimits
from ai_task_processor.models.task import Usage, Vector
from ai_task_processor.providers.refusals import classify, read_refusal

#: A piece of a duration as Go writes it and OpenAI's headers hold it: 6m0s, 1h2m3.5s, 12ms. Without a unit: seconds.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|µs|ns|\Z)")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
#: limits are by the minute or by the day
LONGEST_RESET_S = 86_400.0


def parse_embeddings(content: bytes, count: int, dimensions: int | None) -> Embeddings:
    """Check an answer: as many vectors as texts, each index once, finite, not zero, of ``dimensions`` when given.

    A single unusable vector becomes None. Raises ``InvalidAnswer`` when the answer as a whole is unusable, and what
    ``classify`` makes of an error that comes with status 200.
    """
    answer = read_object(content)
    data = answer.get("data")
    if not isinstance(data, list):
        raise error_in_answer(content)
    if len(data) != count:
        raise InvalidAnswer("the model API answered another number of vectors than texts")
    vectors: list[Vector | None] = [None] * count
    for index, item in zip(_places(data), data, strict=True):
        # ``pop``: the text form and the vectors of a large batch need not be in memory together.
        vectors[index] = codec.vector(item.pop("embedding", None), dimensions)
    if not any(vectors):
        raise InvalidAnswer("the model API answered no usable vector")
    return Embeddings(vectors, read_usage(answer.get("usage")))


def _places(data: list[object]) -> list[int]:
    """The index of the text that each item belongs to.

    Without any ``index`` it is the order. Servers that omit zeros (protobuf's JSON) omit it once. A server that
    writes 0 everywhere gets one text per call.
    """
    places: list[int | None] = []
    for item in data:
        if not isinstance(item, dict):
            raise InvalidAnswer("the model API answered something else than vectors")
        index = item.get("index")
        if index is not None and (not isinstance(index, int) or isinstance(index, bool)):
            raise InvalidAnswer("the model API answered a vector with a wrong index")
        places.append(index)
    if all(index is None for index in places):
        return list(range(len(data)))
    found = [0 if index is None else index for index in places]
    if len(found) > 1 and not any(found):
        raise CallRefused("the model API gives every vector the index 0", too_large=True, limit=1)
    if places.count(None) > 1 or sorted(found) != list(range(len(data))):
        raise InvalidAnswer("the model API answered a vector with a wrong index")
    return found


def read_object(content: bytes) -> Mapping[str, Any]:
    """An answer's JSON object, empty for another value. Raises ``InvalidAnswer``."""
    try:
        answer = codec.loads(content)
    except ValueError as error:
        raise InvalidAnswer("the model API did not answer JSON") from error
    return answer if isinstance(answer, dict) else {}


def field_of(value: object, name: str) -> object:
    """A field of a JSON object; None for another value."""
    return value.get(name) if isinstance(value, dict) else None


def error_in_answer(content: bytes, expected: str = "vectors") -> RemoteError:
    """An error with status 200: it pauses the model or is about this call, but no text ends ``failed`` by it."""
    if not (refusal := read_refusal(content)).words and not refusal.codes:
        return InvalidAnswer(f"the model API answered something else than {expected}")
    error = classify(400, content, InvalidAnswer("the model API answered 200 with an error"))
    if isinstance(error, QuotaExhausted):
        return error
    too_large = isinstance(error, CallRefused) and error.too_large
    return CallRefused("the model API answered 200 with an error", status=200, too_large=too_large)


def read_usage(usage: object, prompt: str = "prompt_tokens", completion: str = "completion_tokens") -> Usage:
    """The ``usage`` of an answer, given the names of its fields; 0 for what is missing or no count."""
    return Usage(
        _count(usage, prompt), _count(usage, completion), _count(field_of(usage, f"{prompt}_details"), "cached_tokens")
    )


def _count(usage: object, name: str) -> int:
    count = field_of(usage, name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**53 else 0


def parse_limits(headers: Mapping[str, str]) -> RateLimits:
    """The limits in ``x-ratelimit-*``; each kind needs all three headers."""
    return RateLimits(_allowance(headers, "requests"), _allowance(headers, "tokens"))


def _allowance(headers: Mapping[str, str], kind: str) -> Allowance | None:
    limit = amount(headers, f"x-ratelimit-limit-{kind}")
    remaining = amount(headers, f"x-ratelimit-remaining-{kind}")
    reset_s = duration_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
    if limit is None or remaining is None or reset_s is None or not remaining <= limit > 0:
        return None
    return Allowance(limit, remaining, reset_s)


def amount(headers: Mapping[str, str], name: str) -> int | None:
    """A header that holds a whole number."""
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


def duration_s(text: str) -> float | None:
    """Seconds out of ``1s``, ``6m0s``, ``12ms``, ``1h2m3.5s`` or ``1.5``; None for garbage, and above a day."""
    pieces = _DURATION.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in pieces)
    return seconds if seconds <= LONGEST_RESET_S else None
