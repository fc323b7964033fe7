"""The embedded store as a component: outbox and journal of one data directory, and whether they accept more."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path

from ai_task_processor.core.checks import Check, unusable
from ai_task_processor.core.component import Problem
from ai_task_processor.core.ports import Store
from ai_task_processor.net.services import Services
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.stores.sqlite.checks import examine
from ai_task_processor.stores.sqlite.journal import FileJournal
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox
from ai_task_processor.stores.sqlite.settings import StoreSettings

#: a longer wait for the directory's lock (another daemon still drains) is logged
SILENCE_S = 1.0
#: Nothing is claimed while the file system has fewer free bytes than this, plus some per slot: results of running
#: tasks must fit into the database and its log.
DISK_RESERVE, DISK_RESERVE_PER_SLOT = 4 * 2**20, 2**16

log = get_logger(__name__)


class SqliteStore(Store):
    """``ports.Store`` in a local directory, for one daemon."""

    name = "sqlite"
    settings_groups = (StoreSettings,)

    def __init__(self, services: Services) -> None:
        settings, source = services.settings[StoreSettings], services.source
        self.directory: Path = settings.data_dir
        self._examine = partial(examine, self.directory, settings.outbox_max_bytes, source)
        self._reserve = DISK_RESERVE + services.settings.worker.concurrency_limit * DISK_RESERVE_PER_SLOT
        self.outbox = self.memory = SqliteOutbox(
            self.directory, source, max_bytes=settings.outbox_max_bytes, clock=services.clock, lost=services.lost
        )
        self.steps = self.outbox.steps
        self.journal = FileJournal(self.directory, source, _soon)

    @property
    def recovered(self) -> int:
        return self.outbox.recovered

    async def run(self, ready: asyncio.Event) -> None:
        """Raises ``OutboxLocked`` when another daemon holds the directory for a minute, and ``DataDirectoryError``."""
        loop = asyncio.get_running_loop()
        waiting = loop.call_later(SILENCE_S, lambda: log.warning("outbox.awaited", directory=str(self.directory)))
        try:
            await self.outbox.open()
        finally:
            waiting.cancel()
        try:
            self.journal.read()
            await self.memory.remember(sorted(self.journal.marked), inf)
            self.journal.start()
            self._report_foreign()
            ready.set()
            await loop.create_future()
        finally:
            self.journal.close()
            await self.outbox.aclose()

    def _report_foreign(self) -> None:
        for source, count in self.outbox.depth().foreign.items():
            log.warning("outbox.foreign", source=source, records=count)

    @property
    def accepting(self) -> bool:
        return not self.problems()

    def problems(self) -> Sequence[Problem]:
        found = []
        if self.outbox.full:
            text = "results that are not delivered fill OUTBOX_MAX_BYTES: nothing is claimed until a tenth has left"
            found.append(Problem("outbox_full", text))
        if not self.outbox.writable or not self.journal.usable():
            text = "results cannot be stored (see outbox.failed in the log): nothing is claimed until they can"
            found.append(Problem("outbox_unwritable", text, when="running"))
        if self.outbox.free_bytes() < self._reserve:
            found.append(Problem("disk_full", "what is left on DATA_DIR is kept for results on their way"))
        return found

    def checks(self) -> Sequence[Check]:
        return (Check("data directory", self._examine, "DATA_DIR", late=unusable),)


def _soon(call: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_soon(call)
