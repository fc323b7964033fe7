"""An outbox without a disk, for tests: the same promises, except that it forgets."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from ai_task_processor.models.task import Record
from ai_task_processor.ports import Clock, OutboxDepth
from ai_task_processor.stores.ledger import Watermark
from ai_task_processor.stores.schema import STRANDED_AFTER_S


class MemoryOutbox:
    """``ports.Outbox`` in two dictionaries."""

    writable = True

    def __init__(self, max_bytes: int, clock: Clock) -> None:
        self._clock = clock
        self._watermark = Watermark(max_bytes)
        self._waiting: dict[str, Record] = {}
        self._dead: dict[str, Record] = {}
        self._requests: list[tuple[str, str]] = []

    @property
    def full(self) -> bool:
        return self._watermark.full

    def put(self, record: Record) -> asyncio.Future[None]:
        self._remove(record.task_id)
        self._waiting[record.task_id] = record
        self._measure()
        kept = asyncio.get_running_loop().create_future()
        kept.set_result(None)
        return kept

    def holds(self, task_id: str, fingerprint: str | None = None) -> Literal["in_outbox", "dead_letter"] | None:
        if task_id in self._waiting:
            return "in_outbox"
        dead = self._dead.get(task_id)
        return "dead_letter" if dead and fingerprint in (None, dead.fingerprint) else None

    async def due(self, now: float, limit: int, exclude: frozenset[str] = frozenset()) -> Sequence[Record]:
        ready = [
            record
            for record in self._waiting.values()
            if record.task_id not in exclude and not now < record.due_at <= now + STRANDED_AFTER_S
        ]
        return sorted(ready, key=lambda record: record.due_at)[:limit]

    async def delivered(self, task_id: str) -> None:
        self._remove(task_id)
        self._measure()

    async def defer(self, task_id: str, *, due_at: float, attempts: int) -> None:
        if task_id in self._waiting:
            self._waiting[task_id] = replace(self._waiting[task_id], due_at=due_at, attempts=attempts)

    async def bury(self, task_id: str, reason: str) -> None:
        if task_id in self._waiting:
            self._dead[task_id] = replace(self._waiting.pop(task_id), reason=reason)

    def leave_request(self, action: str, task_ids: Iterable[str]) -> None:
        """What an operator's command does beside a running daemon."""
        self._requests += [(action, task_id) for task_id in task_ids]

    async def apply_requests(self) -> Mapping[str, str]:
        requests, self._requests = self._requests, []
        done = {task_id: action for action, task_id in requests if self._carry_out(action, task_id)}
        self._measure()
        return done

    def depth(self) -> OutboxDepth:
        oldest = min((record.finished_at for record in self._waiting.values()), default=None)
        return OutboxDepth(len(self._waiting), len(self._dead), self._bytes(), oldest)

    def _carry_out(self, action: str, task_id: str) -> bool:
        return self._remove(task_id) if action == "drop" else self._retry(task_id)

    def _retry(self, task_id: str) -> bool:
        if task_id in self._dead:
            self._waiting[task_id] = replace(self._dead.pop(task_id), attempts=0)
        if task_id in self._waiting:
            self._waiting[task_id] = replace(self._waiting[task_id], due_at=self._now(), reason=None)
        return task_id in self._waiting

    def _remove(self, task_id: str) -> bool:
        waiting, dead = self._waiting.pop(task_id, None), self._dead.pop(task_id, None)
        return waiting is not None or dead is not None

    def _bytes(self) -> int:
        return sum(record.size for records in (self._waiting, self._dead) for record in records.values())

    def _measure(self) -> None:
        self._watermark.rise_or_fall(self._bytes())

    def _now(self) -> float:
        return self._clock.now().timestamp()
