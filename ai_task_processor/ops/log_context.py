"""The task and the trace that a line of the log belongs to."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.typing import EventDict

_TASK: ContextVar[str | None] = ContextVar("task_id", default=None)
#: the id of the trace that lines belong to, while a span is active
TRACE: ContextVar[str | None] = ContextVar("trace_id", default=None)


@contextlib.contextmanager
def task_context(task_id: str) -> Iterator[None]:
    """Every line that is logged inside carries this ``task_id``."""
    before = _TASK.set(task_id)
    try:
        yield
    finally:
        _TASK.reset(before)


def name_task(_logger: object, _method: str, event: "EventDict") -> "EventDict":
    """A structlog processor."""
    task_id = _TASK.get()
    if task_id is not None:
        event.setdefault("task_id", task_id)
    trace_id = TRACE.get()
    if trace_id is not None:
        event.setdefault("trace_id", trace_id)
    return event
