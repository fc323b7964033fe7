"""One thread, one connection, group commit: what waits together becomes durable by one fsync.

While a commit waits for the disk, the next jobs gather in the queue; the thread takes them all into
one transaction and answers them with one call into the event loop. At low load a job is alone and
waits for nobody; at high load the price of the fsync is shared.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from ai_task_processor.core.errors import OutboxUnwritable
from ai_task_processor.stores.sqlite.salvage import damaged

T = TypeVar("T")

_GROUP = 512

#: The disk's fault, not the job's: all that were to be written together fail together.
_STORAGE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


@dataclass(frozen=True, slots=True)
class Many:
    """Work for several tasks at once. For up to ``at_once`` of them it is one statement."""

    work: Callable[[sqlite3.Connection, Sequence[Any]], object]
    at_once: int


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """``work`` runs in the thread, perhaps twice, so it touches nothing but the connection.

    ``committed`` and ``failed`` run in the event loop, whether or not the caller still waits.

    A job ``about`` one task and no other may be done together with its like, by ``many`` with the ``item`` of each and
    without an answer. That is cheaper: at each step SQLite lets the event loop run, and waits for its turn afterwards.
    """

    work: Callable[[sqlite3.Connection], T]
    writes: bool
    many: Many | None
    about: str
    item: object
    committed: Callable[[T], object] | None
    failed: Callable[[], object] | None
    future: asyncio.Future[T]
    value: T | None = None
    error: Exception | None = None

    def settle(self) -> None:
        if self.error is not None:
            if self.failed:
                self.failed()
            if not self.future.done():
                self.future.set_exception(self.error)
            return
        if self.committed:
            self.committed(self.value)  # type: ignore[arg-type]  # there was no error, so it has its value
        if not self.future.done():
            self.future.set_result(self.value)  # type: ignore[arg-type]  # there was no error, so it has its value


class _TogetherError(Exception):
    """One of several jobs that were done together fails for a reason of its own."""


class _SpoiledError(Exception):
    """A job failed for a reason of its own."""

    def __init__(self, job: _Job[Any], error: Exception) -> None:
        self.job = job
        self.error = error


class Writer:
    """The thread that owns the connection which ``connect`` makes, and makes anew when the file is damaged.

    ``writable`` is as of the last commit.
    """

    def __init__(self, connect: Callable[[sqlite3.Connection | None], sqlite3.Connection]) -> None:
        """``connect`` gets the connection that met damage, which it closes, and None at first."""
        self._connect = connect
        self._damaged = False
        self._jobs: SimpleQueue[Sequence[_Job[Any]] | None] = SimpleQueue()
        self._submitted: list[_Job[Any]] = []
        self._thread: Thread | None = None
        self._closed = False
        self.writable = True

    async def start(self) -> None:
        """Raises what ``connect`` raises."""
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.create_future()
        self._ended = self._loop.create_future()
        # A daemon thread: after os._exit or an unhandled error nobody is left to end it.
        self._thread = Thread(target=self._main, name="outbox-writer", daemon=True)
        self._thread.start()
        await self._started

    async def aclose(self) -> None:
        """Write everything that was submitted, close the database, end the thread."""
        if self._thread is None:
            return
        if not self._closed:
            self._hand_over()
            self._closed = True
            self._jobs.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        writes: bool = False,
        many: Many | None = None,
        about: str = "",
        item: object = None,
        committed: Callable[[T], object] | None = None,
        failed: Callable[[], object] | None = None,
    ) -> asyncio.Future[T]:
        """Queue a job at once. Cancelling the future does not cancel the job."""
        job = _Job(work, writes, many, about, item, committed, failed, self._loop.create_future())
        if self._closed:
            job.error = OutboxUnwritable("the outbox is closed")
            job.settle()
        else:
            self._submitted.append(job)
            if len(self._submitted) == 1:
                # What is submitted in one turn of the loop goes together: to wake the thread for each is dear.
                self._loop.call_soon(self._hand_over)
        return job.future

    def _hand_over(self) -> None:
        if self._submitted:
            self._jobs.put(self._submitted)
            self._submitted = []

    def _main(self) -> None:
        try:
            self._db = self._connect(None)
        except Exception as error:  # noqa: BLE001 - the boundary of the thread: whoever started it gets the error
            self.tell(_resolve, self._started, error)
        else:
            self.tell(_resolve, self._started)
            while self._serve():
                pass
            self._db.close()
        self.tell(_resolve, self._ended)

    def tell(self, callback: Callable[..., object], *arguments: object) -> None:
        """From the thread: call this in the event loop, in the order of the calls."""
        # A closed loop has nobody waiting; what is queued is still written.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _serve(self) -> bool:
        """One group; false when it was the last."""
        group, more = self._gather()
        self._perform(group)
        self.tell(_settle, group)
        return more

    def _gather(self) -> tuple[list[_Job[Any]], bool]:
        """Everything that waits, up to a bound, and whether more may follow."""
        group: list[_Job[Any]] = []
        jobs = self._jobs.get()
        with contextlib.suppress(Empty):
            while jobs is not None:
                group += jobs
                if len(group) >= _GROUP:
                    break
                jobs = self._jobs.get_nowait()
        return group, jobs is not None

    def _perform(self, group: list[_Job[Any]]) -> None:
        """Run the group in one transaction, its like together.

        When those fail for a reason of their own, each runs for itself; a job that does is set aside, and the
        others run again without it.
        When the disk refuses, all that write fail, and the others read without them.
        """
        group, together = _sorted(group), True
        while group:
            writes = any(job.writes for job in group)
            try:
                self._transact(group, writes=writes, together=together)
                self.writable |= writes
                return
            except _TogetherError:
                together = False
            except _SpoiledError as spoiled:
                spoiled.job.error = spoiled.error
            except Exception as error:  # noqa: BLE001 - the boundary of the thread: it must outlive every group
                self._damaged |= damaged(error)
                self.writable &= not writes
                for job in group:
                    if job.writes == writes:
                        job.error = OutboxUnwritable(f"the outbox is unusable: {error}")
                        job.error.__cause__ = error
            group = [job for job in group if job.error is None]

    def _transact(self, group: list[_Job[Any]], *, writes: bool, together: bool) -> None:
        if self._damaged:
            self._db = self._connect(self._db)
            self._damaged = False
        if together and _is_one_statement(group):
            # It is a transaction by itself. At each step of a longer one the event loop runs, and the thread waits.
            self._run_all(group[0].many, group)
            return
        # IMMEDIATE: turning into a writer half-way fails at once when an operator's command is writing.
        self._db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            for many, jobs in groupby(group, key=lambda job: job.many if together else None):
                self._run_all(many, list(jobs))
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rollback()

    def _run_all(self, many: Many | None, jobs: list[_Job[Any]]) -> None:
        if many is None or len(jobs) == 1:
            for job in jobs:
                self._run(job)
            return
        try:
            many.work(self._db, [job.item for job in jobs])
        except Exception as error:
            if _storage_failed(error):
                raise
            raise _TogetherError from error

    def _run(self, job: _Job[Any]) -> None:
        try:
            job.value = job.work(self._db)
        except Exception as error:
            if _storage_failed(error):
                raise
            raise _SpoiledError(job, error) from error


def _storage_failed(error: Exception) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _STORAGE


def _is_one_statement(group: list[_Job[Any]]) -> bool:
    many = group[0].many
    return many is not None and len(group) <= many.at_once and all(job.many is many for job in group)


def _sorted(group: list[_Job[Any]]) -> list[_Job[Any]]:
    """Like beside like, where the order cannot matter: every job is about a task of its own."""
    if len({job.about for job in group if job.many}) < len(group):
        return group
    return sorted(group, key=lambda job: id(job.many))


def _settle(group: list[_Job[Any]]) -> None:
    for job in group:
        job.settle()


def _resolve(future: asyncio.Future[None], error: Exception | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
