"""An outbox that the release before wrote: nothing of it is lost, whatever happens while it is brought up to date."""

import gzip
import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.errors import DataDirectoryError, OutboxLocked
from ai_task_processor.models.task import Receipt, TaskStatus
from ai_task_processor.stores.sqlite import inspection, migration, schema
from tests.contract.helpers import failing
from tests.contract.outboxes import full_disk, overwrite, record, store, waiting

#: written by the release of 28 November 2026, schema 1: tasks 0 to 4 wait, 5 to 7 are dead letters, 8 is quarantined,
#: and an operator has asked for a retry of 7
FIRST = Path(__file__).parent / "files" / "outbox-schema-1.db.gz"
LATE = 3e9


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "outbox.db").write_bytes(gzip.decompress(FIRST.read_bytes()))
    return tmp_path


async def test_everything_is_there_afterwards(directory: Path) -> None:
    """Results bit by bit, deferrals, dead letters with their reasons, the quarantined task and the request."""
    with capture_logs() as logs:
        async with store(directory) as outbox:
            due = await waiting(outbox)
            held = await outbox.held([f"task-{n}" for n in range(9)])
            assert await outbox.apply_requests() == {"task-7": "retry"}
    assert [line["records"] for line in logs if line["event"] == "outbox.migrated"] == [9]
    assert sorted(due) == [f"task-{n}" for n in range(5)]
    for n in range(4):
        assert due[f"task-{n}"].vector == struct.pack("<3f", n, 0.5, 0.25)
        assert due[f"task-{n}"].receipt == Receipt("aletheia", f"task-{n}")
    assert (due["task-3"].attempts, due["task-3"].due_at) == (2, 1.7e9 + 5)
    assert (due["task-4"].status, due["task-4"].body[:20]) == (TaskStatus.FAILED, b'{"code":"empty_text"')
    standings = [held[f"task-{n}"].standing for n in range(9)]
    assert standings == ["in_outbox"] * 5 + ["dead_letter"] * 3 + ["quarantined"]
    assert held["task-6"].fingerprint == "f6"
    listed = {summary.task_id: summary for summary in inspection.iter_records(directory)}
    assert (listed["task-5"].reason, listed["task-5"].attempts) == ("refused (HTTP 400)", 5)
    assert not list(directory.glob("*.migrating*"))  # noqa: ASYNC240
    assert (directory / "outbox.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("version", [0, -1, 2])
async def test_a_copy_without_its_version_is_migrated(directory: Path, version: int) -> None:
    """The columns decide: ``.dump`` and other tools do not copy ``user_version``."""
    with closing(sqlite3.connect(directory / "outbox.db")) as db:
        db.execute(f"PRAGMA user_version = {version}")
    assert len(list(inspection.iter_records(directory))) == 9
    async with store(directory) as outbox:
        assert len(await waiting(outbox)) == 5
    with closing(sqlite3.connect(directory / "outbox.db")) as db:
        assert schema.version(db) == db.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION


@pytest.mark.parametrize("version", [0, -1, 1])
async def test_a_present_file_without_its_version_is_used(tmp_path: Path, version: int) -> None:
    async with store(tmp_path) as outbox:
        await outbox.put(record())
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as db:
        db.execute(f"PRAGMA user_version = {version}")
    async with store(tmp_path) as outbox:
        assert len(await waiting(outbox)) == 1


async def test_the_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as db:
        db.execute("CREATE TABLE records (name)")
    await failing(DataDirectoryError, store(tmp_path).open(), "move the file away")


async def test_commands_read_it_before_it_is_migrated(directory: Path) -> None:
    """An operator may look before the daemon has started."""
    listed = list(inspection.iter_records(directory))
    assert {summary.source for summary in listed} == {"aletheia"}
    ((summary, record),) = inspection.load_records(directory, "task-1")
    assert (summary.task_id, record.vector) == ("task-1", struct.pack("<3f", 1, 0.5, 0.25))


@pytest.mark.parametrize("died", ["created", "copied"])
async def test_a_kill_on_the_way_costs_nothing(directory: Path, died: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stands until the new one is whole; what was left of the attempt is in nobody's way."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(migration, "remove", lambda _: None)  # whoever is killed tidies nothing up
        place: tuple[object, str] = (schema, "copy_first") if died == "created" else (Path, "replace")
        patched.setattr(*place, die)
        with closing(sqlite3.connect(directory / "outbox.db", isolation_level=None)) as old, pytest.raises(Killed):
            migration.migrate(old, directory / "outbox.db")
    assert (directory / "outbox.db.migrating").exists()
    async with store(directory) as outbox:
        assert outbox.depth().waiting == 5
    assert not (directory / "outbox.db.migrating").exists()


async def test_a_disk_without_room_leaves_it_as_it_was(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and the next start tries again."""

    with monkeypatch.context() as patched:
        patched.setattr(schema, "copy_first", full_disk)
        await failing(DataDirectoryError, store(directory).open(), "make room on that disk")
    async with store(directory) as outbox:
        assert outbox.depth().waiting == 5


async def test_a_reader_keeps_it_from_being_migrated_and_loses_nothing(directory: Path) -> None:
    """A log that somebody reads would outlive its database."""
    async with store(directory):
        pass  # schema 2 by now: back to the first one, in WAL mode
    (directory / "outbox.db").write_bytes(gzip.decompress(FIRST.read_bytes()))
    with closing(sqlite3.connect(directory / "outbox.db", isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode = WAL")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        outbox = store(directory)
        await failing(OutboxLocked, outbox.open(), "another process")
        reader.execute("COMMIT")
    async with store(directory) as outbox:
        assert outbox.depth().waiting == 5


async def test_a_damaged_one_is_salvaged_into_the_new_schema(directory: Path) -> None:
    """A page of noise takes its own records; the rest is delivered."""
    overwrite(directory / "outbox.db", 2 * 16_384, os.urandom(16_384))  # the index of task ids
    async with store(directory) as outbox:
        assert (await waiting(outbox)).keys() == {f"task-{n}" for n in range(5)}
        assert outbox.depth().dead == 3
    assert list(directory.glob("outbox.db.damaged-*"))  # noqa: ASYNC240


async def test_another_source_keeps_them_and_delivers_none(directory: Path) -> None:
    """They are counted and named; a task of the same id is another task."""
    async with store(directory, "other") as outbox:
        depth = outbox.depth()
        assert (depth.waiting, depth.foreign) == (0, {"aletheia": 9})
        assert await outbox.due(LATE, 100) == []
        assert await outbox.held(["task-0"]) == {}
    async with store(directory) as outbox:
        assert outbox.depth().waiting == 5
