"""Deterministic embeddings: the same text, model and length always give the same float32 bits."""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

#: The native length of each model that the sandbox offers.
DIMENSIONS: Mapping[str, int] = MappingProxyType(
    {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
)


def unit_vector(text: str, model: str, dimensions: int) -> NDArray[np.float32]:
    """(dimensions,) float32 of length one, spread by SHAKE-256 over model, length and text."""
    seed = f"{model}\0{dimensions}\0{text}".encode("utf-8", "surrogatepass")
    words = np.frombuffer(hashlib.shake_256(seed).digest(4 * dimensions), dtype="<u4")
    spread = words.astype(np.float64) / 2**31 - 1.0
    return (spread / np.linalg.norm(spread)).astype("<f4")


def as_float32(numbers: object) -> bytes | None:
    """Little-endian float32 of a non-empty list of numbers, None for anything else."""
    if not isinstance(numbers, list) or not numbers or not all(type(n) in (float, int) for n in numbers):
        return None
    return np.array(numbers, dtype="<f4").tobytes()


def numbers(data: bytes) -> list[float]:
    """The numbers of little-endian float32 bytes."""
    return [float(number) for number in np.frombuffer(data, "<f4")]
