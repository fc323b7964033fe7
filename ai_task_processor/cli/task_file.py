"""Reads one task out of a file: a record as the selected source lists it, or ``{"type": …, "content": …}``."""

import json
import sys
from pathlib import Path
from typing import Any, Final

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.models.task import Task, TaskType

#: the id of a task that has none
NO_ID: Final = "no-id"
_FORM: Final = 'a task is {"type": "…", "content": …}'


def read_json(file: str) -> object:
    """The JSON value of a file, ``-`` for standard input. Raises ``OSError``, and ``ConfigurationError`` with line."""
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{_named(file)}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{_named(file)}:{line}: not JSON: save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{_named(file)}: not JSON: {error}") from None


def task_in(value: object, file: str, source: Any) -> Task:
    """The task that a value is. ``source``: the class of the source. Raises ``ConfigurationError`` with the field."""
    lists, reason = hasattr(source, "task_of"), ""
    if lists:
        try:
            task: Task = source.task_of(value)
            if task.content is not None or not isinstance(value, dict) or "content" not in value:
                return task
        except ValueError as error:
            reason = f" ({error})"
    also = f", or a record as the source {source.name} lists it{reason}" if lists else ""
    if not isinstance(value, dict):
        problem = f"{_KINDS.get(type(value), 'a value')} is no task"
    elif not isinstance(value.get("type"), str) or not value["type"]:
        problem = "type is no text" if "type" in value else "type is missing"
    elif "content" not in value:
        problem = "content is missing"
    else:
        return Task(id=str(value.get("id", NO_ID)), type=TaskType.named(value["type"]), content=value["content"])
    raise ConfigurationError(f"{_named(file)}: {problem}; {_FORM}{also}")


_KINDS: Final = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}


def _named(file: str) -> str:
    return "standard input" if file == "-" else file


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")
