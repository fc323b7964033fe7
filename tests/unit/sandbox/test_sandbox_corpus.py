"""The demo's tasks are what the module says they are."""

from ai_task_processor.sandbox.corpus import demo_tasks, numbered_text
from ai_task_processor.sandbox.model import MAX_INPUT_TOKENS, count_tokens


def test_composition_is_the_documented_one() -> None:
    """300 texts, 12 of them repeated, and three records that do not end well, at their places."""
    tasks = demo_tasks()
    odd = [tasks[place] for place in (50, 100, 150)]
    texts = [task["text"] for task in tasks if task not in odd]
    assert len(tasks) == 303
    assert (len(texts), len(set(texts))) == (300, 288)
    assert odd[0]["type"] == "image_generation"
    assert odd[1]["raw"] == {"_id": None}
    assert "[[refuse]]" in odd[2]["text"]
    assert not any("[[refuse]]" in text for text in texts)


def test_texts_differ_in_language_and_length() -> None:
    """Ten languages begin differently; lengths span more than a factor of ten; none is too long for a model."""
    texts = [task["text"] for task in demo_tasks()]
    assert len({text[:5] for text in texts[:10]}) == 10
    assert max(map(len, texts)) > 10 * min(map(len, texts))
    assert max(map(count_tokens, texts)) < MAX_INPUT_TOKENS


def test_numbered_texts_never_repeat() -> None:
    assert len({numbered_text(n) for n in range(5000)}) == 5000
