"""Reads the pending list of the NestJS API as a stream, as far as it is needed.

The list holds every pending task, unsorted; ``limit`` may be honoured, ignored, or refused with 400.
So the limit asks for the tasks that are known to be skipped too, grows while a full page brings
nothing new, and the reader stops by itself when it has enough.

A list that is longer than what was needed costs the API more than it brings. The rest of it becomes candidates
(``read_ahead``), and the next lists are not asked for. How far to read was measured with NestJS 11, 120,000 tasks,
58 MB: a handler that returns an array makes all of it in 0.8 to 1.6 s before the first byte, and closing the
connection saves it nothing; a ``StreamableFile`` stops within 40 records of what was taken; a loop over
``response.write`` goes on to the end for nobody. So the API is spared by asking less often. Closing never costs
it anything, saves the transfer and, from some, the work: the answer is read until the candidates are full, then to
its end if that is near, because then the connection lives on, and is closed otherwise.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from http import HTTPStatus

from ai_task_processor.core import codec
from ai_task_processor.core.errors import RemoteError
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.core.settings import ApiSettings
from ai_task_processor.models.task import Task
from ai_task_processor.net.answers import status_error
from ai_task_processor.net.client import HttpClient, StreamedAnswer, deadline
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.nestjs.framing import ArrayFramer
from ai_task_processor.sources.nestjs.page import PASSING, Oddities, Page
from ai_task_processor.sources.nestjs.read_ahead import ReadAhead
from ai_task_processor.sources.nestjs.wire import Invalid, parse_record, to_task

PENDING = "/api/ai-tasks/pending"
MAX_RECORD_BYTES = 2**20
#: so much is looked at in one go, then others run: nothing but brackets takes a second for a megabyte
PIECE_BYTES = 2**14
#: An answer of a known length up to this is parsed in one go, in a few milliseconds: a third of what it costs record
#: by record, which is for lists that do not end and for those with a faulty record.
WHOLE_BYTES = 2**19
#: once enough is in hand, so much more is read to reach the end of the answer and keep the connection
TAIL_BYTES, TAIL_S = 2**16, 0.2
#: With the tasks for free slots in hand, candidates are read for as long as the list had taken until then, and at least
#: so long: a slow list must not keep slots empty.
AHEAD_S = 1.0
#: after so many records in a row without a candidate the rest of the list is left for another time
BARREN_RECORDS = 2_000
#: With more lasting records than this in the way of every list, each is asked for twice as much. Some APIs refuse a
#: limit over 1,000: only those that have answered more than that are asked for more.
HEAVY_RECORDS, USUAL_MAX_LIMIT = 100, 1_000
#: so many candidates in a row that must not start: the list is out of date. Those that only have to wait stay, and
#: are looked at again, so many at a time.
REFUSED_IN_A_ROW, PAUSED_AT_ONCE = 200, 2_000
#: so many candidates are parsed in one go, then others run
PARSED_AT_ONCE = 64

#: the beginning of a record as MongoDB writes it: anything else is parsed to find the id
_ID = re.compile(rb'\s*\{\s*"_id"\s*:\s*"([A-Za-z0-9._~-]{1,128})"')

log = get_logger(__name__)


class PendingList:
    """The list behind ``GET /api/ai-tasks/pending``. ``skip`` says why a task must not start now, or None.

    Without ``ahead`` nothing is kept: a list is left when it has brought enough.
    """

    def __init__(
        self,
        settings: ApiSettings,
        client: HttpClient,
        skip: Callable[[Task], SkipReason | None],
        *,
        busy: Callable[[str], SkipReason | None] = lambda _: None,
        ahead: ReadAhead | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.last_page = Page()
        self._settings = settings
        self._client = client
        self._skip = skip
        self._busy = busy
        self._ahead = ReadAhead(0, 0.0, time.monotonic) if ahead is None else ahead
        self._metrics = metrics
        self._sends_limit = True
        self._cut = False
        self._oddities = Oddities()

    async def take(self, free: int) -> dict[str, Task]:
        """At most ``free`` candidates of the list before that may start now, in its order."""
        tasks: dict[str, Task] = {}
        taken = refused = 0
        paused: list[tuple[str, bytes]] = []
        while len(tasks) < free and len(paused) < PAUSED_AT_ONCE and (record := self._ahead.take()) is not None:
            task = parse_record(record, self._settings.task_id_pattern)
            assert isinstance(task, Task)  # noqa: S101 - it was one when it was kept
            reason = self._skip(task)
            refused = 0 if reason in (None, "paused") else refused + 1
            if reason == "paused":
                paused.append((task.id, record))
            elif reason is None:
                tasks[task.id] = task
                self.last_page.created[task.id] = _created_at(task)
            elif self._metrics is not None:
                self._metrics.task_skipped(reason)
            if refused == REFUSED_IN_A_ROW:
                self._ahead.clear()
            taken += 1
            if taken % PARSED_AT_ONCE == 0:
                await asyncio.sleep(0)
        for task_id, record in paused:
            # What it needs may be well in a moment, and a list costs more than another look. Others come first then.
            self._ahead.keep(task_id, record)
        return tasks

    async def read(self, free: int) -> Page:
        """At most ``free`` tasks that may start now. Raises ``RemoteError`` when reading failed before the first.

        All requests of one reading together stand under one deadline.
        """
        page, needed = Page(), free + self._in_the_way()
        limit = self._worth_asking(needed)
        self._ahead.asked()
        try:
            async with deadline(self._settings.request_timeout_s):
                while True:
                    page = Page(bytes_read=page.bytes_read, listed=page.listed)
                    await self._stream(page, free, needed, limit if self._sends_limit else None)
                    if page.tasks or page.complete:
                        break
                    # Should the wider request fail, the next reading begins where this one stood.
                    self.last_page = page
                    limit *= 2
        except RemoteError as error:
            if not page.tasks:
                raise
            (log.debug if self._cut else log.warning)("poll.cut", reason=str(error), claimed=len(page.tasks))
            self._cut = True
        else:
            self._cut = False
        finally:
            self._ahead.read()
            if self._metrics is not None:
                self._metrics.records_listed(page.listed)
        self.last_page = page
        return page

    def _in_the_way(self) -> int:
        """Records of the last page that will be listed again and skipped: tasks being worked on, and lasting ones."""
        before = self.last_page
        return before.lasting + sum(self._busy(task_id) is not None for task_id in before.created)

    def _worth_asking(self, needed: int) -> int:
        """The limit: what is needed, and as many candidates again where thousands of records are in the way."""
        lasting = self.last_page.lasting
        if not self._ahead.enabled or lasting <= HEAVY_RECORDS:
            return needed
        wide = needed + lasting
        return wide if needed > USUAL_MAX_LIMIT else max(needed, min(wide, USUAL_MAX_LIMIT))

    async def answers(self) -> None:
        """Prove that the list can be read: its first record, or its end. Raises ``RemoteError``."""
        framer = ArrayFramer(MAX_RECORD_BYTES)
        async with deadline(self._settings.request_timeout_s), self._request(None) as answer:
            if not answer.is_success:
                raise status_error(answer, "the task API")
            async with aclosing(answer.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    if any(framer.feed(chunk)) or framer.done:
                        return
            framer.finish()

    def _request(self, limit: int | None) -> AbstractAsyncContextManager[StreamedAnswer]:
        parameters = {} if limit is None else {"limit": str(limit)}
        return self._client.opened(self._settings.base_url + PENDING, parameters)

    async def _stream(self, page: Page, free: int, needed: int, limit: int | None) -> None:
        """Fill the page. A strict API refuses the limit: then the same without it, and from now on if that was it."""
        started_at, status = time.perf_counter(), None
        try:
            async with self._request(limit) as answer:
                status = answer.status_code
                refused = status == HTTPStatus.BAD_REQUEST and limit is not None
                if not refused:
                    if not answer.is_success:
                        raise status_error(answer, "the task API")
                    self._sends_limit = limit is not None
                    await self._fill(page, free, needed, limit, answer)
        finally:
            if self._metrics is not None:
                took_s = time.perf_counter() - started_at
                self._metrics.api_request(endpoint=PENDING, method="GET", status_code=status, duration_s=took_s)
        if refused:
            await self._stream(page, free, needed, None)

    async def _fill(self, page: Page, free: int, needed: int, limit: int | None, answer: StreamedAnswer) -> None:
        """``needed`` records are what a list may cost; where no limit was sent, each costs too much."""
        self._ahead.answered()
        framer, whole = ArrayFramer(MAX_RECORD_BYTES), _is_short(answer)
        worth = free if limit is None else needed
        async with (
            aclosing(_joined(answer.aiter_bytes()) if whole else answer.aiter_bytes()) as chunks,
            aclosing(self._listed(chunks, framer, page, worth if whole else None)) as records,
        ):
            async for record in records:
                self._consider(record, page, page)
                if len(page.tasks) < free:
                    continue
                if not isinstance(record, bytes) or not await self._read_on(records, page, worth):
                    await _read_tail(chunks)
                    return
        framer.finish()
        page.complete = page.seen != limit
        if page.complete:
            self._oddities.whole(page)

    async def _listed(
        self, chunks: AsyncIterator[bytes], framer: ArrayFramer, page: Page, worth: int | None
    ) -> AsyncGenerator[bytes | Task | str, None]:
        """The records of the list, in order. ``worth``: the list comes as one chunk, and may be parsed as a whole."""
        async for chunk in chunks:
            page.bytes_read += len(chunk)
            listed = None if worth is None else self._all_of(chunk, worth)
            if listed is not None:
                page.listed += len(listed)
                framer.done = True
                for task in listed:
                    yield task
                return
            for start in range(0, len(chunk), PIECE_BYTES):
                for record in framer.feed(chunk[start : start + PIECE_BYTES]):
                    page.listed += 1
                    yield record
                await asyncio.sleep(0)

    def _all_of(self, data: bytes, worth: int) -> list[Task | str] | None:
        """A whole list: its tasks, and the bare ids of those being worked on.

        None when anything is wrong with it, or when it is so long that the bytes of its records are to be kept.
        """
        try:
            listed = codec.loads(data)
        except ValueError:
            return None
        if not isinstance(listed, list) or (self._ahead.enabled and len(listed) > worth):
            return None
        found: list[Task | str] = []
        before, pattern = self.last_page.created, self._settings.task_id_pattern
        for raw in listed:
            task_id = raw.get("_id") if isinstance(raw, dict) else None
            if isinstance(task_id, str) and task_id in before and self._busy(task_id):
                found.append(task_id)
                continue
            task = to_task(raw, pattern)
            if isinstance(task, Invalid):
                return None
            found.append(task)
        return found

    async def _read_on(self, records: AsyncIterator[bytes | Task | str], page: Page, worth: int) -> bool:
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

    async def _keep(self, records: AsyncIterator[bytes | Task | str], page: Page, later: Page) -> bool:
        """Until there is no room for more, or none to be found: then false."""
        barren = 0
        async for record in records:
            kept = later.kept
            if not self._consider(record, page, later):
                return False
            barren = 0 if later.kept > kept else barren + 1
            if barren == BARREN_RECORDS:
                return False
        return True

    def _consider(self, record: bytes | Task | str, page: Page, later: Page) -> bool:
        """Count it in ``later``, which is ``page`` until that has enough; false when there is no room for it."""
        if isinstance(record, str):
            return self._note_busy(record, later)
        if isinstance(record, Task):
            return self._admit(record, b"", page, later)
        found = _ID.match(record)
        task_id = "" if found is None else found[1].decode("ascii")
        # A task of the page before that is being worked on need not be parsed again: half of a list is such.
        if task_id in self.last_page.created and self._note_busy(task_id, later):
            return True
        task = parse_record(record, self._settings.task_id_pattern)
        if isinstance(task, Task):
            return self._admit(task, record, page, later)
        later.skipped["invalid"] += 1
        self._oddities.invalid(record, task)
        return True

    def _admit(self, task: Task, record: bytes, page: Page, later: Page) -> bool:
        created_at = _created_at(task)
        repeated = task.id in page.tasks or task.id in self._ahead
        reason: SkipReason | None = "duplicate" if repeated else self._skip(task)
        if reason is None and later is not page:
            if not self._ahead.keep(task.id, record):
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
                self._oddities.unknown(task.type, later)
        later.note_age(created_at)
        return True

    def _note_busy(self, task_id: str, page: Page) -> bool:
        reason = self._busy(task_id)
        if reason is None:
            return False
        page.created[task_id] = created_at = self.last_page.created[task_id]
        page.note_age(created_at)
        page.skipped[reason] += 1
        return True


def _created_at(task: Task) -> float | None:
    return None if task.created_at is None else task.created_at.timestamp()


def _is_short(answer: StreamedAnswer) -> bool:
    length = answer.headers.get("content-length", "")
    return length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= WHOLE_BYTES


async def _joined(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """All of them as one. What came before an error, or before the deadline, is handed on before it is raised."""
    data = bytearray()
    try:
        async for chunk in chunks:
            data += chunk
    except BaseException:
        if data:
            yield bytes(data)
        raise
    yield bytes(data)


async def _read_tail(chunks: AsyncIterator[bytes]) -> None:
    """Reach the end of the answer if it is near: then the connection lives on. Nothing depends on it."""
    left = TAIL_BYTES
    with suppress(TimeoutError, RemoteError):
        async with asyncio.timeout(TAIL_S):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return
