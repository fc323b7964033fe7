"""Bytes become values and values become bytes, without a bit lost."""

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ai_task_processor.core import codec
from ai_task_processor.core.records import to_outcome
from ai_task_processor.models.task import Completed, Failed, Failure, TaskResult, TaskStatus, Vector
from tests.nest import BARE_FAILURE, body_of
from tests.unit.records import record

SCALES = st.sampled_from([1.0, -1.0, 0.001, 1000.0])
#: components of an embedding, whose largest is one of 1 to 1000
FLOAT32 = (
    st.lists(st.floats(-1, 1, width=32).filter(lambda value: value == 0 or abs(value) > 2**-14), max_size=50)
    .flatmap(lambda rest: st.permutations([*rest, 1.0]))
    .flatmap(lambda values: SCALES.map(lambda scale: [scale * value for value in values]))
)


WHOLE = [float(number) for number in range(-8, 8)]


def vector_of(*values: float) -> Vector:
    return Vector(np.array(values, "<f4").tobytes())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1,]",
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"9" * 5000,
        b"[" * 100_000,
        b'"\xff"',
        b'"\\ud800"',
        b"[1] [2]",
        b"\xef\xbb\xbf[]",
    ],
)
def test_what_is_not_strict_json_is_a_value_error(text: bytes) -> None:
    """Whatever a remote sends, parsing answers or raises ``ValueError``, and never a surprise."""
    with pytest.raises(ValueError):  # noqa: PT011  the parser's own words, not ours to promise
        codec.loads(text)


class Point(BaseModel):
    x: float


def test_what_a_processor_returns_is_written() -> None:
    value = {"points": [Point(x=1.5)], "text": "ü€😀", "big": 2**70}
    assert json.loads(codec.dumps(value)) == {"points": [{"x": 1.5}], "text": "ü€😀", "big": 2**70}


def circular() -> list[object]:
    inside: list[object] = []
    inside.append(inside)
    return inside


def deep(levels: int) -> object:
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], Point(x=math.nan), {1, 2}, b"bytes", object(), "\ud800", circular(), deep(100_000)],
    ids=lambda value: type(value).__name__,
)
def test_what_json_has_no_word_for_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the writer's own words, not ours to promise
        codec.dumps(value)


def test_a_fingerprint_is_about_the_content_alone() -> None:
    """The order of keys changes nothing, any value does."""
    assert codec.fingerprint({"a": 1, "b": [2]}) == codec.fingerprint({"b": [2], "a": 1})
    assert codec.fingerprint({"a": 1}) != codec.fingerprint({"a": 2})
    assert len(codec.fingerprint(None)) == 32


@pytest.mark.parametrize("depth", [100, 253, 254, 300, 1000])
def test_whatever_can_be_parsed_has_a_fingerprint(depth: int) -> None:
    """Content nested deeper than the writer goes must not stop the poll that listed it."""
    content = codec.loads(b'{"a":' * depth + b"1" + b"}" * depth)
    assert len(codec.fingerprint(content)) == 32


@given(FLOAT32)
def test_vectors_keep_every_bit(values: list[float]) -> None:
    """From base64 to the PATCH body and back: the same float32, in the shortest digits."""
    data = np.array(values, "<f4").tobytes()
    parsed = codec.vector(base64.b64encode(data).decode(), len(values))
    assert parsed is not None
    assert parsed.data == data
    body = body_of(Completed(TaskResult(vector=parsed)))
    assert np.array(json.loads(body)["result"], "<f4").tobytes() == data
    assert len(body) <= 40 + 17 * len(values)


def test_numbers_are_written_short() -> None:
    """0.1 as float32 is 0.1, not 0.10000000149011612."""
    assert body_of(Completed(TaskResult(vector=vector_of(0.1, -1.5)))) == b'{"state":"succeeded","result":[0.1,-1.5]}'


@pytest.mark.parametrize(
    "values",
    [
        "",
        "AAAA",
        "not base64!",
        base64.b64encode(bytes(8)).decode(),
        base64.b64encode(np.array([1.0], "<f4").tobytes()).decode() + "\n",
        base64.b64encode(np.array([math.nan], "<f4").tobytes()).decode(),
        base64.b64encode(np.array([math.inf], "<f4").tobytes()).decode(),
        "ü",
        [],
        [0.0, -0.0],
        [math.nan, 1.0],
        [1e39, 1.0],
        [[1.0, 2.0]],
        [[1.0], [2.0, 3.0]],
        [None, 1.0],
        ["x"],
        {"0": 1.0},
        None,
        5,
    ],
    ids=repr,
)
def test_an_unusable_vector_is_none(values: object) -> None:
    """Garbage, NaN, infinity, zeros, nesting: no exception, no warning, no vector."""
    assert codec.vector(values) is None  # type: ignore[arg-type]  # what a server may answer


def embedding(seed: int, length: int, spread: float = 0.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A unit vector; the larger ``spread`` is, the more its components differ."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=length) * np.exp(spread * rng.normal(size=length))
    return values / np.linalg.norm(values)


LENGTHS = st.sampled_from([32, 64, 384, 512, 768, 1024, 1536, 3072, 4096])


@given(st.integers(0, 2**32), LENGTHS, st.floats(0, 1.5), st.sampled_from([1e-3, 1.0, 30.0, 1e4]), st.floats(0, 0.9))
def test_what_embeddings_are_like_is_a_vector(seed: int, length: int, spread: float, norm: float, zeros: float) -> None:
    """Any length and norm, components of very different sizes, many of them zero: none is refused."""
    values = embedding(seed, length, spread) * norm
    values[1 : int(zeros * length)] = 0.0
    data = values.astype("<f4").tobytes()
    for expected in (None, length):
        assert codec.vector(base64.b64encode(data).decode(), expected) == Vector(data)
        assert codec.vector(values.tolist(), expected) == Vector(data)


@given(st.integers(0, 2**32), LENGTHS, st.floats(0, 1), st.sampled_from(["<f8", ">f8", "<f2", ">f4", ">f2"]))
def test_base64_of_other_numbers_is_none(seed: int, length: int, spread: float, code: str) -> None:
    """Doubles, halves and big-endian numbers, read as float32, are no embedding, though the length may be right."""
    data = embedding(seed, 2 * length, spread).astype(code).tobytes()
    for expected in (None, len(data) // 4):
        assert codec.vector(base64.b64encode(data).decode(), expected) is None


@pytest.mark.parametrize("length", [64, 1024])
def test_base64_of_doubles_that_were_halves_is_none(length: int) -> None:
    """A server that computes in half precision and packs doubles: every second float32 is zero."""
    data = embedding(1, length).astype("<f2").astype("<f8").tobytes()
    assert codec.vector(base64.b64encode(data).decode()) is None


@pytest.mark.parametrize(
    "values",
    [
        [1e19, 1.0],
        [1e6 * 1.01],
        [-3e38] * 8,
        [1e-7] * 8,
        [1e-38, -1e-40],
        [1.0] + [1e-9] * 15,
        WHOLE,
        [127.0, -128.0] * 8,
    ],
    ids=repr,
)
def test_values_that_no_embedding_has_are_none(values: list[float]) -> None:
    """Larger than a million, smaller than a millionth, nothing beside one component, whole numbers alone."""
    assert codec.vector(values) is None
    assert codec.vector(base64.b64encode(np.array(values, "<f4").tobytes()).decode()) is None


@pytest.mark.parametrize(
    ("values", "length", "usable"),
    [
        pytest.param([0.1, 1 / 3], None, True, id="digits of a double are rounded to float32"),
        pytest.param(WHOLE, 16, True, id="whole numbers of an expected length are what was asked for"),
        pytest.param([3.0, 4.0], None, True, id="a few whole numbers are no quantized vector"),
        pytest.param([1.0, 0.0, -1.0, 1.0] * 8, None, True, id="nor are signs alone"),
        pytest.param([1.0, 2.0], 2, True, id="of the expected length"),
        pytest.param([1.0, 2.0], 3, False, id="of another length"),
    ],
)
def test_numbers_are_a_vector(values: list[float], length: int | None, usable: bool) -> None:
    assert codec.vector(values, length) == (vector_of(*values) if usable else None)


OBJECT = {"model": "m", "usage": {"total_tokens": 3}}


@pytest.mark.parametrize(
    ("result", "written"),
    [
        *((TaskResult(output), output) for output in ({"a": 1}, [1, 2], "text", 0, False, "")),
        (TaskResult(OBJECT, vector=vector_of(0.5)), {"embedding": [0.5], **OBJECT}),
    ],
    ids=repr,
)
def test_any_json_can_be_a_result(result: TaskResult, written: object) -> None:
    """The output is sent as it is, falsy ones included; beside an object the vector becomes its ``embedding``."""
    assert json.loads(body_of(Completed(result))) == {"state": "succeeded", "result": written}


def test_a_failure_is_told_with_and_without_its_reason() -> None:
    """Code and message, or nothing but the state."""
    told = json.loads(body_of(Failed(Failure("empty_text", "the text is empty"))))
    assert told == {"state": "failed", "error": {"code": "empty_text", "message": "the text is empty"}}
    assert json.loads(BARE_FAILURE) == {"state": "failed"}


def test_a_record_tells_what_was_decided() -> None:
    """What the outbox kept comes back as the result or the failure it was."""
    vector = vector_of(1.0)
    assert to_outcome(record(body=b"null", vector=vector.data)) == Completed(TaskResult(vector=vector))
    assert to_outcome(record(body=b'{"a":1}')) == Completed(TaskResult({"a": 1}))
    failed = record(status=TaskStatus.FAILED, body=b'{"code":"x","message":"y"}')
    assert to_outcome(failed) == Failed(Failure("x", "y"))


def test_pseudo_vectors_never_change() -> None:
    """Unit length, the same for the same seed on every machine, different for another."""
    made = codec.pseudo_vector(b"seed", 1536)
    values = np.frombuffer(made.data, "<f4")
    assert float(np.linalg.norm(values.astype(np.float64))) == pytest.approx(1.0, abs=1e-6)
    assert made == codec.pseudo_vector(b"seed", 1536)
    assert made != codec.pseudo_vector(b"other", 1536)
    assert base64.b64encode(codec.pseudo_vector(b"seed", 2).data) == b"vA5Vv5jsDb8="
