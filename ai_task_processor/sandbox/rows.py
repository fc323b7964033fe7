"""Tasks as rows of a list: for ``GET /sandbox/tasks`` and the page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ai_task_processor.sandbox.answers import parsed, rendered
from ai_task_processor.sandbox.playground import PlaygroundTask
from ai_task_processor.sandbox.tasks import StoredTask
from ai_task_processor.sandbox.vectors import numbers

#: characters of an outcome, and numbers of a vector
_CHARACTERS, _NUMBERS = 100, 3


@dataclass(frozen=True, slots=True)
class Row:
    """``reports``: PATCHes to a final state that were applied. ``outcome``: the beginning of the result or error."""

    id: str
    type: str
    state: str
    reports: int
    outcome: str


def newest(tasks: Iterable[StoredTask | PlaygroundTask], state: str | None, limit: int) -> Sequence[Row]:
    """The last of these tasks that are in this state, the newest first."""
    found = [task for task in tasks if state in (None, task.state)]
    return [_row(task) for task in reversed(found[-limit:])]


def _row(task: StoredTask | PlaygroundTask) -> Row:
    if isinstance(task, PlaygroundTask):
        document = task.document
        error, output = document["error"], document["output"]
        return Row(task.id, document["type"], task.state, len(task.ended), _text(error) if error else _outcome(output))
    outcome = _text(_error(task.error)) if task.error is not None else _outcome(task.result)
    return Row(task.id, _type(task.record), task.state, task.patches, outcome)


def _type(record: bytes) -> str:
    """Records may be anything, on purpose."""
    try:
        fields = parsed(record)
    except ValueError:
        return ""
    return str(fields.get("type", "")) if isinstance(fields, dict) else ""


def _error(error: object) -> str:
    known = isinstance(error, dict) and isinstance(error.get("code"), str)
    return f"{error['code']}: {error.get('message', '')}" if known else _json(error)  # type: ignore[index,attr-defined]  # known


def _outcome(result: Any) -> str:
    if result is None:
        return ""
    if isinstance(result, dict) and isinstance(result.get("embedding"), bytes):
        result = result | {"embedding": _vector(result["embedding"])}
    return _text(_vector(result) if isinstance(result, bytes) else _json(result))


def _vector(data: bytes) -> str:
    first = ", ".join(f"{number:.4f}" for number in numbers(data[: 4 * _NUMBERS]))
    return f"{len(data) // 4} numbers: {first}, …"


def _json(value: object) -> str:
    try:
        return rendered(value).decode()
    except TypeError:  # nested too deep
        return "not shown"


def _text(text: object) -> str:
    text = str(text)
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
