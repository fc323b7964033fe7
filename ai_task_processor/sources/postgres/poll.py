"""One claim under way: which tasks were seen, refused and claimed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from ai_task_processor.core.ports import SkipReason, Want
from ai_task_processor.models.task import Claim, Task
from ai_task_processor.sources.postgres.page import Page


class Poll:
    """One claim under way: what it has seen, and what it has claimed."""

    def __init__(self, want: Want, now: float, deferred: Mapping[str, float]) -> None:
        self.now = now
        self.admission = want.admission
        self.types = None if want.types is None else {form for name in want.types for form in _forms(name)}
        self.claims: list[Claim] = []
        self._limit = want.limit
        self._deferred = deferred
        self.restart()

    def restart(self) -> None:
        """Begin at the head of the table."""
        self.seen = self.size = 0
        self.complete = False
        self.oldest: datetime | None = None
        self.skipped: Counter[SkipReason] = Counter()

    @property
    def wanted(self) -> int:
        """How many more tasks are wanted."""
        return self._limit - len(self.claims)

    async def choose(self, tasks: Sequence[Task]) -> Sequence[str]:
        """The ids of those of these tasks that may start now, as many as are wanted."""
        asked = [task for task in tasks if self._deferred.get(task.id, 0.0) <= self.now]
        if len(asked) < len(tasks):
            self.skipped["deferred"] += len(tasks) - len(asked)
        reasons = await self.admission.refuse(asked)
        self.skipped.update(reason for reason in reasons if reason is not None)
        return [task.id for task, reason in zip(asked, reasons, strict=True) if reason is None][: self.wanted]

    def note(self, page: Page) -> None:
        """A page was read."""
        self.seen += page.seen
        self.size += page.size
        if page.invalid:
            self.skipped["invalid"] += len(page.invalid)
        if self.oldest is None and page.tasks:
            self.oldest = page.tasks[0].created_at


def _forms(name: str) -> tuple[str, str]:
    """A type is the same with ``-`` and with ``_``."""
    return name.replace("-", "_"), name.replace("_", "-")
