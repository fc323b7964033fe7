"""What remotes answer, fuzzed: tokens, vectors, acknowledgements, refusals, wishes for patience.

Each reader gives its value or one of its documented errors, and the error repeats nothing of the answer.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import httpx2
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from ai_task_processor.core import errors
from ai_task_processor.core.syntax import name_list
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.net import token_answers
from ai_task_processor.net.answers import Answer, _date, status_error
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.proxy import bypassed
from ai_task_processor.providers.answers import parse_embeddings
from ai_task_processor.providers.chat_completions import ChatCompletions
from ai_task_processor.providers.chat_forms import Form
from ai_task_processor.providers.refusals import classify
from ai_task_processor.providers.responses import Responses
from ai_task_processor.sources.rest.answers import rejection
from tests.mock_http import mock_client
from tests.nest import acknowledged

#: stands in every fuzzed text: no error may show it
MARK = "Zq7"
TEXTS = st.text(max_size=12).map(f"{MARK}{{}}".format)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, -1, 1, 2**53, 10**300])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
STATUSES = st.integers(200, 599)


def objects(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[bytes]:
    """An object with some of these fields, each as it should be or as anything else; or anything else."""
    some = st.fixed_dictionaries({}, optional={name: values | JSON for name, values in fields.items()})
    texts = (some | some | some | JSON).map(lambda value: json.dumps(value).encode())
    return texts | texts.map(lambda text: text[:-1]) | st.binary(max_size=60)


def quotes_nothing(error: Exception) -> None:
    assert MARK not in f"{error}{getattr(error, 'message', '')}"


# --- the token endpoint

LIVES = st.sampled_from([3600, 30, 0.01, 10**9, -5, 0, "3600", "soon", "1e999", "nan", "-inf", "1_0", "\uff19"])
GRANTED = st.fixed_dictionaries({"access_token": TEXTS, "token_type": st.just("bearer"), "expires_in": LIVES | NUMBERS})
GRANTS = objects(
    access_token=TEXTS, token_type=st.sampled_from(["Bearer", "mac"]), expires_in=LIVES, scope=TEXTS
) | GRANTED.map(lambda value: json.dumps(value).encode())


@given(GRANTS, st.floats(0, 2**40))
@example(b'{"access_token":"t","token_type":"bearer","expires_in":%b}' % (b"9" * 5000), 0.0)
@example(b"[" * 100_000, 0.0)
def test_a_token_answer_is_a_usable_token_or_invalid(body: bytes, now: float) -> None:
    """A token can stand in a header and is renewed before it expires, within a day; the rest is ``InvalidAnswer``."""
    try:
        token = token_answers.parse_token(body, generation=1, now=now)
    except errors.InvalidAnswer as error:
        quotes_nothing(error)
        return
    header = httpx2.Headers({"Authorization": f"Bearer {token.value}"})["Authorization"]
    assert header.split() == ["Bearer", token.value]
    assert token_answers.SHORTEST_LIFE_S <= token.life_s <= token_answers.LONGEST_LIFE_S
    assert now <= token.renew_at <= token.expires_at < math.inf
    assert MARK not in repr(replace(token, scope=None))


AUTH = AuthSettings.model_validate({"OAUTH2_TOKEN_URL": "https://id.example.com/token", "OAUTH2_CLIENT_ID": "me"})


@given(STATUSES, objects(error=st.sampled_from(["invalid_client", "slow_down"]), error_description=TEXTS))
def test_a_refused_token_is_a_remotes_fault(status: int, body: bytes) -> None:
    """Whatever the endpoint answers instead of a token, the error is the remote's and repeats nothing."""
    error = token_answers._refusal(Answer(status, content=body), AUTH)
    quotes_nothing(error)
    assert isinstance(error, errors.Throttled) == (status == 429)


# --- the model API

VECTORS = st.lists(st.floats(width=32), max_size=4) | st.sampled_from(["AACAPwAAAEA=", "AACAPw", "AADAfw==", "é", ""])
ITEMS = st.fixed_dictionaries({}, optional={"index": st.integers(-1, 4) | JSON, "embedding": VECTORS | JSON})
EMBEDDINGS = objects(
    data=st.lists(ITEMS, max_size=4) | st.lists(VECTORS, max_size=4).map(lambda found: _indexed(found)),
    usage=st.fixed_dictionaries({"prompt_tokens": JSON}),
)


def _indexed(vectors: Sequence[object]) -> list[Mapping[str, object]]:
    return [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]


@given(EMBEDDINGS, st.integers(1, 4), st.none() | st.integers(1, 3))
@example(b'{"data":[{"index":0,"embedding":%b}]}' % (b"[" * 900 + b"]" * 900), 1, None)
@example(b'{"data":[{"index":0,"embedding":[1e39,1]}]}', 1, None)
@example(b'{"data":[{"index":0,"embedding":[1.0]},{"index":0,"embedding":[2.0]}]}', 2, None)
@example(b'{"error":{"message":"Zq7 maximum context length is 8 tokens"}}', 1, None)
def test_a_model_answer_is_usable_vectors_or_an_error(content: bytes, count: int, dimensions: int | None) -> None:
    """One vector or None for each text, at least one of them, all finite, not zero and of the length expected.

    An error says that the answer makes no sense, that the call is refused, or that nobody pays: no text ends by it.
    """
    try:
        answer = parse_embeddings(content, count, dimensions)
    except (errors.InvalidAnswer, errors.CallRefused, errors.QuotaExhausted) as error:
        quotes_nothing(error)
        assert (getattr(error, "final", None), getattr(error, "explained", False)) == (None, False)  # noqa: PT017
        return
    assert len(answer.vectors) == count
    found = [np.frombuffer(vector.data, "<f4") for vector in answer.vectors if vector]
    assert found
    assert dimensions is None or {len(values) for values in found} == {dimensions}
    assert all(np.isfinite(values).all() and values.any() for values in found)
    assert 0 <= answer.usage.prompt_tokens < 2**53


def fields(**known: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """An object with some of these fields, each as it should be or as anything else; or anything else."""
    return st.fixed_dictionaries({}, optional={name: values | JSON for name, values in known.items()}) | JSON


ENDS = st.sampled_from(["stop", "length", "completed", "incomplete", "failed", "max_output_tokens", "content_filter"])
KINDS = st.sampled_from(["message", "reasoning", "function_call", "output_text", "refusal"])
COUNTS = fields(prompt_tokens=NUMBERS, input_tokens=NUMBERS, completion_tokens=NUMBERS, output_tokens=NUMBERS)
PARTS = st.lists(fields(type=KINDS, text=TEXTS, refusal=TEXTS), max_size=3)
CHATS = objects(
    choices=st.lists(fields(message=fields(content=TEXTS | PARTS, refusal=TEXTS), finish_reason=ENDS), max_size=2),
    status=ENDS,
    output=st.lists(fields(type=KINDS, content=PARTS, phase=st.just("commentary")), max_size=3),
    incomplete_details=fields(reason=ENDS),
    error=fields(code=st.sampled_from(["server_error", "rate_limit_exceeded", "bio_policy"]), message=TEXTS),
    usage=COUNTS | fields(prompt_tokens=NUMBERS, prompt_tokens_details=fields(cached_tokens=NUMBERS)),
)


@given(CHATS, st.sampled_from([ChatCompletions, Responses]))
def test_a_chat_answer_is_an_answer_or_an_error(content: bytes, api: type[Form]) -> None:
    """A complete one has a text, its counts are sound, and no error makes a task ``failed``."""
    try:
        answer = api.parse(content)
    except (errors.Transient, errors.CallRefused, errors.QuotaExhausted, errors.Throttled) as error:
        quotes_nothing(error)
        assert (getattr(error, "final", None), getattr(error, "explained", False)) == (None, False)  # noqa: PT017
        return
    assert answer.text.strip() or answer.finish != "complete"
    assert 0 <= answer.usage.cached_tokens <= answer.usage.prompt_tokens < 2**53
    assert 0 <= answer.usage.completion_tokens < 2**53


REFUSALS = st.fixed_dictionaries(
    {},
    optional={
        "message": st.sampled_from([f"{MARK} maximum context length is 8 tokens", f"unknown model {MARK}"]) | JSON,
        "code": st.sampled_from(["insufficient_quota", "model_not_found", "context_length_exceeded"]) | JSON,
        "type": JSON,
        "param": st.sampled_from(["input", "model", "dimensions"]) | JSON,
    },
)


@given(st.integers(400, 599), (REFUSALS | JSON).map(json.dumps) | st.text(max_size=60))
def test_a_refusal_of_the_model_has_one_class(status: int, text: str) -> None:
    """Always a remote's error; a text can end by it only when its request is refused, and no word is repeated."""
    content = text.encode()
    error = classify(status, content, status_error(Answer(status), "the model API"))
    quotes_nothing(error)
    assert isinstance(error, errors.RemoteError)
    final = error.final if isinstance(error, errors.CallRefused) else None
    if final is not None:
        quotes_nothing(final)
        assert status < 500
        assert status not in (401, 402, 429)


# --- results

STATES = st.sampled_from(["pending", "succeeded", "failed"])
DOCUMENTS = objects(_id=st.sampled_from(["task", "other"]), id=st.sampled_from(["task"]), state=STATES)


@given(st.integers(200, 299), DOCUMENTS, st.sampled_from([TaskStatus.SUCCEEDED, TaskStatus.FAILED]))
def test_an_acknowledgement_contradicts_nothing(status: int, body: bytes, state: TaskStatus) -> None:
    """It is empty, or JSON that names no other task and no other state; all else leaves it open."""
    try:
        verified = acknowledged(status, body, "task", state)
    except errors.Ambiguous as error:
        quotes_nothing(error)
        return
    if status == 204 or not body.strip():
        assert not verified
        return
    document = json.loads(body)
    document = document[0] if isinstance(document, list) and len(document) == 1 else document
    fields = document if isinstance(document, dict) else {}
    assert fields.get("_id") in (None, "task")
    assert fields.get("state") in (None, state)
    assert verified == ("task" in (fields.get("_id"), fields.get("id")) or fields.get("state") == state)


@given(
    STATUSES,
    objects(statusCode=st.sampled_from([400, 404, 409, 413]), message=st.sampled_from(["Cannot PATCH /x"]) | TEXTS),
)
def test_a_refused_result_is_told_from_a_wrong_address(status: int, body: bytes) -> None:
    """Five statuses refuse, in the API's own shape; the rest is somebody else's page, or no refusal at all."""
    error = rejection(status, body)
    assert (error is None) == (status not in (400, 404, 409, 413, 422))
    assert error is None or isinstance(error, errors.Rejected | errors.Misconfigured)
    assert MARK not in str(error)


# --- headers

DATES = st.tuples(
    st.sampled_from(["Sun, ", "", "Xyz, "]),
    st.integers(-1, 10**12) | st.integers(1, 31),
    st.sampled_from([" Nov ", " 11 ", " "]),
    st.integers(-1, 10**6) | st.integers(1970, 2030),
    st.sampled_from([" 12:00:00", " 99:99:99", " 12", ""]),
    st.sampled_from([" GMT", " +0000", " -2359", " +999999999999", " X", ""]),
).map(lambda parts: "".join(map(str, parts)))
LINES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20) | DATES | st.floats().map(str)


@given(STATUSES, st.none() | LINES, st.none() | LINES)
@example(429, "Mon, 22 Nov 2027 12:00:00 -9999999999999", None)
@example(503, "9" * 5000, "Sun, 22 Nov 2026 12:00:00 +0000")
def test_a_refusing_status_names_a_bounded_wish(status: int, wish: str | None, date: str | None) -> None:
    """Whatever the two headers hold there is an error, and the patience it asks for is 0 to 900 s."""
    headers = {name: value for name, value in (("Retry-After", wish), ("Date", date)) if value is not None}
    error = status_error(Answer(status, {name.lower(): value for name, value in headers.items()}), "the task API")
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= 900
    assert error.retry_after_s is None or isinstance(error, errors.Throttled)
    assert str(error).partition(",")[0] == f"the task API answered {status}"


@given(st.text(max_size=40) | DATES)
def test_a_date_is_aware_or_none(text: str) -> None:
    when = _date(text)
    assert when is None or (isinstance(when, datetime) and when.tzinfo is not None)


ENCODINGS = st.sampled_from(["gzip", "br", "zstd", "deflate", "identity", "", " Identity ", "gzip, gzip", "x"]) | LINES


@given(
    st.sampled_from([200, 206, 404, 500]),
    st.sampled_from(["", "identity"]) | ENCODINGS,
    st.lists(st.binary(min_size=1, max_size=9), max_size=9),
    st.integers(-9, 9),
)
def test_an_answer_is_plain_and_bounded_or_invalid(status: int, encoding: str, chunks: list[bytes], room: int) -> None:
    """Bytes that arrive are the bytes that were sent, no more than the limit: nothing is ever unpacked."""

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def ask() -> bytes:
        def answer(_: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(status, headers={"Content-Encoding": encoding}, content=body())

        client = mock_client(answer, "https://api.test", max_answer_bytes=limit)
        return (await client.exchange("GET", "https://api.test/", timeout_s=5)).content

    sent, good = b"".join(chunks), 200 <= status < 300
    limit = max(len(sent) + room, 0)
    try:
        received = asyncio.run(ask())
    except errors.InvalidAnswer:
        assert good
        assert len(sent) > limit or encoding.strip().lower() not in ("", "identity")
        return
    assert received == sent or (received == b"" and not good)
    assert len(received) <= limit or not good


# --- hosts


@given(st.lists(st.text("*.:/0123456789af-[]e%,", max_size=12) | st.text(max_size=5), max_size=4))
def test_no_entry_of_no_proxy_raises(entries: list[str]) -> None:
    """Each is a host, a network or nothing, for names and addresses alike."""
    hosts = name_list(",".join(entries))
    for netloc in ("api.test", "api.test:8443", "10.0.0.1", "[::1]:8443", "[fe80::1%25eth0]"):
        assert bypassed(netloc, hosts) in (True, False)
