"""JSON and float32: the one place where bytes become values and values become bytes.

Vectors stay four-byte floats all the way and are written with the shortest digits that read back
as the same float32: half the bytes of the usual seventeen digits. What a processor returns is
written strictly: NaN and infinity are errors, because JSON has no word for them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import orjson
import pybase64
from pydantic import BaseModel

from ai_task_processor.models.task import Vector

_FLOAT32 = np.dtype("<f4")
#: what the largest component of an embedding is between, whatever its norm
SMALLEST_MAX, LARGEST = 1e-6, 1e6
#: of float32, relative to the largest component: below it a component says nothing
PRECISION = 2.0**-24
#: so many whole numbers are no accident
QUANTIZED_FROM = 16


def loads(data: bytes) -> object:
    """Parse strict JSON: no NaN, no infinity, valid UTF-8, bounded depth. Raises ``ValueError``."""
    return orjson.loads(data)


def dumps(value: object) -> bytes:
    """Write what a processor returned; pydantic models are welcome anywhere inside. Raises ``ValueError``."""
    try:
        return json.dumps(value, default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not JSON: {type(error).__name__}") from error


def line(value: Mapping[str, object]) -> bytes:
    """A JSON object of our own on one line."""
    return orjson.dumps(value)


def result_json(output: object, vector: Vector | None) -> bytes:
    """A task's result in JSON: the output, the vector as an array of numbers, or the vector in the output's object.

    Beside an object the vector becomes its ``embedding``.
    """
    if vector is None:
        return dumps(output)
    value: object = np.frombuffer(vector.data, _FLOAT32)
    if isinstance(output, Mapping):
        value = {"embedding": value, **{key: orjson.Fragment(dumps(part)) for key, part in output.items()}}
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")


def fingerprint(content: object) -> str:
    """32 hex digits that identify a task's content: a dead letter stands only for the content it was made of.

    Content that JSON cannot hold, or that is nested too deep to be written, is all the same.
    """
    try:
        written = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        written = b""
    return hashlib.blake2b(written, digest_size=16).hexdigest()


def vector(values: str | Sequence[float], dimensions: int | None = None) -> Vector | None:
    """A model's vector from base64 float32 or a list of numbers; None when it is not usable.

    Usable means: the expected number of ``dimensions`` (any, when None), and values that an embedding can have:
    every component finite in float32, the largest between a millionth and a million, and hardly any of less than
    the precision of float32 beside it. Base64 of float64, of float16 or of big-endian numbers, read as float32,
    breaks that. So do, where no length is expected, whole numbers alone: they are quantized (int8).
    """
    try:
        if isinstance(values, str):
            array = np.frombuffer(pybase64.b64decode(values, validate=True), _FLOAT32)
        else:
            with np.errstate(over="ignore"):
                array = np.asarray(values, dtype=np.float64).astype(_FLOAT32)
    except (ValueError, TypeError, OverflowError):
        return None
    if array.ndim != 1 or array.size == 0 or (dimensions is not None and array.size != dimensions):
        return None
    sizes = np.abs(array)
    largest = float(sizes.max())
    if not SMALLEST_MAX <= largest <= LARGEST:  # not so for NaN, either
        return None
    if dimensions is None and largest > 1.0 and array.size >= QUANTIZED_FROM and not np.any(array - np.trunc(array)):
        return None
    lost = array.size - np.count_nonzero(sizes >= largest * PRECISION)
    if lost > array.size // 16:
        if array.size >= QUANTIZED_FROM and not array[::2].any():
            return None  # float64 that hold no more than float16 did: every other word is empty
        if lost - (array.size - np.count_nonzero(sizes)) > array.size // 16:
            return None
    return Vector(array.tobytes())


def pseudo_vector(seed: bytes, dimensions: int) -> Vector:
    """A unit vector that depends on the seed alone, the same on every machine and in every version."""
    words = np.frombuffer(hashlib.shake_256(seed).digest(4 * dimensions), "<u4").astype(np.float64)
    centred = words / 2**31 - 1.0
    return Vector((centred / np.linalg.norm(centred)).astype(_FLOAT32).tobytes())
