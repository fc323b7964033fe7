"""A write-ahead log that is damaged, cut, gone, or without its database: what is readable is kept, the rest is named.

The outbox is that of a real process, killed with records in the database, more in the log, and some delivered.
"""

import asyncio
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.models.task import Record
from ai_task_processor.stores.sqlite import inspection, records, salvage, schema, wal
from tests.contract.helpers import failing
from tests.contract.outboxes import ROOT, execute, full_disk, noise, numbered, overwrite, store, task_ids, waiting

PAGE = schema.PAGE_BYTES
HEAD, FRAME = 32, 24 + PAGE
DATABASE, LOG, INDEX = "outbox.db", "outbox.db-wal", "outbox.db-shm"
IN_DATABASE, IN_LOG = 60, 30
DELIVERED = task_ids((0, 6, 12, 18, 60, 66))
WAITING = task_ids(range(IN_DATABASE + IN_LOG)) - DELIVERED


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.contract.outboxes import numbered, store

async def put(outbox, numbers):
    await asyncio.gather(*(outbox.put(numbered(number)) for number in numbers))

async def main():
    directory, first, in_database, in_log = Path(sys.argv[1]), *map(int, sys.argv[2:])
    async with store(directory) as outbox:
        await put(outbox, range(first, first + in_database))
    outbox = store(directory)
    await outbox.open()
    for number in range(first + in_database, first + in_database + in_log, 3):
        await put(outbox, range(number, number + 3))
        if number < first + in_database + 12:
            await outbox.delivered(f"task-{(number - in_database) * 2:03}")
        if number in (first + in_database + 15, first + in_database + 18):
            await outbox.delivered(f"task-{60 + (number - in_database - 15) * 2:03}")
    print("kept", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def killed_outbox(directory: Path, first: int = 0, in_database: int = IN_DATABASE, in_log: int = IN_LOG) -> Path:
    command = [sys.executable, "-c", CHILD, str(directory), str(first), str(in_database), str(in_log)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"kept\n"
        process.kill()
    return directory


@pytest.fixture(autouse=True, scope="module")
def _remembered_sums() -> Iterator[None]:
    """Most frames are the same in all tests: the checksum of each is computed once, which is most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal, "_sum", lru_cache(2_000)(wal._sum))
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killed_outbox(tmp_path_factory.mktemp("outbox"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outbox of another daemon: ids from 500, most of them in its database."""
    return killed_outbox(tmp_path_factory.mktemp("other"), 500, 30, 15)


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(params=[True, False], ids=["killed", "copied"])
def index(data: Path, request: pytest.FixtureRequest) -> bool:
    """Is the ``-shm`` there? Whoever copies an outbox takes the database and its log."""
    if not request.param:
        (data / INDEX).unlink()
    return bool(request.param)


def cut(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size - size)


async def opened(directory: Path) -> tuple[dict[str, Record], list[str | None], Sequence[Mapping[str, Any]]]:
    """What waits there, whose results were told to be lost, and what was logged."""
    lost = list[str | None]()
    with capture_logs() as lines:
        async with store(directory, lost=lost.append) as outbox:
            found = await waiting(outbox)
            assert outbox.depth().waiting == len(found)
    for task_id, record in found.items():
        assert record.vector == struct.pack("<f", int(task_id[-3:])) * 1536
    return found, lost, lines


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("outbox.db*")}


async def salvaged(data: Path) -> tuple[set[str], set[str], Mapping[str, Any]]:
    """The tasks that are kept, those that are named, and the line, after everything that always holds was checked."""
    before = files(data)
    with pytest.raises(DataDirectoryError, match=r"outbox\.db cannot be used \(.*\): the file is damaged: the daemon"):
        inspection.list_records(data)
    if salvage.fault(data / DATABASE):  # what SQLite itself would not meet
        with pytest.raises(DataDirectoryError, match="the file is damaged"):
            inspection.leave_request(data, "retry", ())
    found, lost, lines = await opened(data)
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("outbox.salvaged", "error")
    assert (line["kept"], line["lost"]) == (len(found), len(set(lost) - {None}))
    assert lost.count(None) == line["unnamed"]
    after = files(data)
    aside = Path(line["aside"]).name
    assert {name for name in after if "salvag" in name} == set()
    for suffix in ("", "-wal"):  # the damaged files, as they were
        assert after.get(aside + suffix, b"") == before.get(DATABASE + suffix, b"")
    again, lost_again, lines = await opened(data)
    assert (again, lost_again, lines) == (found, [], [])
    assert {summary.task_id for summary in inspection.list_records(data)} == found.keys()
    assert found.keys().isdisjoint(lost)
    return set(found), {task_id for task_id in lost if task_id}, line


async def test_a_sound_log_is_nobodys_business(data: Path) -> None:
    """After a kill, with or without the ``-shm``, all is as it was, and nothing is logged."""
    for unlinked in ([], [INDEX]):
        for name in unlinked:
            (data / name).unlink()
        assert salvage.fault(data / DATABASE) == ""
    found, lost, lines = await opened(data)
    assert (set(found), lost, lines) == (WAITING, [], [])


#: where the log is overwritten, by what, and the reason that is logged
HARMLESS = [
    *((byte, noise(4), "head") for byte in range(0, HEAD, 4)),
    (0, bytes(HEAD), "head"),
    (0, noise(HEAD + 3 * FRAME), "head"),
    (HEAD + FRAME + 100, noise(50), "damaged"),  # a page that was written again later
    (HEAD + 9 * FRAME, noise(4), "damaged"),  # the number of a page
    (HEAD + 9 * FRAME + 8, noise(8), "damaged"),  # the salts of a frame
    (-FRAME + 16, noise(8), "end"),  # the sums of the last frame
]


@pytest.mark.parametrize(("offset", "text", "reason"), HARMLESS, ids=lambda value: str(value)[:20])
async def test_damage_that_spoils_no_record_costs_none(
    data: Path, offset: int, text: bytes, reason: str, index: bool
) -> None:
    """SQLite would drop the rest of the log without a word: here everything is kept, and what was delivered is gone."""
    overwrite(data / LOG, offset, text)
    kept, lost, line = await salvaged(data)
    assert reason in line["reason"]
    assert (kept - DELIVERED, lost) == (WAITING, set())
    assert len(kept & DELIVERED) <= (reason == "end")  # what the last transaction erased


async def test_the_head_of_another_log_is_noticed(data: Path, other: Path) -> None:
    """It is sound by itself, and SQLite would see an empty log."""
    overwrite(data / LOG, 0, (other / LOG).read_bytes()[:HEAD])
    assert (await salvaged(data))[:2] == (WAITING, set())


def frames_of(data: Path) -> int:
    return ((data / LOG).stat().st_size - HEAD) // FRAME


@pytest.mark.parametrize("share", [0.0, 0.13, 0.31, 0.48, 0.66, 0.87, 1.0])
async def test_a_destroyed_frame_takes_its_own_records_only(data: Path, share: float, index: bool) -> None:
    """Whichever frame it is, the last one too: all others are kept, and what is gone is named."""
    last = frames_of(data) - 1
    overwrite(data / LOG, HEAD + round(last * share) * FRAME + 24 + 4096, noise(PAGE - 4096))
    kept, lost, line = await salvaged(data)
    assert kept | lost == WAITING
    assert len(lost) <= 2  # that is how many have room on a page
    assert line["unreadable_bytes"] in (0, PAGE)


@pytest.mark.parametrize("size", [100, PAGE - 9, PAGE, FRAME - 20, FRAME, FRAME + 5, 3 * FRAME + 77])
async def test_a_log_that_was_cut_is_noticed(data: Path, size: int, index: bool) -> None:
    """What stands before the cut is kept, what the index of task ids still knows is named, and the bytes are told."""
    cut(data / LOG, size)
    if not index and size == FRAME:  # nothing is left of it, and nobody knows
        return
    kept, lost, line = await salvaged(data)
    assert len(WAITING - kept - lost) <= 3
    assert "end of the log" in line["reason"]
    if index:
        assert line["unreadable_bytes"] >= size // FRAME * PAGE


async def test_half_a_log_keeps_half_of_its_records(data: Path) -> None:
    """The ``-shm`` says how much is gone, although nobody can say whose it was; nothing is told that was not there."""
    frames = frames_of(data)
    cut(data / LOG, frames // 2 * FRAME)
    kept, lost, line = await salvaged(data)
    assert IN_DATABASE < len(kept) < len(WAITING)
    assert lost <= WAITING
    assert line["unreadable_bytes"] == frames // 2 * PAGE


@pytest.mark.parametrize("size", [None, 0, 100, PAGE])
async def test_a_database_that_is_gone_beside_its_log(data: Path, size: int | None, index: bool) -> None:
    """What the log holds is kept, and the index of task ids in it names the rest. SQLite would delete the log."""
    if size is None:
        (data / DATABASE).unlink()
    else:
        os.truncate(data / DATABASE, size)
    kept, lost, line = await salvaged(data)
    assert kept | lost == WAITING
    assert len(kept) >= IN_LOG - 2
    if not size:
        assert line["reason"] == f"the database is {'empty' if size == 0 else 'gone, its log is not'}"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
async def test_a_database_that_was_cut_beside_its_log(data: Path, share: float) -> None:
    """The log holds some pages behind the cut; the records on the others are named."""
    os.truncate(data / DATABASE, int((data / DATABASE).stat().st_size * share))
    kept, lost, _ = await salvaged(data)
    assert kept | lost == WAITING
    assert len(kept) >= IN_LOG + IN_DATABASE * share - 15


@pytest.mark.parametrize("damage", [
    lambda data: (data / LOG).unlink(),
    lambda data: os.truncate(data / LOG, 0),
    lambda data: os.truncate(data / LOG, HEAD),
    lambda data: overwrite(data / LOG, 0, bytes((data / LOG).stat().st_size)),
], ids=["unlinked", "empty", "head only", "zeros"])  # fmt: skip
async def test_a_log_that_is_gone_is_told_in_bytes(data: Path, damage: Callable[[Path], object]) -> None:
    """Only the ``-shm`` knows of it: the database is kept as the last checkpoint left it."""
    frames = frames_of(data)
    damage(data)
    kept, lost, line = await salvaged(data)
    assert kept == task_ids(range(IN_DATABASE))
    assert lost == set()
    assert line["unreadable_bytes"] == frames * PAGE


@pytest.mark.parametrize("which", [(LOG,), (LOG, INDEX), (DATABASE,)], ids="-".join)
async def test_two_outboxes_that_were_mixed_are_told_apart(data: Path, other: Path, which: tuple[str, ...]) -> None:
    """A log beside another database, with or without its ``-shm``: both are read, neither through the other."""
    for name in which:
        shutil.copy(other / name, data / name)
    kept, lost, _ = await salvaged(data)
    ours = task_ids(range(IN_DATABASE))
    theirs = task_ids(range(500, 530))
    if which == (DATABASE,):
        assert kept | lost >= WAITING | theirs
    else:
        assert kept >= ours | task_ids(range(530, 545))
        assert lost <= theirs


async def checkpointed(directory: Path, *more: int) -> Path:
    """A copy of an outbox whose log was copied into the database before these were put; 40 records before."""
    async with store(directory / "open") as outbox:
        for number in range(0, 40, 4):
            await asyncio.gather(*(outbox.put(numbered(number + k)) for k in range(4)))
        _, frames, copied = execute(directory / "open" / DATABASE, "PRAGMA wal_checkpoint")
        assert frames == copied
        for number in more:
            await outbox.put(numbered(number))
        shutil.copytree(directory / "open", directory / "copy")
    return directory / "copy"


@pytest.mark.parametrize("frame", [2, -8, -1])
async def test_what_a_checkpoint_has_copied_is_not_needed_from_the_log(tmp_path: Path, frame: int) -> None:
    """The database holds the last image of each page; an older one in the log does not hide it."""
    data = await checkpointed(tmp_path)
    overwrite(data / LOG, HEAD + frame % frames_of(data) * FRAME + 100, noise(PAGE - 100))
    kept, lost, line = await salvaged(data)
    assert (kept, lost) == (task_ids(range(40)), set())
    assert line["unreadable_bytes"] == 0


async def test_without_its_database_a_log_gives_what_earlier_generations_left(tmp_path: Path) -> None:
    """A log begins anew at its start after a checkpoint; behind its end stands what it held before."""
    data = await checkpointed(tmp_path, 90)
    (data / DATABASE).unlink()
    kept, lost, _ = await salvaged(data)
    assert kept | lost == task_ids((*range(40), 90))
    assert len(kept) > 20


async def test_a_whole_log_of_another_outbox_does_not_hide_ours(tmp_path: Path) -> None:
    """It holds every page of its database, so that SQLite would show the other outbox and nothing else."""
    data = await checkpointed(tmp_path, 90)
    async with store(tmp_path / "theirs") as outbox:
        await asyncio.gather(*(outbox.put(numbered(number)) for number in range(100, 160)))
        shutil.copy(tmp_path / "theirs" / LOG, data / LOG)
    kept, lost, line = await salvaged(data)
    assert (kept, lost) == (task_ids((*range(40), *range(100, 160))), set())
    assert line["reason"] == "the log belongs to another database"
    assert line["unreadable_bytes"] > 0  # ours


async def test_damage_in_the_log_under_a_running_daemon(tmp_path: Path) -> None:
    """SQLite does not verify what it reads from its log, and would copy it over what is sound in the database."""
    told = list[str | None]()
    async with store(tmp_path, lost=told.append) as outbox:
        for number in range(300):  # more than fits into the cache
            kept = outbox.put(numbered(number))
            if number % 30 == 0:
                await kept
        await kept
        frames = frames_of(tmp_path)
        overwrite(tmp_path / LOG, HEAD + 60 * FRAME, noise(20 * FRAME))
        await failing(OutboxUnwritable, waiting(outbox), r"damaged|malformed")
        found = set(await waiting(outbox))
        assert outbox.writable
        assert frames > 100
        assert len(found) >= 300 - 2 * 20
        assert found | set(told) == task_ids(range(300))
        (aside,) = (text for name, text in files(tmp_path).items() if "damaged" in name and name.endswith("-wal"))
        assert noise(20 * FRAME) in aside


@pytest.mark.parametrize("step", ["rename", "link", "replace"])
async def test_a_kill_while_the_files_are_swapped_loses_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Wherever it ends, the next start goes on from there, and the log never meets the new database."""
    overwrite(data / LOG, 0, bytes(HEAD))

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    rebuilt = salvage.rebuild(data / DATABASE, datetime.now(UTC))
    with monkeypatch.context() as patched:
        patched.setattr(os if step == "link" else Path, step, kill)
        with pytest.raises(Killed):
            salvage.replace(data / DATABASE, rebuilt.aside)
    found, lost, (line,) = await opened(data)
    assert (set(found), lost) == (WAITING, [])
    assert (line["reason"], line["kept"]) == ("an earlier salvage was interrupted", len(WAITING))
    assert (await opened(data))[2] == []


async def test_a_full_disk_leaves_the_damaged_files_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the new file: one line with the remedy, and the next start with room salvages all."""
    overwrite(data / LOG, 0, bytes(HEAD))
    before = files(data)
    with monkeypatch.context() as patched:
        patched.setattr(records, "put", full_disk)
        await failing(DataDirectoryError, opened(data), r"is full.*make room on that disk")
    assert {name: text for name, text in files(data).items() if name in before} == before
    assert (await salvaged(data))[0] == WAITING


async def test_a_newer_schema_is_not_salvaged(data: Path) -> None:
    """What a later release wrote is for that release to mend."""
    with closing(sqlite3.connect(data / DATABASE)) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("PRAGMA wal_checkpoint")
        left = files(data)
    for name, text in left.items():
        (data / name).write_bytes(text)
    overwrite(data / LOG, 0, bytes(HEAD))
    before = files(data)
    await failing(DataDirectoryError, opened(data), "upgrade")
    assert {name: text for name, text in files(data).items() if name in before} == before
