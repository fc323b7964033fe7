"""Parses a listed record of the NestJS task API into a task. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from ai_task_processor.core import codec
from ai_task_processor.models.task import Task, TaskStatus, TaskType
from ai_task_processor.sources.nestjs.framing import RecordTooLarge


@dataclass(frozen=True, slots=True)
class Invalid:
    """A record that cannot become a task, and why. It has nothing of the record's content but a valid id."""

    reason: str
    task_id: str | None = None


def parse_record(record: bytes, id_pattern: re.Pattern[str]) -> Task | Invalid:
    """A listed record as a task. Its id matches the pattern: only such ids reach a URL."""
    if isinstance(record, RecordTooLarge):
        return Invalid("larger than 1 MiB")
    try:
        raw = codec.loads(record)
    except ValueError:
        return Invalid("not valid JSON")
    return to_task(raw, id_pattern)


def to_task(raw: object, id_pattern: re.Pattern[str]) -> Task | Invalid:
    """A parsed record as a task, with the checks of ``parse_record``."""
    if not isinstance(raw, dict):
        return Invalid("not an object")
    task_id, kind = raw.get("_id"), raw.get("type")
    if not isinstance(task_id, str) or not task_id or not id_pattern.fullmatch(task_id):
        return Invalid("_id is missing or does not match TASK_ID_PATTERN")
    if not isinstance(kind, str) or not kind:
        return Invalid("type is not a text", task_id)
    if raw.get("state", TaskStatus.PENDING) != TaskStatus.PENDING:
        return Invalid("state is not pending", task_id)
    return Task(
        id=task_id,
        type=TaskType.named(kind),
        content=raw.get("content"),
        created_at=_instant(raw.get("createdAt")),
        raw=raw,
    )


def _instant(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
