"""Limits that search and fetch_url share, and the codes with which tasks end that break them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ai_task_processor.core import codec
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import TaskError, Transient
from ai_task_processor.core.groups import Group, Seconds, setting
from ai_task_processor.models.task import TaskResult
from ai_task_processor.ops.logs import get_logger

P = TypeVar("P", bound=BaseModel)

log = get_logger(__name__)


class LimitSettings(Group):
    """Runtime, and size of results."""

    section = "Search and pages"

    max_runtime_s: Seconds = setting("TASK_MAX_RUNTIME_SECONDS", "seconds for a search or a fetch, in total", "600")
    max_artifact_mb: int = setting(
        "TASK_MAX_ARTIFACT_MB", "the size in MiB that a page or a result may have", "25", ge=1, le=1024
    )

    @property
    def max_bytes(self) -> int:
        return self.max_artifact_mb * 2**20


def rejected(reason: str, message: str = "") -> TaskError:
    """The error for parameters that cannot be used, which is logged: ``reason`` is short and constant."""
    log.info("task.rejected", reason=reason)
    return TaskError("task_rejected_invalid_params", f"{reason}: {message}" if message else reason)


def parsed(kind: type[P], content: object) -> P:
    """The content of a task. Raises ``TaskError`` with the names of the fields that break their rules."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fields = ", ".join(sorted({str(part["loc"][0]) if part["loc"] else "content" for part in error.errors()}))
        raise rejected("invalid_params", fields) from None


@asynccontextmanager
async def runtime(limits: LimitSettings, wait_s: float, remote: str) -> AsyncIterator[None]:
    """A deadline for the work on one task.

    Raises ``TaskError`` after ``TASK_MAX_RUNTIME_SECONDS``; ``Transient`` after ``wait_s``, when that is shorter.
    """
    seconds = min(wait_s, limits.max_runtime_s)
    try:
        with Deadline(seconds):
            yield
    except TimeoutError as error:
        if limits.max_runtime_s <= wait_s:
            text = f"it took more than {seconds:g} s (TASK_MAX_RUNTIME_SECONDS)"
            raise TaskError("task_runtime_exceeded", text) from error
        raise Transient(f"{remote} did not answer within {seconds:g} s") from error


def checked(limits: LimitSettings, output: object) -> TaskResult:
    """The result, unless it is too large. Raises ``TaskError``."""
    if len(codec.dumps(output)) > limits.max_bytes:
        raise too_large(limits)
    return TaskResult(output)


def too_large(limits: LimitSettings) -> TaskError:
    return TaskError("artifact_size_exceeded", f"more than {limits.max_artifact_mb} MiB (TASK_MAX_ARTIFACT_MB)")
