"""Long texts: estimates that follow what a model charges, and cuts that lose nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.processors.chat.parts import MAX_MODELS, TokenEstimates, cut, pieces


@given(st.text(min_size=1, max_size=300), st.integers(4, 50))
def test_nothing_is_lost_and_nothing_is_too_long(text: str, most: int) -> None:
    """Whole characters, no empty part, each within the limit."""
    data = text.encode()
    found = pieces(data, cut(data, most))
    assert "".join(found) == text
    assert all(0 < len(part.encode()) <= most for part in found)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("short", ["short"]),
        ("x" * 20, ["x" * 20]),
        ("x" * 21, ["x" * 20, "x"]),
        ("first words\n\nab. cd efgh", ["first words\n\nab. ", "cd efgh"]),
        ("one two three f\n\nsix seven", ["one two three f\n\n", "six seven"]),
        ("one\n\ntwo three. four f", ["one\n\ntwo three. ", "four f"]),
        ("é" * 21, ["é" * 10, "é" * 10, "é"]),
        ("😀" * 6, ["😀" * 5, "😀"]),
    ],
)
def test_parts_end_where_the_text_does(text: str, parts: list[str]) -> None:
    """Paragraphs first, then lines, sentences and words, in the last quarter of a part only."""
    data = text.encode()
    assert pieces(data, cut(data, 20)) == parts


def test_estimates_follow_the_usage() -> None:
    estimates, text = TokenEstimates(), b"x" * 10_000
    assert (estimates.tokens(text, "m"), estimates.room(2_500, "m")) == (2_500, 10_000)
    estimates.learn("m", 10_000, 5_000)
    assert (estimates.tokens(text, "m"), estimates.room(2_500, "m")) == (5_000, 5_000)
    estimates.learn("m", 10_000, 3_000)
    assert estimates.tokens(text, "m") == 4_500, "one prompt does not decide alone"
    assert estimates.tokens(text, "other") == 2_500


@pytest.mark.parametrize(("sent", "charged"), [(3_999, 3_999), (10_000, 0), (10_000, -5)])
def test_what_says_nothing_is_not_learnt(sent: int, charged: int) -> None:
    estimates = TokenEstimates()
    estimates.learn("m", sent, charged)
    assert estimates.tokens(b"x" * 400, "m") == 100


def test_estimates_are_bounded() -> None:
    """By what is possible, and in number."""
    estimates = TokenEstimates()
    for number in range(MAX_MODELS + 10):
        estimates.learn(f"m{number}", 4_000, 10**9)
    assert estimates.tokens(b"x" * 400, "m265") == 400
    assert estimates.tokens(b"x" * 400, "m0") == 100
    assert len(estimates._ratios) == MAX_MODELS
    estimates.learn("m265", 10**6, 1)
    assert 0 < estimates.tokens(b"x" * 400, "m265") < 400
