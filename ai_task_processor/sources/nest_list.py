"""Reads the pending list of the NestJS API as a stream, as far as it is needed.

The list holds every pending task, unsorted; ``limit`` may be honoured, ignored, or refused with 400.
So the limit asks for the tasks that are known to be skipped too, grows while a full page brings
nothing new, and the reader stops by itself when it has enough.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import httpx2

from ai_task_processor.errors import NeighbourError
from ai_task_processor.logs import get_logger
from ai_task_processor.models.task import Task
from ai_task_processor.ports import SkipReason
from ai_task_processor.settings import ApiSettings
from ai_task_processor.sources.framing import ArrayFramer
from ai_task_processor.sources.nest_wire import Invalid, parse_record
from ai_task_processor.transport import deadline, status_error

PENDING = "/api/ai-tasks/pending"
MAX_RECORD_BYTES = 2**20
#: once enough is in hand, so much more is read to reach the end of the answer and keep the connection
TAIL_BYTES = 2**16
#: invalid records are reported once each, not at every poll; so many are remembered
REMEMBERED_RECORDS = 1_000

log = get_logger(__name__)


@dataclass(slots=True)
class Page:
    """What one reading brought. ``complete``: the list was read to its end, and ``limit`` did not cut it."""

    tasks: dict[str, Task] = field(default_factory=dict)
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    bytes_read: int = 0
    oldest: float | None = None
    complete: bool = False

    @property
    def seen(self) -> int:
        return len(self.tasks) + self.skipped.total()


class PendingList:
    """The list behind ``GET /api/ai-tasks/pending``. ``skip`` says why a task must not start now, or None."""

    def __init__(
        self, settings: ApiSettings, client: httpx2.AsyncClient, skip: Callable[[Task], SkipReason | None]
    ) -> None:
        self.last_page = Page()
        self._settings = settings
        self._client = client
        self._skip = skip
        self._sends_limit = True
        self._reported: dict[int, None] = {}

    async def read(self, free: int) -> Page:
        """At most ``free`` tasks that may start now. Raises ``NeighbourError`` when reading failed before the first."""
        limit = free + len(self.last_page.tasks) + self.last_page.skipped.total()
        while True:
            page = await self._read(free, limit)
            if page.tasks or page.complete:
                self.last_page = page
                return page
            limit *= 2

    async def answers(self) -> None:
        """Prove that the list can be read: its first record, or its end. Raises ``NeighbourError``."""
        framer = ArrayFramer(MAX_RECORD_BYTES)
        async with deadline(self._settings.request_timeout_s), self._request(None) as answer:
            if not answer.is_success:
                raise status_error(answer, "the task API")
            async for chunk in answer.aiter_bytes():
                if any(framer.feed(chunk)) or framer.done:
                    return
            framer.finish()

    def _request(self, limit: int | None) -> AbstractAsyncContextManager[httpx2.Response]:
        parameters = {} if limit is None else {"limit": str(limit)}
        return self._client.stream("GET", self._settings.base_url + PENDING, params=parameters)

    async def _read(self, free: int, limit: int) -> Page:
        page = Page()
        try:
            async with deadline(self._settings.request_timeout_s):
                if not await self._stream(page, free, limit if self._sends_limit else None):
                    # A strict API refuses the parameter: the same again without it, and from now on if that is it.
                    await self._stream(page, free, None)
                    self._sends_limit = False
        except NeighbourError as error:
            if not page.tasks:
                raise
            log.warning("poll.cut", reason=str(error), claimed=len(page.tasks))
        return page

    async def _stream(self, page: Page, free: int, limit: int | None) -> bool:
        """Fill the page. False when the API refused the request and the limit may be why."""
        framer = ArrayFramer(MAX_RECORD_BYTES)
        async with self._request(limit) as answer:
            if answer.status_code == httpx2.codes.BAD_REQUEST and limit is not None:
                return False
            if not answer.is_success:
                raise status_error(answer, "the task API")
            tail = TAIL_BYTES
            async for chunk in answer.aiter_bytes():
                page.bytes_read += len(chunk)
                for record in framer.feed(chunk):
                    if len(page.tasks) == free:
                        break
                    self._consider(record, page)
                if len(page.tasks) == free:
                    tail -= len(chunk)
                    if tail < 0:
                        return True
            if len(page.tasks) < free:
                framer.finish()
                page.complete = page.seen != limit
            return True

    def _consider(self, record: bytes, page: Page) -> None:
        task = parse_record(record, self._settings.task_id_pattern)
        if isinstance(task, Invalid):
            page.skipped["invalid"] += 1
            self._report(record, task)
            return
        if task.created_at is not None:
            page.oldest = min(page.oldest or float("inf"), task.created_at.timestamp())
        reason: SkipReason | None = "duplicate" if task.id in page.tasks else self._skip(task)
        if reason is None:
            page.tasks[task.id] = task
        else:
            page.skipped[reason] += 1

    def _report(self, record: bytes, invalid: Invalid) -> None:
        key = hash(record)
        if key not in self._reported:
            if len(self._reported) >= REMEMBERED_RECORDS:
                self._reported.clear()
            self._reported[key] = None
            log.warning("record.skipped", reason=invalid.reason, bytes=len(record))
