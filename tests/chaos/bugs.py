"""Eleven bugs, planted into the product one at a time: a judge that never convicts proves nothing.

Each is a patch of a few lines, installed in the daemon's own process. The product has no
switch for any of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ai_task_processor.core.errors import Ambiguous, InputRefused, Rejected, RemoteError, Transient
from ai_task_processor.core.ports import Clock
from ai_task_processor.engine import recovery, runner
from ai_task_processor.engine.delivery import Delivery
from ai_task_processor.engine.isolation import IsolationBudget
from ai_task_processor.engine.persistence import Persistence
from ai_task_processor.engine.steps import TaskSteps
from ai_task_processor.models.task import Failed, Failure, Record, Released, Tries
from ai_task_processor.net import resilience
from ai_task_processor.net.oauth import TokenSource
from ai_task_processor.net.token_answers import Token
from ai_task_processor.sources.rest import task_requests
from ai_task_processor.sources.rest.polls import Polls
from ai_task_processor.stores.sqlite import directory as data_directory
from ai_task_processor.stores.sqlite import store
from ai_task_processor.testing.memory import MemoryOutbox
from tests.chaos.hooks import replaced

#: methods that are wrapped, and what decides about an error
Method = Callable[..., Awaitable[Any]]
Decide = Callable[..., Failed | Released]


class ForgetfulOutbox(MemoryOutbox):
    """An outbox that pretends to have a disk."""

    recovered = 0

    def __init__(self, directory: Path, _source: str, *, max_bytes: int, clock: Clock, **_: object) -> None:
        super().__init__(max_bytes, clock)
        self._directory = directory

    async def open(self) -> None:
        data_directory.prepare(self._directory)

    async def aclose(self) -> None:
        """There is nothing to close."""

    def free_bytes(self) -> int:
        return 2**60


def no_outbox() -> None:
    """Results live in memory only."""
    replaced(store, "SqliteOutbox", lambda _: ForgetfulOutbox)


def acknowledged_before_patch() -> None:
    """The record is erased, and then reported."""

    def wrap(attempt: Method) -> Method:
        async def hasty(self: Delivery, record: Record) -> Any:
            await self._outbox.delivered(record.task_id)
            return await attempt(self, record)

        return hasty

    replaced(Delivery, "_attempt", wrap)


def kept_after_patch() -> None:
    """The result is reported from memory, and goes to the outbox when that is done."""

    async def late(self: Persistence, record: Record) -> None:
        while True:
            try:
                await self._reporter.report(record)
                break
            except (RemoteError, Rejected):
                await asyncio.sleep(0.5)
        await self._outbox.put(record)
        await self._outbox.delivered(record.task_id)

    replaced(Persistence, "persist", lambda _: late)


def failed_on_timeout() -> None:
    """A remote's timeout is taken for the task's own fault."""

    def wrap(decide: Decide) -> Decide:
        def harsh(error: BaseException, tries: Tries, *rest: Any) -> Failed | Released:
            if isinstance(error, Ambiguous | TimeoutError):
                return Failed(Failure("timeout", "no answer in time"))
            return decide(error, tries, *rest)

        return harsh

    replaced(runner, "classify", wrap)


def no_stale_filter() -> None:
    """A list is believed although it is older than our own PATCH."""

    def wrap(refuse: Method) -> Method:
        async def gullible(self: Any, tasks: Any) -> Any:
            stale, self._acknowledged_meanwhile = self._acknowledged_meanwhile, None
            try:
                return await refuse(self, tasks)
            finally:
                self._acknowledged_meanwhile = stale

        return gullible

    replaced(Polls, "refuse", wrap)


def token_per_401() -> None:
    """Whoever meets a 401 fetches a token for itself."""

    async def alone(self: TokenSource, stale: Token) -> Token:
        self.current = await self._fetch()
        return self.current

    replaced(TokenSource, "renewed", lambda _: alone)


def unbounded_probes() -> None:
    """When a pause is over everybody is let in."""

    def wrap(begin: Callable[[resilience.Gate], None]) -> Callable[[resilience.Gate], None]:
        def unnoticed(self: resilience.Gate) -> None:
            begin(self)
            self._probing = False

        return unnoticed

    replaced(resilience.Gate, "_begin_probe", wrap)


def retry_of_400() -> None:
    """A definitive refusal is taken for a passing fault."""

    def wrap(decide: Decide) -> Decide:
        def stubborn(error: BaseException, *rest: Any) -> Failed | Released:
            return Released(0.1, "perhaps next time") if isinstance(error, InputRefused) else decide(error, *rest)

        return stubborn

    def rejection(status: int, *_: object) -> RemoteError | None:
        return Transient("perhaps next time", status=status) if status == 400 else None

    replaced(runner, "classify", wrap)
    replaced(task_requests, "rejection", lambda _: rejection)


def isolated_at_the_first_crash() -> None:
    """What was in flight at a crash runs isolated before anything else, whatever it costs."""
    replaced(recovery, "ISOLATE_AT", lambda _: 1)
    replaced(IsolationBudget, "affords", lambda _: lambda *_: True)


def steps_in_memory() -> None:
    """The answers of calls inside tasks are not written."""

    async def save(self: TaskSteps, answers: Any, stored: dict[str, bytes], name: str, answer: bytes) -> None:
        stored[name] = answer

    replaced(TaskSteps, "_save", lambda _: save)


def steps_not_found() -> None:
    """The answers of calls inside tasks are written, and never read."""

    async def load(*_: object) -> dict[str, bytes]:
        return {}

    replaced(TaskSteps, "_load", lambda _: load)


BUGS: Mapping[str, Callable[[], None]] = {
    "no-outbox": no_outbox,
    "acknowledged-before-patch": acknowledged_before_patch,
    "kept-after-patch": kept_after_patch,
    "failed-on-timeout": failed_on_timeout,
    "no-stale-filter": no_stale_filter,
    "token-per-401": token_per_401,
    "unbounded-probes": unbounded_probes,
    "retry-of-400": retry_of_400,
    "isolated-at-the-first-crash": isolated_at_the_first_crash,
    "steps-in-memory": steps_in_memory,
    "steps-not-found": steps_not_found,
}
