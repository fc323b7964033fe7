"""Reads the list of a periodic source: an answer becomes tasks, each named by its id and due time. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from operator import attrgetter

from ai_task_processor.core import codec
from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.sources.periodic.profile import PeriodicProfile

#: an id that is used; any other item is skipped
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")


@dataclass(frozen=True, slots=True)
class Due:
    """A listed task, and when it is due (UTC)."""

    at: datetime
    task: Task


@dataclass(frozen=True, slots=True)
class Listed:
    """A whole list. ``due``: soonest first, each key once; ``invalid``: why other items cannot be used, by reason."""

    seen: int
    bytes: int
    due: Sequence[Due]
    duplicates: int = 0
    invalid: Counter[str] = field(default_factory=Counter)


def key(task_id: str, due_at: datetime) -> str:
    """``17@2026-12-01T10:00:00Z``: another due time is another reminder."""
    return f"{task_id}@{due_at.astimezone(UTC).isoformat().removesuffix('+00:00')}Z"


def due_of(key: str) -> datetime | None:
    """The due time in a key; None when it is no key."""
    task_id, _, due = key.rpartition("@")
    return _instant(due, UTC) if ID.fullmatch(task_id) and due.endswith("Z") else None


def read(content: bytes, profile: PeriodicProfile) -> Listed:
    """Raises ``InvalidAnswer`` when there is no list: that is never the same as an empty one."""
    try:
        items = resolve(codec.loads(content), keys(profile.listing.items))
    except ValueError as error:
        raise InvalidAnswer("the task API did not answer JSON") from error
    if not isinstance(items, list):
        raise InvalidAnswer("the task API answered without a list")
    found, invalid, duplicates = dict[str, Due](), Counter[str](), 0
    reader = _Reader(profile)
    for item in items:
        due = reader.read(item)
        if isinstance(due, str):
            invalid[due] += 1
        elif found.setdefault(due.task.id, due) is not due:
            duplicates += 1
    return Listed(len(items), len(content), sorted(found.values(), key=attrgetter("at")), duplicates, invalid)


def task_of(item: object, profile: PeriodicProfile) -> Task:
    """The task of a listed item. Raises ``ValueError`` with the reason when it cannot be used."""
    due = _Reader(profile).read(item)
    if isinstance(due, str):
        raise ValueError(due)
    return due.task


class _Reader:
    """Reads items as the fields of a profile say."""

    def __init__(self, profile: PeriodicProfile) -> None:
        fields = profile.fields_
        self._id, self._due, self._content = keys(fields.id), keys(fields.due), keys(fields.content)
        self._zone = fields.time_zone
        self._type = TaskType.named(profile.types[0])

    def read(self, item: object) -> Due | str:
        """A listed item, or why it cannot be used: without anything of its content."""
        task_id = resolve(item, self._id)
        if isinstance(task_id, int) and not isinstance(task_id, bool):
            task_id = str(task_id)
        if not isinstance(task_id, str) or not ID.fullmatch(task_id):
            return "the id is missing, or no id"
        due_at = _instant(resolve(item, self._due), self._zone)
        if due_at is None:
            return "the due time is missing, or no time in ISO 8601"
        return Due(due_at, Task(id=key(task_id, due_at), type=self._type, content=resolve(item, self._content)))


def _instant(value: object, zone: tzinfo) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
        return (instant if instant.tzinfo else instant.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
