"""What one transaction has read, and what it has claimed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ai_task_processor.models.task import Task


@dataclass(frozen=True, slots=True)
class Page:
    """Pending tasks, the oldest first. ``last``: the position after them, None at the end of the table.

    ``cancelled``: ids of those that nobody wants any more; ``invalid``: of those whose content cannot be read.
    ``size``: characters of the contents.
    """

    tasks: Sequence[Task] = ()
    seen: int = 0
    last: tuple[str, str] | None = None
    cancelled: Sequence[str] = ()
    invalid: Sequence[str] = ()
    size: int = 0


@dataclass(frozen=True, slots=True)
class Claims:
    """A page, and the owner ids of the tasks of it that are claimed now, by task id."""

    page: Page
    owners: Mapping[str, str] = field(default_factory=dict)
