"""What every store promises, held by the stores of this package."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from ai_task_processor.core.ports import Store
from ai_task_processor.stores.sqlite import inspection
from ai_task_processor.stores.sqlite.store import SqliteStore
from ai_task_processor.testing.memory import MemoryStore
from ai_task_processor.testing.store import MAX_BYTES, SOURCE, STORE_PROMISES, FixedClock, StoreCase, StorePromise
from tests.helpers import alive, services

Make = Callable[[Path], AbstractAsyncContextManager[StoreCase]]


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[StoreCase]:
    store = MemoryStore(SOURCE, FixedClock(), MAX_BYTES)
    async with alive(store):
        yield StoreCase(store, store.outbox.leave_request)


def sqlite_store(directory: Path) -> SqliteStore:
    store: SqliteStore = SqliteStore.build(
        services({"DATA_DIR": str(directory)}, SqliteStore, source=SOURCE, clock=FixedClock())
    )
    store.outbox._ledger._watermark._max_bytes = MAX_BYTES  # the setting begins at 64 KiB
    return store


@asynccontextmanager
async def sqlite(directory: Path) -> AsyncIterator[StoreCase]:
    lives = [alive(sqlite_store(directory))]

    async def restart() -> Store:
        """A kill leaves the files as they are: another directory has a copy of them."""
        again = directory / "again"
        again.mkdir()
        for file in directory.iterdir():  # noqa: ASYNC240 - a handful of files
            if file.is_file() and not file.name.endswith("-shm"):
                (again / file.name).write_bytes(file.read_bytes())
        lives.append(alive(sqlite_store(again)))
        return await lives[-1].__aenter__()

    store = await lives[0].__aenter__()
    try:
        yield StoreCase(store, lambda action, ids: inspection.leave_request(directory, action, ids), restart)
    finally:
        for life in reversed(lives):
            await life.__aexit__(None, None, None)


@pytest.mark.parametrize("make", [memory, sqlite])
@pytest.mark.parametrize("promise", STORE_PROMISES, ids=lambda promise: promise.__name__)
async def test_it_keeps_the_promises_of_a_store(promise: StorePromise, make: Make, tmp_path: Path) -> None:
    async with make(tmp_path) as case:
        await promise(case)


async def test_a_store_that_forgets_is_found_out(tmp_path: Path) -> None:
    """The suite has caught a planted fault: results that a kill takes with it."""

    async def forgetful() -> Store:
        return MemoryStore(SOURCE, FixedClock(), MAX_BYTES)

    async with memory(tmp_path) as case:
        case.restart = forgetful
        broken = set[str]()
        for promise in STORE_PROMISES:
            try:
                await promise(case)
            except (AssertionError, ValueError):
                broken.add(promise.__name__)
    assert {"results_survive_a_kill", "what_ran_at_a_kill_is_known_afterwards"} <= broken
