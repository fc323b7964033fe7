"""The JSON value in an answer: strict first, then exactly one value that fits, or none."""

import pytest

from ai_task_processor.processors.chat.answers import Schema, UnusableAnswer, read_answer

SCHEMA = Schema(
    {
        "type": "object",
        "required": ["level"],
        "additionalProperties": False,
        "properties": {"level": {"enum": ["high", "low"]}},
    }
)
HIGH = '{"level": "high"}'


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        (HIGH, False),
        (f"\n {HIGH} \n", False),
        (f"```json\n{HIGH}\n```", True),
        (f"```\n{HIGH}```", True),
        (f"Sure! Here it is: {HIGH} Anything else?", True),
        (f'Not {{this}}, nor {{"level": "none"}}, nor [1], but {HIGH}', True),
        (f"{{{{ {HIGH}", True),
    ],
)
def test_a_usable_answer(text: str, repaired: bool) -> None:
    """Text around is removed when exactly one value in it fits."""
    assert read_answer(text, SCHEMA) == ({"level": "high"}, repaired)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "high",
        '"high"',
        "null",
        "{}",
        '{"level": "High"}',
        '{"level": "high", "why": "x"}',
        f"{HIGH} or perhaps {HIGH}",
        f'{HIGH} {{"level": "low"}}',
        f"[{HIGH}]",
        '{"level": "hi',
        '{"level": NaN}',
        "[" * 100_000,
        "{" * 100_000,
        "\ud800" + HIGH + HIGH,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_an_unusable_answer(text: str) -> None:
    """Nothing is guessed: two fitting values are none."""
    with pytest.raises(UnusableAnswer) as raised:
        read_answer(text, SCHEMA)
    assert "level" not in str(raised.value)
    assert len(raised.value.reason) <= 500


def test_the_model_is_told_what_is_wrong() -> None:
    with pytest.raises(UnusableAnswer) as raised:
        read_answer('{"level": "extreme"}', SCHEMA)
    assert raised.value.reason == "at $.level: 'extreme' is not one of ['high', 'low']"


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"required": "a"}, {"properties": 3}])
def test_what_is_no_schema_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^\$"):
        Schema(schema)
