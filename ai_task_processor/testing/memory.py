"""Outbox, steps and journal in memory, for tests: they pass the same suite, but nothing survives a restart."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from ai_task_processor.core.component import Problem
from ai_task_processor.core.ports import Clock, Held, OutboxDepth, Standing, Store
from ai_task_processor.models.task import Receipt, Record
from ai_task_processor.net.services import Services
from ai_task_processor.stores.sqlite.journal import FileJournal
from ai_task_processor.stores.sqlite.ledger import Watermark
from ai_task_processor.stores.sqlite.records import STRANDED_AFTER_S


class MemorySteps:
    """``ports.StepStore`` in a dictionary."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, tuple[str, bytes]]] = {}

    async def load(self, task_id: str, fingerprint: str) -> Mapping[str, bytes]:
        found = self._answers.get(task_id, {}).items()
        return {name: answer for name, (content, answer) in found if content == fingerprint}

    def save(self, task_id: str, fingerprint: str, name: str, answer: bytes) -> asyncio.Future[None]:
        self._answers.setdefault(task_id, {})[name] = fingerprint, answer
        return _done()

    async def erase(self, task_id: str) -> None:
        self.forget(task_id)

    def forget(self, task_id: str) -> None:
        """``erase``, at once."""
        self._answers.pop(task_id, None)


class MemoryOutbox:
    """``ports.Outbox`` and ``ports.SourceMemory`` in dictionaries. ``steps``: erased with the outcome."""

    writable = True

    def __init__(self, max_bytes: int, clock: Clock) -> None:
        self._clock = clock
        self._watermark = Watermark(max_bytes)
        self._waiting: dict[str, Record] = {}
        self._dead: dict[str, Record] = {}
        self._quarantined: dict[str, Record] = {}
        self._requests: list[tuple[str, str]] = []
        self._remembered: dict[str, float] = {}
        self.steps = MemorySteps()

    @property
    def _places(self) -> tuple[dict[str, Record], ...]:
        return self._waiting, self._dead, self._quarantined

    @property
    def full(self) -> bool:
        return self._watermark.full

    def put(self, record: Record) -> asyncio.Future[None]:
        self.steps.forget(record.task_id)
        return self._store(record, self._waiting)

    def quarantine(self, record: Record) -> asyncio.Future[None]:
        return self._store(record, self._quarantined)

    def _store(self, record: Record, place: dict[str, Record]) -> asyncio.Future[None]:
        self._remove(record.task_id)
        place[record.task_id] = record
        self._measure()
        return _done()

    async def held(self, task_ids: Sequence[str]) -> Mapping[str, Held]:
        found: dict[str, Held] = {}
        places: tuple[tuple[dict[str, Record], Standing], ...] = (
            (self._quarantined, "quarantined"),
            (self._dead, "dead_letter"),
        )
        for place, standing in places:
            found |= {id_: Held(standing, place[id_].fingerprint) for id_ in task_ids if id_ in place}
        return found | {id_: Held("in_outbox", "") for id_ in task_ids if id_ in self._waiting}

    async def due(self, now: float, limit: int, exclude: frozenset[str] = frozenset()) -> Sequence[Record]:
        ready = [
            record
            for record in self._waiting.values()
            if record.task_id not in exclude and not now < record.due_at <= now + STRANDED_AFTER_S
        ]
        return sorted(ready, key=lambda record: record.due_at)[:limit]

    async def delivered(self, task_id: str) -> None:
        self._remove(task_id)
        self.steps.forget(task_id)
        self._measure()

    async def acknowledged(self, task_id: str, reason: str) -> None:
        if task_id in self._waiting:
            self._waiting[task_id] = replace(self._waiting[task_id], acknowledged=True, reason=reason)

    async def defer(self, task_id: str, *, due_at: float, attempts: int, reason: str | None = None) -> None:
        if task_id in self._waiting:
            deferred = replace(self._waiting[task_id], due_at=due_at, attempts=attempts, reason=reason)
            self._waiting[task_id] = deferred

    async def bury(self, task_id: str, reason: str, *, attempts: int = 1) -> None:
        if task_id in self._waiting:
            self._dead[task_id] = replace(self._waiting.pop(task_id), reason=reason, attempts=attempts)

    async def receipts(self) -> Sequence[Receipt]:
        return [record.receipt for record in self._waiting.values() if not record.acknowledged]

    async def remember(self, ids: Sequence[str], until: float) -> None:
        self._remembered |= dict.fromkeys(ids, until)

    async def forget(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            self._remembered.pop(id_, None)

    async def remembered(self) -> Collection[str]:
        now = self._clock.now().timestamp()
        return [id_ for id_, until in self._remembered.items() if until > now]

    def leave_request(self, action: str, task_ids: Iterable[str]) -> None:
        """Leave a request, as an operator's command does."""
        self._requests += [(action, task_id) for task_id in task_ids]

    async def apply_requests(self) -> Mapping[str, str]:
        requests, self._requests = self._requests, []
        done = {task_id: action for action, task_id in requests if self._carry_out(action, task_id)}
        self._measure()
        return done

    def depth(self) -> OutboxDepth:
        oldest = min((record.finished_at for record in self._waiting.values()), default=None)
        due = min((record.due_at for record in self._waiting.values()), default=None)
        counts = len(self._waiting), len(self._dead), len(self._quarantined), self._bytes()
        return OutboxDepth(*counts, oldest, next_due_at=due)

    def _carry_out(self, action: str, task_id: str) -> bool:
        return self._remove(task_id) if action == "drop" else self._retry(task_id)

    def _retry(self, task_id: str) -> bool:
        if self._quarantined.pop(task_id, None):
            return True
        if task_id in self._dead:
            self._waiting[task_id] = replace(self._dead.pop(task_id), attempts=0)
        if task_id in self._waiting:
            self._waiting[task_id] = replace(self._waiting[task_id], due_at=0.0, reason=None)
        return task_id in self._waiting

    def _remove(self, task_id: str) -> bool:
        removed = [place.pop(task_id, None) for place in self._places]
        return any(removed)

    def _bytes(self) -> int:
        return sum(record.size for place in self._places for record in place.values())

    def _measure(self) -> None:
        self._watermark.rise_or_fall(self._bytes())


class MemoryJournal(FileJournal):
    """``ports.Journal`` as a list of lines, after ``earlier`` ones of another process; while ``broken`` writes fail."""

    def __init__(
        self,
        earlier: Iterable[bytes] = (),
        *,
        monotonic: Callable[[], float],
        source: str = "aletheia",
    ) -> None:
        super().__init__(Path(), source, monotonic=monotonic)
        self.broken = False
        self._replay_all(earlier)
        self.lines = self._lines()

    def _append(self, line: bytes) -> bool:
        if not self.broken:
            self.lines += line.split(b"\n")
        return not self.broken


class MemoryStore(Store):
    """``ports.Store`` in memory: nothing survives its end."""

    name = "memory"

    def __init__(self, source: str, clock: Clock, max_bytes: int = 2**30) -> None:
        self.outbox = self.memory = MemoryOutbox(max_bytes, clock)
        self.steps = self.outbox.steps
        self.journal = MemoryJournal(monotonic=clock.monotonic, source=source)

    @classmethod
    def build(cls, services: Services) -> Self:
        return cls(services.source, services.clock)

    @property
    def accepting(self) -> bool:
        return not self.problems()

    @property
    def recovered(self) -> int:
        return 0

    def problems(self) -> Sequence[Problem]:
        return (Problem("outbox_full"),) if self.outbox.full else ()


def _done() -> asyncio.Future[None]:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
