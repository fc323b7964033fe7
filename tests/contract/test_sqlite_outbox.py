"""What only an outbox on disk can promise: durability, privacy, one owner, and patience with a bad disk."""

import asyncio
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ai_task_processor.core.errors import DataDirectoryError, OutboxLocked, OutboxUnwritable
from ai_task_processor.models.task import Record, TaskStatus
from ai_task_processor.stores.sqlite import inspection
from ai_task_processor.stores.sqlite.operator_requests import SPREAD
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox
from ai_task_processor.stores.sqlite.schema import PAGE_BYTES
from tests.contract.helpers import failing
from tests.contract.outboxes import (
    NOW,
    ROOT,
    SteppingClock,
    execute,
    noise,
    overwrite,
    record,
    store,
    task_ids,
    waiting,
)
from tests.helpers import standing

CHILD = """
import asyncio, sys
from pathlib import Path
from tests.contract.outboxes import record, store

async def main():
    outbox = store(Path(sys.argv[1]))
    await outbox.open()
    await outbox.put(record())
    print("kept", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def unstorable(task_id: str) -> Record:
    """A caller's mistake: the table refuses a record without a fingerprint."""
    return replace(record(task_id), fingerprint=None)  # type: ignore[arg-type]  # the mistake


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[SqliteOutbox]:
    async with store(tmp_path) as opened:
        yield opened


def pause(outbox: SqliteOutbox) -> tuple[threading.Event, threading.Event]:
    """Queue a job that says when it is reached and waits to be released."""
    reached, release = threading.Event(), threading.Event()

    def wait(db: sqlite3.Connection) -> None:
        reached.set()
        release.wait(10)

    outbox._writer.submit(wait)
    return reached, release


@contextmanager
def held(outbox: SqliteOutbox) -> Iterator[None]:
    """Keep the writer thread busy, so that what is submitted inside forms one group."""
    busy, release = pause(outbox)
    outbox._writer._hand_over()
    assert busy.wait(10)
    try:
        yield
    finally:
        release.set()


@asynccontextmanager
async def full_disk(outbox: SqliteOutbox) -> AsyncIterator[None]:
    """SQLite's own limit: it can no longer grow and answers with a true SQLITE_FULL."""
    await outbox._writer.submit(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone())
    yield
    await outbox._writer.submit(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())


@asynccontextmanager
async def no_writing(outbox: SqliteOutbox) -> AsyncIterator[None]:
    """Every write fails with SQLITE_READONLY."""
    await outbox._writer.submit(lambda db: db.execute("PRAGMA query_only = 1"))
    yield
    await outbox._writer.submit(lambda db: db.execute("PRAGMA query_only = 0"))


@contextmanager
def child(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has put one record and holds the outbox open."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, directory], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "kept\n"
            yield process
        finally:
            process.kill()


# Durability


async def test_reopening_keeps_everything(tmp_path: Path) -> None:
    """Waiting records, dead letters and the very bits of a vector survive a restart."""
    bits = struct.pack("<5f", 0.1, -0.0, 1e-45, 3.4028235e38, float("nan"))
    async with store(tmp_path) as first:
        await first.put(record("a", vector=bits))
        await first.put(record("b"))
        await first.bury("b", "refused")
        before = first.depth()
        assert first.recovered == 0
    async with store(tmp_path) as second:
        assert second.recovered == 1
        assert second.depth() == before
        assert standing(second, "b", "f1") == "dead_letter"
        assert await second.due(NOW, 10) == [record("a", vector=bits)]


async def test_a_killed_process_loses_nothing_that_was_awaited(tmp_path: Path) -> None:
    """SIGKILL right after an awaited ``put``: the record is there and the lock is free."""
    with child(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    async with store(tmp_path) as outbox:
        assert outbox.recovered == 1
        assert standing(outbox, "a") == "in_outbox"


async def test_closing_writes_what_was_accepted(tmp_path: Path) -> None:
    """``aclose`` commits what nobody awaited, ends the thread and may be called twice."""
    outbox = store(tmp_path)
    await outbox.open()
    for number in range(100):
        outbox.put(record(str(number)))
    await outbox.aclose()
    await outbox.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name == "outbox-writer"]
    async with store(tmp_path) as again:
        assert again.recovered == 100


async def test_cancelling_a_put_keeps_the_record(outbox: SqliteOutbox, tmp_path: Path) -> None:
    """A caller cancelled while it waits for the disk has put its record all the same."""

    async def finish() -> None:
        await outbox.put(record())

    with held(outbox):
        task = asyncio.create_task(finish())
        await asyncio.sleep(0)
        task.cancel()
        await failing(asyncio.CancelledError, task)
        assert standing(outbox, "a") == "in_outbox"
    assert await outbox.due(NOW, 10) == [record()]
    assert outbox.depth().waiting == 1


async def test_a_put_after_closing_is_refused(tmp_path: Path) -> None:
    outbox = store(tmp_path)
    await outbox.open()
    await outbox.aclose()
    await failing(OutboxUnwritable, outbox.put(record()), "closed")
    assert standing(outbox, "a") is None


# Group commit


async def traced(outbox: SqliteOutbox) -> list[str]:
    """The statements that are executed from now on."""
    statements: list[str] = []
    await outbox._writer.submit(lambda db: db.set_trace_callback(statements.append))
    statements.clear()
    return statements


async def test_a_thousand_puts_share_a_few_commits(outbox: SqliteOutbox) -> None:
    statements = await traced(outbox)
    with held(outbox):
        pending = [outbox.put(record(str(number))) for number in range(1000)]
    for kept in pending:
        await kept
    assert sum(statement.count("'waiting'") for statement in statements if statement.startswith("INSERT")) == 1000
    assert statements.count("COMMIT") <= 4
    assert outbox.depth().waiting == 1000


async def test_what_follows_for_the_same_task_is_done_in_this_order(outbox: SqliteOutbox) -> None:
    """Nobody waited in between: erased and put again, it is there; put and erased, it is gone."""
    await outbox.put(record("again"))
    with held(outbox):
        calls = [outbox.delivered("again"), outbox.delivered("other")]
        pending = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        kept = [outbox.put(record("again")), outbox.put(record("gone")), outbox.put(record("stays"))]
        pending.append(asyncio.ensure_future(outbox.delivered("gone")))
        await asyncio.sleep(0)
    for one in (*pending, *kept):
        await one
    assert set(await waiting(outbox)) == {"again", "stays"}
    assert (standing(outbox, "again"), standing(outbox, "gone")) == ("in_outbox", None)


async def test_a_hundred_of_a_kind_are_written_and_erased_by_few_statements(outbox: SqliteOutbox) -> None:
    """Each row is there, whole, and then none, whatever characters its id has."""
    rows = [record(f"{number:03}\0'\u20ac", vector=bytes([number]) * 4) for number in range(101)]
    for kept in [outbox.put(row) for row in rows]:
        await kept
    assert list(await outbox.due(NOW + 1e6, 200)) == rows
    statements = await traced(outbox)
    with held(outbox):
        pending = [asyncio.ensure_future(outbox.delivered(row.task_id)) for row in rows]
        await asyncio.sleep(0)
    for one in pending:
        await one
    assert sum(statement.startswith("DELETE") for statement in statements) <= 3
    assert await outbox.due(NOW + 1e6, 200) == []


async def test_a_few_of_a_kind_are_one_statement(outbox: SqliteOutbox) -> None:
    """And that is their transaction: whole rows, on disk, without a BEGIN and a COMMIT around it."""
    rows = [record(str(number), vector=bytes([number]) * 4) for number in range(5)]
    statements = await traced(outbox)
    with held(outbox):
        pending = [outbox.put(row) for row in rows]
    for kept in pending:
        await kept
    assert execute(outbox._path, "SELECT count(*) FROM records") == (5,)
    with held(outbox):
        erased = [asyncio.ensure_future(outbox.delivered(row.task_id)) for row in rows]
        await asyncio.sleep(0)
    for one in erased:
        await one
    assert "BEGIN IMMEDIATE" not in statements
    assert [one.split()[0] for one in statements if one.startswith(("INSERT", "DELETE"))] == ["INSERT", "DELETE"]
    assert await outbox.due(NOW + 1e6, 10) == []


async def test_one_bad_record_does_not_fail_its_remotes(outbox: SqliteOutbox) -> None:
    """A record that cannot be stored fails alone; the group around it is committed."""
    with held(outbox):
        good, spoiled, other = outbox.put(record("a")), outbox.put(unstorable("bad")), outbox.put(record("b"))
    await good
    await other
    await failing(sqlite3.IntegrityError, spoiled)
    assert outbox.writable
    assert standing(outbox, "bad") is None
    assert [found.task_id for found in await outbox.due(NOW, 10)] == ["a", "b"]


# A bad disk


async def test_a_full_disk_refuses_and_recovers(outbox: SqliteOutbox) -> None:
    """SQLITE_FULL: every put of the group raises, nothing is held, and the next commit heals."""
    big = record("big", vector=bytes(100_000))
    async with full_disk(outbox):
        with held(outbox):
            refused = [outbox.put(big), outbox.put(record("small"))]
            reading = asyncio.create_task(outbox.due(NOW, 10))
            await asyncio.sleep(0)
        for put in refused:
            await failing(OutboxUnwritable, put, "full")
        assert (outbox.writable, standing(outbox, "big"), outbox.depth().bytes) == (False, None, 0)
        assert await reading == []
    await outbox.put(big)
    assert outbox.writable
    assert await outbox.due(NOW, 10) == [big]


async def test_a_refused_put_of_a_cancelled_caller_harms_nobody(outbox: SqliteOutbox) -> None:
    """Nobody waits for the first answer any more; the second is given all the same."""
    async with full_disk(outbox):
        with held(outbox):
            abandoned, awaited = outbox.put(record("a", vector=bytes(100_000))), outbox.put(record("b"))
            abandoned.cancel()
        async with asyncio.timeout(10):
            await failing(OutboxUnwritable, awaited)
    assert outbox.depth().waiting == 0


async def test_a_refused_put_leaves_the_dead_letter(outbox: SqliteOutbox) -> None:
    """When the replacement cannot be stored, what stood there stands."""
    await outbox.put(record())
    await outbox.bury("a", "refused")
    async with full_disk(outbox):
        await failing(OutboxUnwritable, outbox.put(record(vector=bytes(100_000))))
    assert standing(outbox, "a", "f1") == "dead_letter"
    assert (outbox.depth().waiting, outbox.depth().dead, outbox.depth().bytes) == (0, 1, record().size)


async def test_a_newer_put_survives_the_failure_of_an_older_one(outbox: SqliteOutbox) -> None:
    """Two puts of one task on their way: the failure of the first takes nothing from the second."""
    with held(outbox):
        spoiled, second = outbox.put(unstorable("a")), outbox.put(record("a"))
    await failing(sqlite3.IntegrityError, spoiled)
    assert standing(outbox, "a") == "in_outbox"
    await second
    assert outbox.depth().bytes == record().size


async def test_every_write_says_that_the_disk_refused(outbox: SqliteOutbox, tmp_path: Path) -> None:
    """Nothing changes, in memory or on disk, and the same calls succeed once the disk takes them."""
    await outbox.put(record("a"))
    await outbox.put(record("b"))
    inspection.leave_request(tmp_path, "drop", ["b"])
    writes = (
        lambda: outbox.defer("a", due_at=NOW + 60, attempts=1),
        lambda: outbox.bury("a", "refused"),
        lambda: outbox.delivered("a"),
        outbox.apply_requests,
    )
    async with no_writing(outbox):
        for write in writes:
            await failing(OutboxUnwritable, write())
        assert (outbox.writable, outbox.depth().waiting) == (False, 2)
        assert await outbox.due(NOW, 10) == [record("a"), record("b")]
    for write in writes:
        await write()
    assert outbox.writable
    assert outbox.depth().waiting == outbox.depth().dead == 0


# The data directory


async def test_directory_and_files_are_private(tmp_path: Path) -> None:
    """0700 and 0600 whatever the umask, the write-ahead log included, and for a directory found wider."""
    directory = tmp_path / "new" / "data"
    old_umask = os.umask(0)
    try:
        async with store(directory) as outbox:
            await outbox.put(record())
            modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
            directory.chmod(0o755)
    finally:
        os.umask(old_umask)
    assert modes == dict.fromkeys(["lock", "outbox.db", "outbox.db-wal", "outbox.db-shm"], 0o600)
    (directory / "outbox.db").chmod(0o644)
    async with store(directory):
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "outbox.db").stat().st_mode & 0o777 == 0o600


async def test_a_shared_directory_is_left_as_it_is(tmp_path: Path) -> None:
    """A sticky directory such as ``/tmp`` belongs to all: its mode is not ours to change."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    async with store(directory):
        assert directory.stat().st_mode & 0o7777 == 0o1777


async def test_a_second_open_in_this_process_is_refused(outbox: SqliteOutbox, tmp_path: Path) -> None:
    """The error names the directory and the owner's pid; the first stays as it was."""
    clock = SteppingClock()
    refused = await failing(OutboxLocked, store(tmp_path, lock_timeout_s=1.0, clock=clock).open())
    assert str(tmp_path) in str(refused)
    assert f"pid {os.getpid()}" in str(refused)
    assert clock.sleeps == 4
    await outbox.put(record())


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Another process holds the directory until it ends, and no longer."""
    with child(tmp_path) as process:
        assert inspection.daemon_running(tmp_path)
        await failing(OutboxLocked, store(tmp_path).open(), f"pid {process.pid}")
        process.communicate()
    assert not inspection.daemon_running(tmp_path)
    async with store(tmp_path) as outbox:
        assert outbox.recovered == 1


async def test_open_waits_for_the_lock(tmp_path: Path) -> None:
    """A daemon that starts while the old one drains takes over as soon as it has closed."""
    first = store(tmp_path)
    await first.open()

    class Draining(SteppingClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if self.elapsed >= 2:
                await first.aclose()

    clock = Draining()
    async with store(tmp_path, lock_timeout_s=60, clock=clock) as second:
        assert clock.elapsed == 2
        await second.put(record())


async def test_an_impossible_directory_is_one_clear_line(tmp_path: Path) -> None:
    """The error names DATA_DIR, the path and the remedy."""
    (tmp_path / "file").touch()
    outbox = store(tmp_path / "file" / "data")
    error = await failing(DataDirectoryError, outbox.open(), r"DATA_DIR .*/file/data cannot be used .*: make it")
    assert "\n" not in str(error)
    await outbox.aclose()


# Damage

RECORDS = 300


async def damaged(directory: Path, *, open_again: bool = True) -> Path:
    """An outbox with 300 waiting records of 6 kB, all in the database file; its path."""
    async with store(directory) as outbox:
        for number in range(RECORDS):
            kept = outbox.put(record(f"task-{number:03}", body=b'{"n":1}', vector=struct.pack("<f", number) * 1536))
        await kept
        await outbox.bury("task-000", "refused")
        await outbox.quarantine(record("poison", status=TaskStatus.PENDING, body=b"null"))
    database = directory / "outbox.db"
    execute(database, "PRAGMA wal_checkpoint(TRUNCATE)")
    return database


async def survivors(directory: Path, told: list[str]) -> dict[str, Record]:
    """Open what is there, see that it is sound and that every survivor has its own bits."""
    async with store(directory, lost=told.append) as outbox:
        with suppress(OutboxUnwritable):  # damage that is met only now
            await waiting(outbox)
        found = await waiting(outbox)
        await outbox.put(record("new"))
    for task_id, row in found.items():
        assert row.vector == struct.pack("<f", int(task_id[-3:])) * 1536
    sound = execute(directory / "outbox.db", "PRAGMA integrity_check") == ("ok",)
    # Damage on a page that is free is met when the page is used.
    assert sound or len(found) == RECORDS - 1
    return found


@pytest.mark.parametrize("page", [1, 2, 3, 4, 5, 7, 8, 20, 57, 100])
async def test_a_destroyed_page_takes_its_own_rows_only(tmp_path: Path, page: int) -> None:
    """Whichever page it is: what can be read is kept, what cannot is named, and the damaged file stays."""
    database, told = await damaged(tmp_path), list[str]()
    overwrite(database, (page - 1) * PAGE_BYTES, noise(PAGE_BYTES))
    found = await survivors(tmp_path, told)
    everything = task_ids(range(1, RECORDS))
    assert len(found) >= RECORDS - 1 - (2 if page > 7 else 0)  # one is a dead letter; two have room on a page
    named = set(told) - {"task-000", "poison"}
    assert found.keys().isdisjoint(named)
    assert found.keys() | named == everything
    files = sorted(path.name for path in tmp_path.iterdir())  # noqa: ASYNC240 - a handful of files
    aside = [tmp_path / name for name in files if ".damaged-" in name and not name.endswith("-wal")]
    assert len(aside) == 1 or len(found) == RECORDS - 1
    for path in aside:
        assert noise(PAGE_BYTES) in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    assert not [name for name in files if "copy" in name or "salvaged" in name]


async def test_what_has_no_name_any_more_is_counted(tmp_path: Path) -> None:
    """The page of two records is destroyed, and all that names tasks: another index still knows of them."""
    database, told = await damaged(tmp_path), list[str | None]()
    overwrite(database, 2 * PAGE_BYTES, noise(PAGE_BYTES))
    overwrite(database, 19 * PAGE_BYTES, noise(PAGE_BYTES))
    async with store(tmp_path, lost=told.append) as outbox:
        assert outbox.recovered == RECORDS - 1 - 2
    assert told == [None, None]


@pytest.mark.parametrize("of", ["table", "index"])
async def test_a_page_whose_last_write_was_lost_is_noticed(tmp_path: Path, of: str) -> None:
    """Each page is sound by itself, and SQLite has no objection: but table and index do not agree."""
    database, told = await damaged(tmp_path), list[str]()
    before = database.read_bytes()
    async with store(tmp_path) as outbox:
        await outbox.put(record("late", vector=bytes(4)))
    after = database.read_bytes()
    pages = [n for n in range(len(before) // PAGE_BYTES) if before[n * PAGE_BYTES] == (13 if of == "table" else 10)]
    (changed,) = (
        at
        for at in (n * PAGE_BYTES for n in pages)
        if before[at : at + PAGE_BYTES] != after[at : at + PAGE_BYTES] and b"late" in after[at : at + PAGE_BYTES]
    )
    overwrite(database, changed, before[changed : changed + PAGE_BYTES])
    async with store(tmp_path, lost=told.append) as outbox:
        found = set(await waiting(outbox))
    assert ("late" in found, told) == ((False, ["late"]) if of == "table" else (True, []))
    assert len(found) == RECORDS - 1 + (of == "index")


async def test_what_was_delivered_does_not_come_back_from_free_pages(tmp_path: Path) -> None:
    """With table and index broken every page is searched, but not those that are in use no more."""
    database, told = await damaged(tmp_path), list[str]()
    async with store(tmp_path) as outbox:
        # Some builds of SQLite overwrite what is deleted, others leave it.
        await outbox._writer.submit(lambda db: db.execute("PRAGMA secure_delete = OFF").fetchone())
        await asyncio.gather(*map(outbox.delivered, task_ids(range(100, 200))))
    overwrite(database, PAGE_BYTES, noise(2 * PAGE_BYTES))
    async with store(tmp_path, lost=told.append) as outbox:
        found = set(await waiting(outbox))
    assert found == task_ids(range(1, RECORDS)) - task_ids(range(100, 200))
    assert told == []


@pytest.mark.parametrize("kind", ["no database", "zeros", "cut", "empty"])
async def test_any_file_in_the_place_of_the_outbox_is_survived(tmp_path: Path, kind: str) -> None:
    """The daemon starts; what is not an outbox at all is set aside, of half a file half the records are kept."""
    database, told = await damaged(tmp_path), list[str]()
    size = database.stat().st_size
    contents = {"no database": b"not a database" * 1000, "zeros": bytes(size), "empty": b""}
    database.write_bytes(contents.get(kind, database.read_bytes()[: size // 2]))
    found = await survivors(tmp_path, told)
    assert len(found) > RECORDS // 4 if kind == "cut" else found == {}


async def test_what_stands_apart_is_salvaged_as_it_stood(tmp_path: Path) -> None:
    """Dead letters and quarantined tasks do not come back to life."""
    overwrite(await damaged(tmp_path), 0, noise(PAGE_BYTES))
    async with store(tmp_path) as outbox:
        assert standing(outbox, "task-000") == "dead_letter"
        assert standing(outbox, "poison") == "quarantined"
        assert outbox.recovered == RECORDS - 1


async def test_damage_under_a_running_daemon_is_mended_there(tmp_path: Path) -> None:
    """The operation that met it fails, the next one finds a sound file; nothing has to be restarted."""
    database, told = await damaged(tmp_path), list[str]()
    execute(database, "CREATE TABLE pages AS SELECT 1")  # a page more, so that the file changes size
    async with store(tmp_path, lost=told.append) as outbox:
        for page in range(60, 120):
            overwrite(database, page * PAGE_BYTES, noise(PAGE_BYTES))
        await failing(OutboxUnwritable, waiting(outbox), r"damaged|malformed")
        found = await waiting(outbox)
        await outbox.put(record("new"))
        assert outbox.writable
        assert outbox.depth().waiting == len(found) + 1
        assert 100 < len(found) < RECORDS
        assert found.keys() | set(told) >= task_ids(range(1, RECORDS))


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a later release is not touched, by the daemon or by a command."""
    async with store(tmp_path):
        pass
    execute(tmp_path / "outbox.db", "PRAGMA user_version = 99")
    await failing(DataDirectoryError, store(tmp_path).open(), "upgrade")
    with pytest.raises(DataDirectoryError, match="upgrade"):
        inspection.list_records(tmp_path)


# The operator's commands


async def test_a_command_cannot_write_into_the_middle_of_a_group(outbox: SqliteOutbox, tmp_path: Path) -> None:
    """A group that reads before it writes has the write lock from its start, or its commit would be refused."""
    with held(outbox):
        read = asyncio.create_task(outbox.due(NOW, 1))
        await asyncio.sleep(0)
        reading, release = pause(outbox)
        kept = outbox.put(record())
        outbox._writer._hand_over()
    assert reading.wait(10)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        execute(tmp_path / "outbox.db", "INSERT INTO requests (action, task_id) VALUES ('drop', 'x')")
    release.set()
    await kept
    assert await read == []


async def test_commands_read_beside_a_running_daemon(outbox: SqliteOutbox, tmp_path: Path) -> None:
    """Records are listed in the order of storing, page after page, and shown with their result."""
    for number in range(1201):
        outbox.put(record(str(number), vector=b"1234"))
    await outbox.bury("7", "refused (HTTP 400)", attempts=3)
    await outbox.defer("8", due_at=NOW + 60, attempts=2)
    listed = inspection.list_records(tmp_path)
    assert [summary.task_id for summary in listed] == [str(number) for number in range(1201)]
    assert [(summary.task_id, summary.reason) for summary in listed if summary.state == "dead"] == [
        ("7", "refused (HTTP 400)")
    ]
    assert listed[0] == inspection.Summary(
        task_id="0",
        task_type="text_embedding",
        status=TaskStatus.SUCCEEDED,
        state="waiting",
        finished_at=NOW,
        due_at=NOW,  # since it was finished
        attempts=0,
        reason=None,
        bytes=record("0", vector=b"1234").size,
        source="aletheia",
    )
    assert [(summary.due_at, summary.attempts) for summary in listed[7:9]] == [(None, 3), (NOW + 60, 2)]
    assert inspection.load_records(tmp_path, "0") == [(listed[0], record("0", vector=b"1234"))]
    assert inspection.load_records(tmp_path, "unknown") == []


async def test_an_open_list_does_not_hold_the_log(outbox: SqliteOutbox, tmp_path: Path) -> None:
    """Somebody who stops in the middle of a list keeps no read transaction open."""
    for number in range(600):
        outbox.put(record(str(number)))
    await outbox.due(NOW, 1)
    records = inspection.iter_records(tmp_path)
    next(records)
    await outbox.put(record("late"))
    busy, _, _ = execute(tmp_path / "outbox.db", "PRAGMA wal_checkpoint(TRUNCATE)")
    assert busy == 0
    assert [summary.task_id for summary in records][-1] == "late"


async def test_requests_wait_for_a_daemon(tmp_path: Path) -> None:
    """A request left while no daemon runs is carried out by the next one."""
    async with store(tmp_path) as first:
        await first.put(record())
    assert not inspection.daemon_running(tmp_path)
    inspection.leave_request(tmp_path, "drop", ["a"])
    assert inspection.pending_requests(tmp_path) == 1
    async with store(tmp_path) as second:
        assert inspection.daemon_running(tmp_path)
        assert await second.apply_requests() == {"a": "drop"}
        assert inspection.pending_requests(tmp_path) == 0
    assert inspection.list_records(tmp_path) == []


async def test_many_retries_become_due_one_after_the_other(tmp_path: Path) -> None:
    """At their rate, counted from the next start of a daemon; those far ahead stay requests, or they would count as
    stranded. A waiting record is not put off.
    """
    ids = [f"task-{number}" for number in range(10)]
    async with store(tmp_path) as first:
        await asyncio.gather(*(first.put(record(task_id)) for task_id in ids))
        for task_id in ids[:-1]:
            await first.bury(task_id, "refused", attempts=5)
    inspection.leave_request(tmp_path, "retry", ids, from_s=NOW - 5_000.0, every_s=100.0)
    async with store(tmp_path) as second:
        assert (await second.apply_requests()).keys() == {*ids}
        due = {found.task_id: found for found in await second.due(NOW + 899.0, 20)}
    assert [due[task_id].due_at for task_id in ids[:-1]] == [NOW + 100.0 * place for place in range(9)]
    assert {(due[task_id].reason, due[task_id].attempts) for task_id in ids[:-1]} == {(SPREAD, 0)}
    assert due[ids[-1]].due_at == 0.0
    inspection.leave_request(tmp_path, "retry", ids, from_s=NOW, every_s=200.0)
    async with store(tmp_path) as third:
        assert (await third.apply_requests()).keys() == {*ids[:5]}
        assert await third.apply_requests() == {}
    assert inspection.pending_requests(tmp_path) == 5


async def test_requests_of_a_release_before_have_no_due_time(tmp_path: Path) -> None:
    """An outbox that such a release wrote is used as it is, by commands and by the next daemon."""
    async with store(tmp_path) as first:
        await asyncio.gather(*(first.put(record(task_id)) for task_id in "ab"))
        await first.bury("a", "refused")
        await first.bury("b", "refused")
    path = tmp_path / "outbox.db"
    execute(path, "ALTER TABLE requests DROP COLUMN due_at")
    execute(path, "INSERT INTO requests (action, task_id) VALUES ('drop', 'a')")
    inspection.leave_request(tmp_path, "retry", ["b"], from_s=NOW, every_s=1.0)
    async with store(tmp_path) as second:
        assert await second.apply_requests() == {"a": "drop", "b": "retry"}
    execute(path, "ALTER TABLE requests DROP COLUMN due_at")
    async with store(tmp_path) as third:
        assert await third.apply_requests() == {}


def test_commands_without_an_outbox_say_so(tmp_path: Path) -> None:
    """A wrong path is named, and nothing is created by looking."""
    missing = tmp_path / "missing"
    for look in (inspection.list_records, inspection.pending_requests):
        with pytest.raises(DataDirectoryError, match=r"DATA_DIR .*missing shows no outbox"):
            look(missing)
    with pytest.raises(DataDirectoryError, match="shows no outbox"):
        inspection.leave_request(missing, "drop", ["a"])
    assert not inspection.daemon_running(missing)
    assert not missing.exists()


async def test_asking_for_the_daemon_does_not_disturb_it(outbox: SqliteOutbox, tmp_path: Path) -> None:
    """``daemon_running`` takes no lock away and leaves none behind."""
    assert inspection.daemon_running(tmp_path)
    assert inspection.daemon_running(tmp_path)
    await outbox.aclose()
    assert not inspection.daemon_running(tmp_path)
    async with store(tmp_path):
        pass
