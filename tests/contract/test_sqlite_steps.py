"""Steps on disk: in the outbox's database and commits, and never in the way of its records."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.errors import OutboxUnwritable
from ai_task_processor.stores.sqlite import records, schema, steps, writer
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox
from tests.contract.helpers import failing
from tests.contract.outboxes import (
    NOW,
    execute,
    full_disk,
    noise,
    numbered,
    overwrite,
    record,
    store,
    task_ids,
    waiting,
)

DATABASE = "outbox.db"
PAGE = schema.PAGE_BYTES
COUNT = "SELECT count(*) FROM steps"


async def test_the_commit_of_the_outcome_erases_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both or neither: while the disk is full the steps stay with the task. The table is empty before the report."""
    async with store(tmp_path) as outbox:
        await asyncio.gather(*(outbox.steps.save(task_id, "f", "x", b"1") for task_id in "ab"))
        with monkeypatch.context() as patched:
            patched.setattr(records, "put", lambda *_, **__: full_disk())
            await failing(OutboxUnwritable, outbox.put(record("a")))
        assert await outbox.steps.load("a", "f") == {"x": b"1"}
        await outbox.put(record("a"))
        assert execute(tmp_path / DATABASE, COUNT) == (1,)
        assert "a" not in outbox.steps
        assert (await waiting(outbox)).keys() == {"a"}


async def test_a_step_that_cannot_be_stored_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody repeats it: were the outbox unwritable from then on, no task would be claimed again. A result's failure
    counts."""
    async with store(tmp_path) as outbox:
        with monkeypatch.context() as patched:
            patched.setattr(steps, "_INSERT", "INSERT INTO nothing VALUES (?, ?, ?, ?, ?, ?, ?)")
            patched.setattr(writer, "_STORAGE", frozenset({sqlite3.SQLITE_ERROR}))
            await failing(OutboxUnwritable, outbox.steps.save("a", "f", "x", b"1"))
            after_step = outbox.writable
            for each in (outbox.put(record("b")), outbox.steps.save("a", "f", "x", b"1")):
                await failing(OutboxUnwritable, each)
            after_both = outbox.writable
        await outbox.steps.save("a", "f", "x", b"2")
        assert (after_step, after_both, outbox.writable) == (True, False, True)
        assert await outbox.steps.load("a", "f") == {"x": b"2"}


async def test_an_outcome_that_overtakes_its_step_erases_it(tmp_path: Path) -> None:
    """Both are accepted in this order and share a commit, although nobody waited for the step."""
    async with store(tmp_path) as outbox:
        saved = outbox.steps.save("a", "f", "x", b"1")
        saved.cancel()
        await outbox.put(record("a"))
        assert execute(tmp_path / DATABASE, COUNT) == (0,)


async def test_a_file_of_the_release_before_has_no_such_table(tmp_path: Path) -> None:
    """It is added, with no schema number of its own, so that the release before opens the file again."""
    async with store(tmp_path) as outbox:
        await outbox.put(record("a"))
    execute(tmp_path / DATABASE, "DROP TABLE steps")
    async with store(tmp_path) as outbox:
        await outbox.steps.save("b", "f", "x", b"1")
        assert await outbox.steps.load("b", "f") == {"x": b"1"}
        assert (await waiting(outbox)).keys() == {"a"}
    assert execute(tmp_path / DATABASE, "PRAGMA user_version") == (schema.VERSION,) == (2,)


async def test_sources_do_not_share_steps(tmp_path: Path) -> None:
    """The same id is another task there."""
    for source in ("one", "two"):
        async with store(tmp_path, source) as outbox:
            assert await outbox.steps.load("a", "f") == {}
            await outbox.steps.save("a", "f", "x", source.encode())
    async with store(tmp_path, "one") as outbox:
        assert await outbox.steps.load("a", "f") == {"x": b"one"}


@pytest.mark.parametrize("age_s", [steps.MAX_AGE_S + 1, -steps.MAX_AGE_S - 1])
async def test_the_steps_of_a_task_that_never_comes_back_expire(tmp_path: Path, age_s: float) -> None:
    """A week after the last one, at the start; a step from the future was stored before the clock was corrected."""
    async with store(tmp_path) as outbox:
        await outbox.steps.save("a", "f", "x", b"1")
        await outbox.steps.save("b", "f", "x", b"1")
    execute(tmp_path / DATABASE, f"UPDATE steps SET saved_at = {NOW - age_s} WHERE task_id = 'a'")
    async with store(tmp_path) as outbox:
        assert ("a" in outbox.steps, "b" in outbox.steps) == (False, True)
    assert execute(tmp_path / DATABASE, COUNT) == (1,)


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_oldest_give_way(tmp_path: Path, restarted: bool) -> None:
    """All steps together take a quarter of the outbox at most; the task that saves keeps its own, whatever it has."""
    limit = 40_000
    async with store(tmp_path, max_bytes=limit) as outbox:
        for number in range(6):
            await outbox.steps.save(f"t{number}", "f", "x", bytes(1200))
        await outbox.steps.save("t0", "f", "y", b"1")  # the oldest is the newest now
        if not restarted:
            await _crowd_out(outbox)
    if restarted:
        execute(tmp_path / DATABASE, f"UPDATE steps SET saved_at = {NOW - 1} WHERE name = 'x'")
        async with store(tmp_path, max_bytes=limit) as outbox:
            await _crowd_out(outbox)
    assert execute(tmp_path / DATABASE, "SELECT group_concat(DISTINCT task_id) FROM steps") == ("new,t0",)


async def _crowd_out(outbox: SqliteOutbox) -> None:
    await outbox.steps.save("new", "f", "x", bytes(7_000))
    assert ("t0" in outbox.steps, "t5" in outbox.steps) == (True, False)


async def test_a_changed_answer_is_not_used(tmp_path: Path) -> None:
    """The file counts as damaged: it is set aside, results are kept, and the call is made again."""
    async with store(tmp_path) as outbox:
        await outbox.steps.save("a", "f", "x", json.dumps("right" * 20).encode())
        await outbox.put(numbered(1))
    data = (tmp_path / DATABASE).read_bytes()
    overwrite(tmp_path / DATABASE, data.index(b"rightright"), b"wrong")
    async with store(tmp_path) as outbox:
        await failing(OutboxUnwritable, outbox.steps.load("a", "f"))
        with capture_logs() as logs:
            assert await outbox.steps.load("a", "f") == {}
            assert (await waiting(outbox)).keys() == {"task-001"}
        assert [(line["event"], line["kept"], line["lost"]) for line in logs] == [("outbox.salvaged", 1, 0)]
        await outbox.steps.save("a", "f", "x", b"1")
        assert await outbox.steps.load("a", "f") == {"x": b"1"}


@pytest.mark.parametrize("page", [1, 2, 3, 4, 8])
async def test_a_repair_takes_no_step_for_a_record(tmp_path: Path, page: int) -> None:
    """With 200 steps among the records, large ones too, every page search finds each record, and loses none."""
    told = list[str | None]()
    async with store(tmp_path) as outbox:
        for number in range(60):
            await outbox.put(numbered(number))
            for name in ("small", "much"):
                answer = noise(200 if name == "small" else 40_000)
                await outbox.steps.save(f"task-{number:03}", "f", f"{name} {number}", answer)
    overwrite(tmp_path / DATABASE, (page - 1) * PAGE, noise(PAGE))
    async with store(tmp_path, lost=told.append) as outbox:
        assert set(await waiting(outbox)) == task_ids(range(60))
        assert await outbox.steps.load("task-003", "f") == {}
    assert told == []
