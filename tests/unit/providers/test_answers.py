"""Answers of model APIs: a vector is right, or it is none; and what headers tell of limits."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.core.errors import CallRefused, InvalidAnswer, ModelRefused, QuotaExhausted, RemoteError
from ai_task_processor.core.ports import Allowance, RateLimits
from ai_task_processor.models.task import Usage, Vector
from ai_task_processor.providers.answers import LONGEST_RESET_S, duration_s, parse_embeddings, parse_limits

#: no ``index`` at all
NONE = "no index"


def base64_of(*values: float, code: str = "<f4") -> str:
    return base64.b64encode(np.array(values, code).tobytes()).decode()


def vector_of(*values: float) -> Vector:
    return Vector(np.array(values, "<f4").tobytes())


def answer(*vectors: object, indices: tuple[object, ...] | None = None, **more: object) -> bytes:
    places = range(len(vectors)) if indices is None else indices
    data = [
        {"embedding": vector} if index == NONE else {"index": index, "embedding": vector}
        for index, vector in zip(places, vectors, strict=True)
    ]
    return json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 7}} | more).encode()


def error_of(content: bytes, count: int = 1, dimensions: int | None = None) -> RemoteError:
    with pytest.raises(RemoteError) as raised:
        parse_embeddings(content, count, dimensions)
    return raised.value


NO_ANSWERS = ["<html>Please log in</html>", "", "null", "[]", "{}", "[1,", "\xff"]
NO_DATA = ["null", "[]", "{}", "[null]", "[[1.0]]", '[{"index":0}]']
NO_INDICES = ['"0"', "false", "0.0", "1", "-1"]
NO_VECTORS = ["[]", "[0.0,0.0]", "[NaN]", "[1e999]", '"AADAfw=="', '[1.0]},{"index":1,"embedding":[1.0]']


@pytest.mark.parametrize(
    "content",
    [
        *NO_ANSWERS,
        *(f'{{"data":{data}}}' for data in NO_DATA),
        *(f'{{"data":[{{"index":{index},"embedding":[1.0]}}]}}' for index in NO_INDICES),
        *(f'{{"data":[{{"index":0,"embedding":{vector}}}]}}' for vector in NO_VECTORS),
    ],
)
def test_an_answer_without_a_usable_vector_is_invalid(content: str) -> None:
    """HTML, missing data, wrong counts and indices, NaN, zeros: the remote's fault, to be tried again."""
    assert type(error_of(content.encode("latin-1"))) is InvalidAnswer


@pytest.mark.parametrize("vectors", [0, 1, 2, 4, 100])
def test_as_many_vectors_as_texts(vectors: int) -> None:
    """One too few or too many makes every vector doubtful."""
    assert type(error_of(answer(*[[1.0]] * vectors), 3)) is InvalidAnswer


# --- whose vector it is


@pytest.mark.parametrize(
    ("indices", "order"),
    [
        ((0, 1, 2), "abc"),
        ((2, 0, 1), "bca"),
        ((NONE, NONE, NONE), "abc"),
        ((None, None, None), "abc"),
        ((NONE, 1, 2), "abc"),
        ((2, NONE, 1), "bca"),
        ((2, 1, None), "cba"),
        ((NONE,), "a"),
        ((0,), "a"),
    ],
)
def test_an_index_says_whose_vector_it_is(indices: tuple[object, ...], order: str) -> None:
    """Without any it is the order; who leaves out what is 0, as protobuf's JSON does, leaves it out once."""
    letters = {"a": 1.0, "b": 2.0, "c": 3.0}
    content = answer(*([letters[name]] for name in "abc"[: len(indices)]), indices=indices)
    got = parse_embeddings(content, len(order), None)
    assert got.vectors == [vector_of(letters[name]) for name in order]


@pytest.mark.parametrize(
    "indices",
    [(0, 0, 1), (1, 1, 1), (0, 2, 3), (1, 2, 3), (NONE, NONE, 2), (NONE, 0, 1),
     (-1, 0, 1), (0, 1, 2**70), (0, 1, True)],
)  # fmt: skip
def test_every_index_comes_once(indices: tuple[object, ...]) -> None:
    """A doubled, foreign or twice omitted index makes every vector doubtful."""
    assert type(error_of(answer([1.0], [2.0], [3.0], indices=indices), 3)) is InvalidAnswer


@pytest.mark.parametrize("indices", [(0, 0, 0), (0, NONE, 0)])
def test_a_server_that_writes_0_everywhere_is_asked_for_one_text_at_a_time(indices: tuple[object, ...]) -> None:
    """Its vectors cannot be told apart, so the call was too large, and the limit is one."""
    error = error_of(answer([1.0], [2.0], [3.0], indices=indices), 3)
    assert isinstance(error, CallRefused)
    assert (error.too_large, error.limit, error.final) == (True, 1, None)
    assert parse_embeddings(answer([1.0], indices=(0,)), 1, None).vectors == [vector_of(1)]


# --- whether it is a vector


def test_one_bad_vector_does_not_spoil_the_others() -> None:
    """Each unusable vector is None; one of another length is the caller's to judge."""
    got = parse_embeddings(answer([1.0, 2.0], [0.0, 0.0], [1.0], base64_of(3.0, 4.0), "garbage", None), 6, None)
    assert got.vectors == [vector_of(1, 2), None, vector_of(1), vector_of(3, 4), None, None]
    got = parse_embeddings(answer([1.0, 2.0], [1.0], base64_of(3.0, 4.0, 5.0)), 3, 2)
    assert got.vectors == [vector_of(1, 2), None, None]


@pytest.mark.parametrize("code", ["<f8", "<f2", ">f4", ">f8"])
def test_base64_of_something_else_than_float32_is_no_vector(code: str) -> None:
    """Doubles, halves and big-endian numbers are told by the values that they would be, whoever expects no length."""
    values = np.random.default_rng(1).normal(0, 0.1, 64)
    assert type(error_of(answer(base64_of(*values, code=code)))) is InvalidAnswer


def test_digits_are_rounded_to_float32() -> None:
    assert parse_embeddings(answer([0.1, 1 / 3]), 1, None).vectors == [vector_of(0.1, 1 / 3)]


@pytest.mark.parametrize(
    "usage", [None, {}, "x", {"prompt_tokens": -1}, {"prompt_tokens": "7"}, {"prompt_tokens": 2**60}]
)
def test_nonsense_usage_counts_nothing(usage: object) -> None:
    """A vector is worth more than its bill."""
    assert parse_embeddings(answer([1.0], usage=usage), 1, None).usage == Usage(0)


# --- 200 with an error


@pytest.mark.parametrize(
    ("body", "kind", "too_large"),
    [
        ({"error": {"message": "Provider returned error", "code": 500}}, CallRefused, False),
        ({"error": "no"}, CallRefused, False),
        ("no", CallRefused, False),
        ({"error": {"code": 429}}, CallRefused, False),
        ({"data": None, "error": {"message": "model m not found"}}, CallRefused, False),
        ({"error": {"message": "maximum context length is 8192 tokens"}}, CallRefused, True),
        ({"errors": [{"message": "batch size 64 > maximum allowed batch size 32"}]}, CallRefused, True),
        ([{"error": {"message": "bad", "status": "INVALID_ARGUMENT"}}], CallRefused, False),
        ({"error": {"message": "no", "type": "insufficient_quota"}}, QuotaExhausted, None),
        ({"code": "Arrearage", "message": "Access denied"}, QuotaExhausted, None),
        ({"error": None}, InvalidAnswer, None),
        ({"error": {}}, InvalidAnswer, None),
        ({"id": 7, "object": "list"}, InvalidAnswer, None),
    ],
)
def test_an_error_with_status_200_ends_no_text(body: object, kind: type, too_large: bool | None) -> None:
    """It is about this call, or about who pays; no text fails by it, whatever its words say."""
    error = error_of(json.dumps(body).encode())
    assert type(error) is kind
    assert not isinstance(error, ModelRefused)
    if isinstance(error, CallRefused):
        assert (error.status, error.final, error.explained, error.too_large) == (200, None, False, too_large)


# --- limits


REQUESTS = {"limit-requests": "10000", "remaining-requests": "9999", "reset-requests": "8.64s"}
TOKENS = {"limit-tokens": "1000000", "remaining-tokens": "0", "reset-tokens": "6m0s"}
ALL = {f"x-ratelimit-{name}": value for name, value in (REQUESTS | TOKENS).items()}


def test_limits_are_read_as_openai_writes_them() -> None:
    assert parse_limits(ALL) == RateLimits(Allowance(10_000, 9_999, 8.64), Allowance(1_000_000, 0, 360.0))
    assert parse_limits({}) == RateLimits()


@pytest.mark.parametrize("missing", ["limit", "remaining", "reset"])
@pytest.mark.parametrize("nonsense", [None, "", "-1", "nan", "inf", "1e3", "9" * 16, "١٢", "7, 8", "soon", "10y"])
def test_a_kind_of_which_one_header_makes_no_sense_is_ignored(missing: str, nonsense: str | None) -> None:
    """All three or nothing; the other kind stays as it is."""
    headers = {name: value for name, value in ALL.items() if name != f"x-ratelimit-{missing}-requests"}
    if nonsense is not None:
        headers[f"x-ratelimit-{missing}-requests"] = nonsense
    assert parse_limits(headers) == RateLimits(None, Allowance(1_000_000, 0, 360.0))


@pytest.mark.parametrize(("limit", "remaining"), [("0", "0"), ("10", "11")])
def test_a_contradiction_is_ignored(limit: str, remaining: str) -> None:
    headers = ALL | {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": remaining}
    assert parse_limits(headers).requests is None


DURATIONS = {"1s": 1.0, "6m0s": 360.0, "12ms": 0.012, "1h2m3.5s": 3723.5, "523µs": 0.000523, "24h": 86_400.0,
             "0": 0.0, "17": 17.0, "1.25": 1.25}  # fmt: skip
NO_DURATIONS = ["24h0m0.1s", "87600h", "1 s", "s", "1.s", "+1s", "1s "]


@pytest.mark.parametrize("text", [*DURATIONS, *NO_DURATIONS])
def test_durations_are_read(text: str) -> None:
    """Go's form, as OpenAI writes it, and plain seconds; a reset that is more than a day away is none."""
    assert duration_s(text) == (pytest.approx(DURATIONS[text]) if text in DURATIONS else None)


@given(st.fixed_dictionaries(dict.fromkeys(ALL, st.text(max_size=40) | st.from_regex(r"[0-9.hms]{0,40}"))))
def test_whatever_stands_in_a_header_makes_sense_or_nothing(headers: dict[str, str]) -> None:
    """No text raises, and what comes out keeps its promise."""
    for allowance in (parse_limits(headers).requests, parse_limits(headers).tokens):
        if allowance is not None:
            assert 0 <= allowance.remaining <= allowance.limit < 10**15
            assert allowance.limit > 0
            assert 0 <= allowance.reset_s <= LONGEST_RESET_S
