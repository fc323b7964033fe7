"""What several tests of the engine are built from."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from ai_task_processor.core.errors import OutboxUnwritable
from ai_task_processor.models.task import Claim, Receipt, Task
from ai_task_processor.testing.memory import MemoryOutbox

Logs = list[MutableMapping[str, Any]]


def task(task_id: str = "a", content: object = None, **fields: Any) -> Task:
    return Task(**{"id": task_id, "type": "t", "content": content, **fields})


def claim(task_id: str = "a", **fields: Any) -> Claim:
    return Claim(task(task_id, **fields), Receipt("aletheia", task_id))


def names(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def events(logs: Logs) -> list[str]:
    """The events of a log, without those for debugging and acknowledgements."""
    return [line["event"] for line in logs if line["log_level"] != "debug" and line["event"] != "delivery.acknowledged"]


def ids_of(logs: Iterable[MutableMapping[str, Any]], event: str) -> set[str]:
    """The tasks that such an event was logged for."""
    return {line["task_id"] for line in logs if line["event"] == event}


@asynccontextmanager
async def at_work(run: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """It runs meanwhile, and does not end by itself."""
    work = asyncio.ensure_future(run)
    try:
        yield
        assert not work.done(), work
    finally:
        work.cancel()
        await asyncio.wait([work])


class UnwritableOutbox(MemoryOutbox):
    """An outbox whose changes fail while it is ``unwritable``."""

    unwritable = False

    def check(self) -> None:
        if self.unwritable:
            raise OutboxUnwritable("disk full")

    async def delivered(self, task_id: str) -> None:
        self.check()
        await super().delivered(task_id)

    async def acknowledged(self, task_id: str, reason: str) -> None:
        self.check()
        await super().acknowledged(task_id, reason)

    async def defer(self, task_id: str, *, due_at: float, attempts: int, reason: str | None = None) -> None:
        self.check()
        await super().defer(task_id, due_at=due_at, attempts=attempts, reason=reason)

    async def bury(self, task_id: str, reason: str, *, attempts: int = 1) -> None:
        self.check()
        await super().bury(task_id, reason, attempts=attempts)
