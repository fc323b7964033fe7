"""Mock processing: realistic vectors without a model."""

import numpy as np
import pytest

from ai_task_processor.models.task import Vector
from ai_task_processor.providers.mock import MockProvider


def numbers(vector: Vector | None) -> np.ndarray:
    assert vector is not None
    return np.frombuffer(vector.data, "<f4").astype(np.float64)


@pytest.mark.parametrize(
    ("model", "dimensions"),
    [("text-embedding-3-small", 1536), ("text-embedding-3-large", 3072), ("a-model-of-tomorrow", 1536)],
)
async def test_vectors_look_like_the_models(model: str, dimensions: int) -> None:
    """Unit length and the model's dimensions, unless others are asked for."""
    (vector,) = (await MockProvider().embed(["hello"], model)).vectors
    assert numbers(vector).shape == (dimensions,)
    assert np.linalg.norm(numbers(vector)) == pytest.approx(1.0, abs=1e-6)
    (short,) = (await MockProvider(256).embed(["hello"], model)).vectors
    assert numbers(short).shape == (256,)


async def test_a_text_has_one_vector_and_no_other_text_has_it() -> None:
    """The same in every process, alone or in company; other texts and other models are far away."""
    (alone,) = (await MockProvider().embed(["a"], "m")).vectors
    first, second = (await MockProvider().embed(["a", "b"], "m")).vectors
    (other,) = (await MockProvider().embed(["a"], "n")).vectors
    assert alone == first
    assert abs(numbers(first) @ numbers(second)) < 0.2
    assert abs(numbers(first) @ numbers(other)) < 0.2


async def test_usage_is_counted_in_tokens() -> None:
    """About four bytes of UTF-8 are a token, rounded up for each text."""
    usage = (await MockProvider().embed(["12345", "1", "ü€"], "m")).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (2 + 1 + 2, 5)
