"""Reads the pending list of the NestJS API as a stream, as far as it is needed.

The list holds every pending task, unsorted; ``limit`` may be honoured, ignored, or refused with 400.
So the limit asks for the tasks that are known to be skipped too, grows while a full page brings
nothing new, and the reader stops by itself when it has enough.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, field

import httpx2

from ai_task_processor import codec
from ai_task_processor.errors import NeighbourError
from ai_task_processor.http1 import StreamedAnswer
from ai_task_processor.logs import get_logger
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Task
from ai_task_processor.ports import SkipReason
from ai_task_processor.settings import ApiSettings
from ai_task_processor.sources.framing import ArrayFramer
from ai_task_processor.sources.nest_wire import Invalid, parse_record, to_task
from ai_task_processor.transport import deadline, status_error, stream

PENDING = "/api/ai-tasks/pending"
MAX_RECORD_BYTES = 2**20
#: so much is looked at in one go, then others run: nothing but brackets takes a second for a megabyte
PIECE_BYTES = 2**14
#: An answer of a known length up to this is parsed in one go, in a few milliseconds: a third of what it costs record
#: by record, which is for lists that do not end and for those with a faulty record.
WHOLE_BYTES = 2**19
#: once enough is in hand, so much more is read to reach the end of the answer and keep the connection
TAIL_BYTES, TAIL_S = 2**16, 0.2
#: invalid records are reported once each, not at every poll, and no more than so many until a list is clean again
REPORTED_RECORDS = 100
#: types come from outside: so many are told of at a time, and so much of a name
REPORTED_TYPES, REPORTED_TYPE_CHARS = 20, 64

#: the beginning of a record as MongoDB writes it: anything else is parsed to find the id
_ID = re.compile(rb'\s*\{\s*"_id"\s*:\s*"([A-Za-z0-9._~-]{1,128})"')
#: what a log line does not repeat of a type
_ODD = re.compile(r"[^A-Za-z0-9._:/-]")

#: reasons of which the source says by the id alone, and at any time, whether they still hold
_PASSING: tuple[SkipReason, ...] = ("running", "in_outbox", "deferred")

log = get_logger(__name__)


@dataclass(slots=True)
class Page:
    """What one reading brought. ``complete``: the list was read to its end, and ``limit`` did not cut it."""

    tasks: dict[str, Task] = field(default_factory=dict)
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    bytes_read: int = 0
    oldest: float | None = None
    complete: bool = False
    #: when the tasks were created that were handed out or skipped for a passing reason, in seconds since the epoch
    created: dict[str, float | None] = field(default_factory=dict)
    #: the types of those skipped as ``unknown_type``, as far as they are told of
    unknown: set[str] = field(default_factory=set)

    def note_age(self, created_at: float | None) -> None:
        if created_at is not None:
            self.oldest = created_at if self.oldest is None else min(self.oldest, created_at)

    @property
    def seen(self) -> int:
        return len(self.tasks) + self.skipped.total()


class PendingList:
    """The list behind ``GET /api/ai-tasks/pending``. ``skip`` says why a task must not start now, or None."""

    def __init__(
        self,
        settings: ApiSettings,
        client: httpx2.AsyncClient,
        skip: Callable[[Task], SkipReason | None],
        *,
        busy: Callable[[str], SkipReason | None] = lambda _: None,
        metrics: Metrics | None = None,
    ) -> None:
        self.last_page = Page()
        self._settings = settings
        self._client = client
        self._skip = skip
        self._busy = busy
        self._metrics = metrics
        self._sends_limit = True
        self._cut = False
        self._reported: set[int] = set()
        self._unknown: set[str] = set()

    async def read(self, free: int) -> Page:
        """At most ``free`` tasks that may start now. Raises ``NeighbourError`` when reading failed before the first.

        All requests of one reading together stand under one deadline.
        """
        page, limit = Page(), free + self._in_the_way()
        try:
            async with deadline(self._settings.request_timeout_s):
                while True:
                    page = Page(bytes_read=page.bytes_read)
                    await self._stream(page, free, limit if self._sends_limit else None)
                    if page.tasks or page.complete:
                        break
                    # Should the wider request fail, the next reading begins where this one stood.
                    self.last_page = page
                    limit *= 2
        except NeighbourError as error:
            if not page.tasks:
                raise
            (log.debug if self._cut else log.warning)("poll.cut", reason=str(error), claimed=len(page.tasks))
            self._cut = True
        else:
            self._cut = False
        self.last_page = page
        return page

    def _in_the_way(self) -> int:
        """How many of the page before are listed again and skipped: what is still worked on, and what was skipped."""
        before = self.last_page
        lasting = before.skipped.total() - sum(before.skipped[reason] for reason in _PASSING)
        return lasting + sum(self._busy(task_id) is not None for task_id in before.created)

    async def answers(self) -> None:
        """Prove that the list can be read: its first record, or its end. Raises ``NeighbourError``."""
        framer = ArrayFramer(MAX_RECORD_BYTES)
        async with deadline(self._settings.request_timeout_s), self._request(None) as answer:
            if not answer.is_success:
                raise status_error(answer, "the task API")
            async with aclosing(answer.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    if any(framer.feed(chunk)) or framer.done:
                        return
            framer.finish()

    def _request(self, limit: int | None) -> AbstractAsyncContextManager[StreamedAnswer | httpx2.Response]:
        parameters = {} if limit is None else {"limit": str(limit)}
        return stream(self._client, self._settings.base_url + PENDING, parameters)

    async def _stream(self, page: Page, free: int, limit: int | None) -> None:
        """Fill the page. A strict API refuses the limit: then the same without it, and from now on if that was it."""
        started_at, status = time.perf_counter(), None
        try:
            async with self._request(limit) as answer:
                status = answer.status_code
                refused = status == httpx2.codes.BAD_REQUEST and limit is not None
                if not refused:
                    if not answer.is_success:
                        raise status_error(answer, "the task API")
                    self._sends_limit = limit is not None
                    await self._fill(page, free, limit, answer)
        finally:
            if self._metrics is not None:
                took_s = time.perf_counter() - started_at
                self._metrics.api_request(endpoint=PENDING, method="GET", status_code=status, duration_s=took_s)
        if refused:
            await self._stream(page, free, None)

    async def _fill(self, page: Page, free: int, limit: int | None, answer: StreamedAnswer | httpx2.Response) -> None:
        framer, whole = ArrayFramer(MAX_RECORD_BYTES), _is_short(answer)
        async with aclosing(_joined(answer.aiter_bytes()) if whole else answer.aiter_bytes()) as chunks:
            async for chunk in chunks:
                page.bytes_read += len(chunk)
                if whole and (listed := self._all_of(chunk)) is not None:
                    self._consider_all(listed, page, free)
                    framer.done = True
                    if len(page.tasks) == free:
                        return
                    break
                for start in range(0, len(chunk), PIECE_BYTES):
                    for record in framer.feed(chunk[start : start + PIECE_BYTES]):
                        self._consider(record, page)
                        if len(page.tasks) == free:
                            await _read_tail(chunks)
                            return
                    await asyncio.sleep(0)
        framer.finish()
        page.complete = page.seen != limit
        if page.complete and not page.skipped["invalid"]:
            self._reported.clear()
        if page.complete and self._unknown:
            self._forget_types(page)

    def _all_of(self, data: bytes) -> list[Task | str] | None:
        """A whole list: its tasks, and the bare ids of those being worked on; None when anything is wrong with it."""
        try:
            listed = codec.loads(data)
        except ValueError:
            return None
        if not isinstance(listed, list):
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

    def _consider_all(self, listed: list[Task | str], page: Page, free: int) -> None:
        for task in listed:
            if isinstance(task, str):
                self._note_busy(task, page)
            else:
                self._admit(task, page)
                if len(page.tasks) == free:
                    return

    def _consider(self, record: bytes, page: Page) -> None:
        found = _ID.match(record)
        task_id = "" if found is None else found[1].decode("ascii")
        # A task of the page before that is being worked on need not be parsed again: half of a list is such.
        if task_id in self.last_page.created and self._note_busy(task_id, page):
            return
        task = parse_record(record, self._settings.task_id_pattern)
        if isinstance(task, Invalid):
            page.skipped["invalid"] += 1
            self._report(record, task)
        else:
            self._admit(task, page)

    def _admit(self, task: Task, page: Page) -> None:
        created_at = None if task.created_at is None else task.created_at.timestamp()
        page.note_age(created_at)
        reason: SkipReason | None = "duplicate" if task.id in page.tasks else self._skip(task)
        if reason is None:
            page.tasks[task.id] = task
            page.created[task.id] = created_at
        else:
            page.skipped[reason] += 1
            if reason in _PASSING:
                page.created[task.id] = created_at
            elif reason == "unknown_type":
                self._report_type(task.type, page)

    def _note_busy(self, task_id: str, page: Page) -> bool:
        reason = self._busy(task_id)
        if reason is None:
            return False
        page.created[task_id] = created_at = self.last_page.created[task_id]
        page.note_age(created_at)
        page.skipped[reason] += 1
        return True

    def _report(self, record: bytes, invalid: Invalid) -> None:
        key = hash(record)
        if key not in self._reported and len(self._reported) < REPORTED_RECORDS:
            self._reported.add(key)
            log.warning("record.skipped", reason=invalid.reason, task_id=invalid.task_id, bytes=len(record))

    def _report_type(self, task_type: str, page: Page) -> None:
        """Each type is told once, until a list that was read to its end has none of it."""
        known = task_type[:REPORTED_TYPE_CHARS]
        if known not in self._unknown:
            if len(self._unknown) == REPORTED_TYPES:
                return
            self._unknown.add(known)
            log.warning("type.skipped", task_type=_ODD.sub("?", known))
        page.unknown.add(known)

    def _forget_types(self, page: Page) -> None:
        for gone in sorted(self._unknown - page.unknown):
            log.info("type.gone", task_type=_ODD.sub("?", gone))
        self._unknown &= page.unknown


def _is_short(answer: StreamedAnswer | httpx2.Response) -> bool:
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
    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(TAIL_S):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return
