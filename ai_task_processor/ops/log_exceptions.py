"""Exceptions in the log: types, frames and causes, and no message but the daemon's own.

A plug-in's ``ValueError(f"cannot parse {text}")`` would carry user text.
"""

import errno
import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ai_task_processor.core.errors import AiTaskProcessorError
from ai_task_processor.ops.masking import MIN_SECRET

if TYPE_CHECKING:
    from structlog.typing import EventDict

MAX_EXCEPTIONS = 20
MAX_FRAMES = 30


def without_exceptions(record: logging.LogRecord) -> logging.LogRecord:
    """``logger.error("failed: %s", error)`` must not reach the message of the exception."""
    args = record.args if isinstance(record.args, tuple) else ()
    if not any(isinstance(part, BaseException) for part in (record.msg, *args)):
        return record
    copy = logging.makeLogRecord(record.__dict__)
    copy.msg, *described = (describe(part) if isinstance(part, BaseException) else part for part in (record.msg, *args))
    copy.args = tuple(described)
    return copy


def explain(_logger: object, _method: str, event: "EventDict") -> "EventDict":
    """``exc_info`` becomes ``exception``; the message of an exception in flight is removed from the event's text."""
    event.pop("stack_info", None)
    given, in_flight = event.pop("exc_info", None), sys.exc_info()[1]
    error = given[1] if isinstance(given, tuple) else given if isinstance(given, BaseException) else in_flight
    seen: list[BaseException] = []
    lines = list(_trace(error, seen))
    if given and lines:
        event["exception"] = "\n".join(lines)
    if isinstance(event["event"], str):
        for each in seen:
            for text in (shown(each, repr), shown(each, str)):
                if len(text) >= MIN_SECRET:
                    event["event"] = event["event"].replace(text, describe(each))
    return event


def _trace(error: BaseException | None, seen: list[BaseException], lead: str = "") -> Iterator[str]:
    """Types and frames of an exception, its members and its causes. ``seen`` collects them and stops cycles."""
    if error is None or len(seen) >= MAX_EXCEPTIONS or any(error is other for other in seen):
        return
    seen.append(error)
    yield lead + describe(error)
    frames = deque(traceback.walk_tb(error.__traceback__), maxlen=MAX_FRAMES)
    for frame, line in frames:
        code = frame.f_code
        yield f"  {'/'.join(Path(code.co_filename).parts[-3:])}:{line}:{code.co_name}"
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _trace(member, seen, "with ")
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    yield from _trace(cause, seen, "caused by ")


def describe(error: BaseException) -> str:
    """The type, and a message that is known to be harmless: the daemon's own, or the name of an OS error."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, AiTaskProcessorError):
        return f"{name}: {shown(error, str)}"
    if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno in errno.errorcode:
        return f"{name}: {errno.errorcode[error.errno]}"
    return name


def shown(value: object, how: Callable[[object], str]) -> str:
    try:
        return how(value)
    except Exception:  # noqa: BLE001  # boundary: a stranger's __str__ and __repr__ may do anything
        return f"<{type(value).__name__}>"
