"""The task API's store: every task, which are pending, and what was PATCHed."""

import asyncio
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.answers import parsed, rendered
from ai_task_processor.sandbox.vectors import as_float32

_CHUNK_BYTES: Final = 65536
_FINAL: Final = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED})


@dataclass(slots=True)
class StoredTask:
    """One task and its history.

    ``result``: float32 bytes for a vector (in an object: its ``embedding``), other JSON as it came.
    ``patches`` counts the PATCHes that were applied, ``callbacks`` the callbacks that ran to their
    end, ``answers_lost`` the applied PATCHes whose answer a fault kept from the caller.
    ``acknowledged_at`` is the arrival of the latest final state that was answered 200.
    """

    id: str
    record: bytes = field(repr=False)
    created_at: datetime
    state: TaskStatus = TaskStatus.PENDING
    result: object = field(default=None, repr=False)
    error: object = None
    patches: int = 0
    callbacks: int = 0
    answers_lost: int = 0
    updated_at: datetime | None = None
    acknowledged_at: datetime | None = None
    #: further records with the same id, listed directly after it
    copies: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def code(self) -> str:
        """The code of its error."""
        return str(self.error.get("code")) if isinstance(self.error, dict) else "without a code"

    @property
    def document(self) -> dict[str, object]:
        """The record as the API answers it now, without the result."""
        fields = parsed(self.record)
        document = dict(fields) if isinstance(fields, dict) else {}
        return document | {"state": self.state, "updatedAt": _iso(self.updated_at)}


class TaskStore:
    """Tasks by id, in the order in which they were added (which is the order of the pending list)."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._tasks: dict[str, StoredTask] = {}
        # An OrderedDict finds its first entry at once, however many were removed in front of it.
        self._pending: OrderedDict[str, StoredTask] = OrderedDict()
        self._waiting: list[tuple[set[str], asyncio.Event]] = []
        self._process = os.urandom(5).hex()
        self._made = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[StoredTask]:
        return iter(self._tasks.values())

    def __getitem__(self, task_id: str) -> StoredTask:
        return self._tasks[task_id]

    def find(self, task_id: str) -> StoredTask | None:
        return self._tasks.get(task_id)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def outcomes(self) -> Counter[str]:
        """How many tasks are in each state."""
        return Counter(task.state.value for task in self)

    def add(
        self,
        text: str = "",
        *,
        type: str = "text_embedding",  # noqa: A002 - the field's name in the record
        model: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name in the record
        content: object = None,
        raw: Mapping[str, object] | None = None,
    ) -> str:
        """Add a pending task and return its id.

        ``content`` replaces what ``text`` and ``model`` would make; ``raw`` replaces fields of the whole record.
        """
        now = self._now()
        record = {
            "_id": id or self._object_id(now),
            "type": type,
            "state": TaskStatus.PENDING,
            "content": content if content is not None else {"text": text} | ({"model": model} if model else {}),
            "callbackRoute": "verification_update_embedding",
            "callbackParams": {"targetId": self._object_id(now), "field": "embedding"},
            "createdAt": _iso(now),
            "updatedAt": None,
        } | dict(raw or {})
        return self._insert(record["_id"], rendered(record), now)

    def add_raw(self, record: bytes) -> str:
        """List these bytes as they are, JSON or not.

        Returns the record's ``_id`` if it has one; otherwise a unique name, which no PATCH can have. A record with
        an id that exists is listed after the first one and removed with it.
        """
        try:
            fields = parsed(record)
        except ValueError:
            fields = None
        return self._insert(fields.get("_id") if isinstance(fields, dict) else None, record, self._now())

    def settle(
        self, task: StoredTask, state: TaskStatus, *, result: object = None, error: object = None, answered: bool = True
    ) -> None:
        """Apply a PATCH. ``answered``: will its answer arrive?"""
        task.state = state
        task.updated_at = self._now()
        task.patches += 1
        task.result = compact(result) if result is not None else task.result
        task.error = error if error is not None else task.error
        if state is TaskStatus.PENDING:
            self._pending.setdefault(task.id, task)
        else:
            self._pending.pop(task.id, None)
        if not answered:
            task.answers_lost += 1

    def acknowledge(self, task: StoredTask) -> None:
        """The PATCH is answered with 200."""
        if task.state not in _FINAL:
            return
        task.acknowledged_at = self._now()
        for missing, done in self._waiting:
            missing.discard(task.id)
            if not missing:
                done.set()

    async def settled(self, ids: Iterable[str], timeout: float) -> None:
        """Return once each of these tasks was acknowledged in a final state.

        Raises ``TimeoutError`` with the number of those that were not.
        """
        missing = {task_id for task_id in ids if self._tasks[task_id].acknowledged_at is None}
        if not missing:
            return
        waiting = missing, asyncio.Event()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(timeout):
                await waiting[1].wait()
        except TimeoutError:
            raise TimeoutError(f"{len(missing)} tasks are not settled after {timeout:g} s") from None
        finally:
            self._waiting.remove(waiting)

    async def listed(self, limit: int | None) -> AsyncIterator[bytes]:
        """The pending list as JSON, in pieces of about 64 kB, as it was when the first piece was taken."""
        tasks = list(islice(self._pending.values(), limit))
        piece = bytearray(b"[")
        for place, task in enumerate(tasks):
            piece += b",".join((b"", task.record, *task.copies) if place else (task.record, *task.copies))
            if len(piece) > _CHUNK_BYTES:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece + b"]")

    def _insert(self, wanted: object, record: bytes, now: datetime) -> str:
        task_id = wanted if isinstance(wanted, str) else f"raw-{self._object_id(now)}"
        if (known := self._tasks.get(task_id)) is not None:
            known.copies += (record,)
            return task_id
        self._tasks[task_id] = self._pending[task_id] = StoredTask(task_id, record, now)
        return task_id

    def _object_id(self, now: datetime) -> str:
        """24 hex digits in the layout of MongoDB: seconds, five bytes of the process, a counter."""
        self._made += 1
        return f"{int(now.timestamp()):08x}{self._process}{self._made & 0xFFFFFF:06x}"


def compact(result: object) -> object:
    """Vectors as float32 bytes: six times less memory than a list of Python floats."""
    if isinstance(result, dict):
        return result | {"embedding": compact(result["embedding"])} if "embedding" in result else result
    return as_float32(result) or result


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
