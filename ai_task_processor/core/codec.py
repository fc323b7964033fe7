"""Reads and writes JSON and float32 vectors.

Vectors stay four-byte floats everywhere and are written with the shortest digits that read back
as the same float32: half the bytes of the usual seventeen digits. Output of processors is
written strictly: NaN and infinity are errors, because JSON cannot represent them.
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
#: range of the largest component of a usable embedding, whatever its norm
SMALLEST_MAX, LARGEST = 1e-6, 1e6
#: precision of float32 relative to the largest component; smaller components carry no information
PRECISION = 2.0**-24
#: from this many components on, whole numbers only are no coincidence
QUANTIZED_FROM = 16


def loads(data: bytes) -> object:
    """Parse strict JSON: no NaN, no infinity, valid UTF-8, bounded depth. Raises ``ValueError``."""
    return orjson.loads(data)


def dumps(value: object) -> bytes:
    """Write a processor's output, which may contain pydantic models anywhere. Raises ``ValueError``."""
    try:
        return json.dumps(value, default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not JSON: {type(error).__name__}") from error


def line(value: Mapping[str, object]) -> bytes:
    """A JSON object on one line, for values that are known to be JSON."""
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
    """32 hex digits that identify a task's content: a dead letter applies only to the content it was made of.

    All content that JSON cannot represent, or that is nested too deep, has the same fingerprint.
    """
    try:
        written = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        written = b""
    return hashlib.blake2b(written, digest_size=16).hexdigest()


def vector(values: str | Sequence[float], dimensions: int | None = None) -> Vector | None:
    """A model's vector from base64 float32 or a list of numbers; None when it is not usable.

    Usable means: the expected number of ``dimensions`` (any, when None), and values that an embedding can have:
    every component finite in float32, the largest between a millionth and a million, and few below the precision
    of float32 relative to it. Base64 of float64, of float16 or of big-endian numbers does not pass when it is read
    as float32. Without expected ``dimensions``, whole numbers only do not pass: they are quantized (int8).
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
            return None  # float64 converted from float16: every other word is zero
        if lost - (array.size - np.count_nonzero(sizes)) > array.size // 16:
            return None
    return Vector(array.tobytes())


def pseudo_vector(seed: bytes, dimensions: int) -> Vector:
    """A unit vector that depends only on the seed: the same on every machine and in every version."""
    words = np.frombuffer(hashlib.shake_256(seed).digest(4 * dimensions), "<u4").astype(np.float64)
    centred = words / 2**31 - 1.0
    return Vector((centred / np.linalg.norm(centred)).astype(_FLOAT32).tobytes())
