"""Fills a page with inspected records: tasks that start now, candidates, and counts of the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from ai_task_processor.core.errors import RemoteError
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.models.task import Task
from ai_task_processor.sources.rest.inspection import Inspected
from ai_task_processor.sources.rest.page import MOST_INVALID, PASSING, Oddities, Page
from ai_task_processor.sources.rest.read_ahead import ReadAhead
from ai_task_processor.sources.rest.wire import Invalid

#: With the tasks for free slots in hand, candidates are read for as long as the list had taken until then, and at least
#: so long: a slow list must not keep slots empty.
AHEAD_S = 1.0
#: after so many records in a row without a candidate the rest of the list is left for another time
BARREN_RECORDS = 2_000


class Filling:
    """``ahead`` takes the candidates."""

    def __init__(self, ahead: ReadAhead) -> None:
        self.oddities = Oddities()
        self._ahead = ahead

    def consider(self, inspected: Inspected, page: Page, later: Page) -> bool:
        """Count it in ``later``, which is ``page`` until that has enough; false when it does not fit."""
        if isinstance(inspected.found, Task):
            return self._admit(inspected.found, inspected, page, later)
        if inspected.found is None and inspected.reason is not None:
            later.created[inspected.task_id] = inspected.created_at
            later.note_age(inspected.created_at)
            later.skipped[inspected.reason] += 1
        elif isinstance(inspected.found, Invalid):
            later.skipped["invalid"] += 1
            if len(later.invalid) < MOST_INVALID:
                later.invalid.append(inspected.found)
            self.oddities.invalid(inspected.record, inspected.found)
        return True

    def _admit(self, task: Task, inspected: Inspected, page: Page, later: Page) -> bool:
        created_at = created_at_s(task)
        repeated = task.id in page.tasks or task.id in self._ahead
        reason: SkipReason | None = "duplicate" if repeated else inspected.reason
        if reason is None and later is not page:
            if not self._ahead.keep(task.id, inspected.record):
                return False
            later.kept += 1
        elif reason is None:
            page.tasks[task.id] = task
            page.created[task.id] = created_at
        else:
            later.skipped[reason] += 1
            if reason in PASSING:
                later.created[task.id] = created_at
            elif reason == "unknown_type":
                self.oddities.unknown(task.type, later)
        later.note_age(created_at)
        return True

    async def read_on(self, records: AsyncIterator[Inspected], page: Page, worth: int) -> bool:
        """Keep what follows as candidates, if the list turns out to be longer than it is worth; was it read to its end?

        With enough in hand it does not matter how, or whether, the list ends. Of a list that was honestly limited
        nothing is kept or counted: the next one is as cheap.
        """
        if not self._ahead.enabled:
            return False
        later, ended = Page(tasks=page.tasks), False
        try:
            with suppress(TimeoutError, RemoteError):
                async with asyncio.timeout(max(AHEAD_S, self._ahead.reading_s)):
                    ended = await self._keep(records, page, later)
        finally:
            longer = page.seen + later.kept + later.skipped.total() > worth
            if longer:
                page.add(later)
            else:
                self._ahead.clear()
        return longer and ended

    async def _keep(self, records: AsyncIterator[Inspected], page: Page, later: Page) -> bool:
        """Keep candidates; false when no more fit or none are found, before the end of the list."""
        barren = 0
        async for inspected in records:
            kept = later.kept
            if not self.consider(inspected, page, later):
                return False
            barren = 0 if later.kept > kept else barren + 1
            if barren == BARREN_RECORDS:
                return False
        return True


def created_at_s(task: Task) -> float | None:
    return None if task.created_at is None else task.created_at.timestamp()
