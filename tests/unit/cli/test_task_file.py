"""Files with one task: what is a task, and what is said about everything else."""

import json
from pathlib import Path

import pytest

from ai_task_processor.cli.bodies import for_terminal
from ai_task_processor.cli.task_file import read_json, task_in
from ai_task_processor.core import plugins
from ai_task_processor.core.errors import ConfigurationError

SIMPLE = {"type": "echo", "content": {"a": 1}}
NEST = {"_id": "6a", "type": "text_embedding", "state": "failed", "content": {"text": "x"}}
PLAYGROUND = {"id": "6a", "type": "summarize", "status": "done", "input": {"text": "x", "_user_id_hash": "y"}}
DUE = {"id": 7, "title": "Tea", "due_date": "2026-12-01T10:00:00"}


class Stranger:
    """A source that cannot read a record."""

    name = "stranger"


@pytest.mark.parametrize(
    ("source", "value", "task"),
    [
        ("aletheia", SIMPLE, ("no-id", "echo", {"a": 1})),
        ("aletheia", {**SIMPLE, "id": 5}, ("5", "echo", {"a": 1})),
        ("aletheia", NEST, ("6a", "text_embedding", {"text": "x"})),
        ("agents-playground", PLAYGROUND, ("6a", "summarize", {"text": "x"})),
        ("agents-playground", {**SIMPLE, "id": "5"}, ("5", "echo", {"a": 1})),
        ("due-soon", DUE, ("7@2026-12-01T10:00:00Z", "reminder", DUE)),
        ("task-runner", SIMPLE, ("no-id", "echo", {"a": 1})),
        (None, SIMPLE, ("no-id", "echo", {"a": 1})),
    ],
)
def test_a_task_is_read(source: str | None, value: object, task: tuple[object, ...]) -> None:
    """As the source lists it, whatever its state, or as type and content."""
    found = task_in(value, "task.json", Stranger if source is None else plugins.find("sources", source).load())
    assert (found.id, found.type, found.content) == task


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"type": "echo",\n "content": nothing}', "task.json:2:13: not JSON: "),
        (b"", "task.json:1:1: not JSON: "),
        (b'{"type": "echo",\n "content": "\xff"}', "task.json:2: not JSON: save it as UTF-8"),
        (b'{"type": "echo", "content": NaN}', "task.json: not JSON: NaN is no JSON"),
        (b"[" * 100_000, "task.json: not JSON: "),
        (b"[1]", 'task.json: a list is no task; a task is {"type": "…", "content": …}'),
        (b"null", "task.json: a value is no task; "),
        (b'{"content": 1}', "task.json: type is missing; "),
        (b'{"type": 5, "content": 1}', "task.json: type is no text; "),
        (b'{"type": "echo"}', "task.json: content is missing; "),
    ],
)
def test_what_is_no_task_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, problem: str) -> None:
    """Line and column of JSON, or the field."""
    monkeypatch.chdir(tmp_path)
    Path("task.json").write_bytes(text)
    with pytest.raises(ConfigurationError) as caught:
        task_in(read_json("task.json"), "task.json", Stranger)
    (told,) = caught.value.problems
    assert told.startswith(problem)


def test_a_record_without_id_says_what_the_source_lacks() -> None:
    aletheia = plugins.find("sources", "aletheia").load()
    with pytest.raises(ConfigurationError, match=r"content is missing; .* as the source aletheia lists it \(_id is"):
        task_in({"type": "echo"}, "task.json", aletheia)


def test_a_terminal_is_shown_the_beginnings() -> None:
    """Of vectors and long texts; everything else is whole."""
    report = {"result": {"embedding": [0.5] * 9, "areas": ["a"] * 9, "few": [1, 2], "text": "x" * 2_001}}
    assert json.loads(for_terminal(json.dumps(report).encode()))["result"] == {
        "embedding": [0.5] * 4 + ["… 9 numbers in all"],
        "areas": ["a"] * 9,
        "few": [1, 2],
        "text": "x" * 2_000 + "… 2001 characters in all",
    }
