"""Reads a list that is one JSON array as a stream, as far as it is needed.

The list holds every pending task, in no order that can be relied on; ``limit`` may be obeyed, ignored, or refused with
400. So the limit includes the tasks that are known to be skipped, grows while a full page has nothing new, and the
reader stops by itself when it has enough.

A list that is longer than needed is expensive for the API. The rest of it becomes candidates (``read_ahead``), so that
the next lists are not requested. How far to read was measured with NestJS 11, 120,000 tasks, 58 MB: a handler that
returns an array builds all of it in 0.8 to 1.6 s before the first byte, and closing the connection saves nothing; a
``StreamableFile`` stops within 40 records of what was read; a loop over ``response.write`` goes on to the end. So only
fewer requests reduce the load of every API. Closing saves the transfer and, with some, the work: the answer is read
until the candidates are full, then to its end if that is near, which keeps the connection; otherwise it is closed.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from http import HTTPStatus
from itertools import islice

from ai_task_processor.core import codec
from ai_task_processor.core.errors import RemoteError, Transient
from ai_task_processor.core.ports import Admission
from ai_task_processor.models.task import Task
from ai_task_processor.net.answers import status_error
from ai_task_processor.net.client import HttpClient, StreamedAnswer, deadline
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest.chunks import is_short, joined, read_tail
from ai_task_processor.sources.rest.filling import Filling, created_at_s
from ai_task_processor.sources.rest.framing import ArrayFramer
from ai_task_processor.sources.rest.inspection import Inspected, Inspector
from ai_task_processor.sources.rest.page import Page
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.read_ahead import ReadAhead
from ai_task_processor.sources.rest.settings import ApiSettings
from ai_task_processor.sources.rest.wire import Records

MAX_RECORD_BYTES = 2**20
#: bytes scanned before other asyncio tasks may run: a megabyte of brackets takes a second
PIECE_BYTES = 2**14
#: With more lasting records than this at the head of the list, the limit is doubled. Some APIs refuse a
#: limit over 1,000: only those that have answered more than that are asked for more.
HEAVY_RECORDS, USUAL_MAX_LIMIT = 100, 1_000
#: so many candidates in a row that must not start: the list is out of date. Those that only have to wait stay, and
#: are looked at again, so many at a time.
REFUSED_IN_A_ROW, PAUSED_AT_ONCE = 200, 2_000
#: A list that begins with the newest is read to its end, or its oldest would wait for ever: the first limit, which
#: grows while it cuts the list, and the last.
NEWEST, MOST_NEWEST = 1_000, 64_000
#: Some APIs answer 500 to every list that has a record which they cannot write, such as one nested too deep. The limit
#: is divided by this until the list has newer tasks only.
SHORTER = 8
#: bytes of such a list that are held: its oldest records. More when none of them may start.
NEWEST_BYTES = 2**25
#: so many candidates are parsed in one go, then others run
PARSED_AT_ONCE = 64

log = get_logger(__name__)


class PendingList:
    """The list of pending tasks. ``admission`` says which of its tasks may start now.

    Without ``ahead`` there are no candidates: reading stops when enough tasks are found.
    """

    def __init__(
        self,
        settings: ApiSettings,
        profile: RestProfile,
        client: HttpClient,
        admission: Admission,
        *,
        ahead: ReadAhead | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.last_page = Page()
        self._settings = settings
        self._part = profile.listing
        self._records = Records(profile, settings.task_id_pattern)
        self._client = client
        self._inspector = Inspector(self._records, admission)
        self._admission = admission
        self._ahead = ReadAhead(0, 0.0, time.monotonic) if ahead is None else ahead
        self._metrics = metrics
        self._sends_limit = profile.listing.limit is not None
        self._newest = NEWEST if profile.listing.order == "newest_first" else 0
        self._newest_bytes = NEWEST_BYTES
        self._cut = False
        self._filling = Filling(self._ahead)

    async def take(self, free: int) -> dict[str, Task]:
        """At most ``free`` candidates of the list before that may start now, in its order."""
        tasks: dict[str, Task] = {}
        refused = 0
        paused: list[tuple[str, bytes]] = []
        while len(tasks) < free and len(paused) < PAUSED_AT_ONCE:
            records = list(islice(iter(self._ahead.take, None), min(PARSED_AT_ONCE, free - len(tasks))))
            if not records:
                break
            parsed = [self._records.parse(record) for record in records]
            candidates = [
                task for task in parsed if isinstance(task, Task)
            ]  # all of them: they were when they were kept
            reasons = await self._admission.refuse(candidates)
            for record, task, reason in zip(records, candidates, reasons, strict=True):
                refused = 0 if reason in (None, "paused") else refused + 1
                if reason == "paused":
                    paused.append((task.id, record))
                elif reason is None:
                    tasks[task.id] = task
                    self.last_page.created[task.id] = created_at_s(task)
                elif self._metrics is not None:
                    self._metrics.task_skipped(reason)
                if refused == REFUSED_IN_A_ROW:
                    self._ahead.clear()
            await asyncio.sleep(0)
        for task_id, record in paused:
            # What it needs may be well in a moment, and a list costs more than another look. Others come first then.
            self._ahead.keep(task_id, record)
        return tasks

    async def read(self, free: int) -> Page:
        """At most ``free`` tasks that may start now. Raises ``RemoteError`` when reading failed before the first.

        All requests of one reading together stand under one deadline.
        """
        page, needed = Page(), free + await self._in_the_way()
        limit = max(self._worth_asking(needed), self._newest)
        self._ahead.asked()
        try:
            async with deadline(self._settings.request_timeout_s):
                while limit:
                    page = Page(bytes_read=page.bytes_read, listed=page.listed, shorter=page.shorter)
                    limit = await self._try(page, free, needed, limit)
        except RemoteError as error:
            if not page.tasks:
                raise
            self._note_cut(str(error), page)
        else:
            if page.shorter:
                self._note_cut("the task API answers 500 to a longer list: it cannot show one of the older tasks", page)
            self._cut = page.shorter
        finally:
            self._ahead.read()
            if self._metrics is not None:
                self._metrics.records_listed(page.listed)
        self.last_page = page
        return page

    async def _try(self, page: Page, free: int, needed: int, limit: int) -> int:
        """Fill the page; returns the limit for another try, 0 when none is needed."""
        try:
            await self._stream(page, free, needed, limit if self._sends_limit else None)
        except Transient as error:
            if error.status != HTTPStatus.INTERNAL_SERVER_ERROR or not self._newest or limit == 1:
                raise
            page.shorter = True
            return max(1, limit // SHORTER)
        if page.cut:
            self._newest = 4 * limit
            return self._newest
        if page.tasks or page.complete or page.shorter:
            return 0
        # Should the wider request fail, the next reading begins where this one stood.
        self.last_page = page
        if page.left_out:
            self._newest_bytes *= 4
            return limit
        return 2 * limit

    def _note_cut(self, reason: str, page: Page) -> None:
        (log.debug if self._cut else log.warning)("poll.cut", reason=reason, claimed=len(page.tasks))
        self._cut = True

    async def _in_the_way(self) -> int:
        """Records of the last page that will be listed again and skipped: tasks being worked on, and lasting ones."""
        before = self.last_page
        return before.lasting + len(await self._admission.busy(list(before.created)))

    def _worth_asking(self, needed: int) -> int:
        """The limit: what is needed, and twice that when thousands of records are skipped at the head of the list."""
        lasting = self.last_page.lasting
        if not self._ahead.enabled or lasting <= HEAVY_RECORDS:
            return needed
        wide = needed + lasting
        return wide if needed > USUAL_MAX_LIMIT else max(needed, min(wide, USUAL_MAX_LIMIT))

    async def answers(self) -> None:
        """Check that the list can be read: its first record, or its end. Raises ``RemoteError``."""
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
        further = {} if limit is None or self._part.limit is None else {self._part.limit: limit}
        return self._client.opened(self._settings.base_url + self._part.path, parameters(self._part.query, further))

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
                self._metrics.api_request(endpoint=self._part.path, method="GET", status_code=status, duration_s=took_s)
        if refused:
            await self._stream(page, free, needed, None)

    async def _fill(self, page: Page, free: int, needed: int, limit: int | None, answer: StreamedAnswer) -> None:
        """``needed`` records are what a list may cost; where no limit was sent, each costs too much."""
        self._ahead.answered()
        framer, whole = ArrayFramer(MAX_RECORD_BYTES), is_short(answer)
        worth = free if limit is None else needed
        async with (
            aclosing(joined(answer.aiter_bytes()) if whole else answer.aiter_bytes()) as chunks,
            aclosing(
                self._oldest_first(chunks, framer, page, limit)
                if self._newest
                else self._listed(chunks, framer, page, worth if whole else None)
            ) as records,
        ):
            async for inspected in records:
                self._filling.consider(inspected, page, page)
                if len(page.tasks) < free:
                    continue
                if not inspected.record or not await self._filling.read_on(records, page, worth):
                    await read_tail(chunks)
                    return
        framer.finish()
        if page.cut:
            return
        page.complete = page.seen != limit and not (page.left_out or page.shorter)
        if page.complete:
            self._filling.oddities.whole(page)

    async def _listed(
        self, chunks: AsyncIterator[bytes], framer: ArrayFramer, page: Page, worth: int | None
    ) -> AsyncGenerator[Inspected, None]:
        """The records of the list, in order. ``worth``: the list comes as one chunk, and may be parsed as a whole."""
        async for chunk in chunks:
            page.bytes_read += len(chunk)
            raws = None if worth is None else self._whole(chunk, worth)
            inspected = None if raws is None else await self._inspector.of_whole(raws, self.last_page.created)
            if inspected is not None:
                page.listed += len(inspected)
                framer.done = True
                for one in inspected:
                    yield one
                return
            for start in range(0, len(chunk), PIECE_BYTES):
                records = list(framer.feed(chunk[start : start + PIECE_BYTES]))
                page.listed += len(records)
                for one in await self._inspector.of_bytes(records, self.last_page.created):
                    yield one
                await asyncio.sleep(0)

    async def _oldest_first(
        self, chunks: AsyncIterator[bytes], framer: ArrayFramer, page: Page, limit: int | None
    ) -> AsyncGenerator[Inspected, None]:
        """The records of a list that begins with the newest, turned round. Nothing of one that the limit has cut."""
        records, held = deque[bytes](), 0
        async for chunk in chunks:
            page.bytes_read += len(chunk)
            for start in range(0, len(chunk), PIECE_BYTES):
                for record in framer.feed(chunk[start : start + PIECE_BYTES]):
                    page.listed += 1
                    records.append(record)
                    held += len(record)
                    while held > self._newest_bytes:
                        held -= len(records.popleft())
                        page.left_out += 1
                await asyncio.sleep(0)
        if limit is not None and limit < MOST_NEWEST and not page.shorter:
            page.cut = len(records) + page.left_out >= limit
        while records and not page.cut:
            some = [records.pop() for _ in range(min(PARSED_AT_ONCE, len(records)))]
            for one in await self._inspector.of_bytes(some, self.last_page.created):
                yield one

    def _whole(self, data: bytes, worth: int) -> list[object] | None:
        """A whole list; None when it is none, or so long that the bytes of its records are to be kept."""
        try:
            listed = codec.loads(data)
        except ValueError:
            return None
        if not isinstance(listed, list) or (self._ahead.enabled and len(listed) > worth):
            return None
        return listed


def parameters(query: Mapping[str, str | int | bool], further: Mapping[str, str | int]) -> Mapping[str, str]:
    """The query of one request. Booleans are written as JSON has them."""
    both = {**query, **further}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in both.items()}
