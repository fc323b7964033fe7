"""``CONCURRENCY_LIMITS`` against the types that there are."""

import pytest

from ai_task_processor.processors.type_limits import limits_of


@pytest.mark.parametrize(
    ("asked", "limits", "warning"),
    [
        ({"text-embedding": 2}, {"text_embedding": 2}, None),
        ({"summarize": 8}, {"summarize": 8}, None),
        (
            {"summarize": 9},
            {"summarize": 9},
            "permits 9 summarize tasks, but CONCURRENCY_LIMIT only 8 in all: lower it,",
        ),
        ({"sumarize": 1}, {"sumarize": 1}, "'sumarize': correct it to one of summarize, text_embedding"),
    ],
)
def test_an_odd_limit_is_warned_of(asked: dict[str, int], limits: dict[str, int], warning: str | None) -> None:
    found, warnings = limits_of(asked, ["text_embedding", "summarize"], 8)
    assert found == limits
    assert [warning in line for line in warnings if warning] == ([True] if warning else [])
