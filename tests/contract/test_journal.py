"""The promises of ``ports.Journal``, and what a death of the process leaves of it."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ai_task_processor.core.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.core.ports import Journal
from ai_task_processor.models.task import Task, Tries
from ai_task_processor.stores.sqlite import journal as journal_module
from ai_task_processor.stores.sqlite.journal import FileJournal
from ai_task_processor.testing.memory import MemoryJournal
from tests.helpers import at_once

Open = Callable[[], FileJournal]


@pytest.fixture
def start(tmp_path: Path) -> Open:
    """Opens the journal as a new process does; the earlier one has died where it stood."""

    def start() -> FileJournal:
        journal = FileJournal(tmp_path, "aletheia")
        journal.open()
        return journal

    return start


def task(task_id: str = "a", content: object = None) -> Task:
    return Task(id=task_id, type="text_embedding", content=content)


def begin(journal: Journal, *task_ids: str) -> Tries:
    """The tries of the last one."""
    return [at_once(journal.begin([task(task_id)]))[0] for task_id in task_ids][-1]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_attempts_are_counted_until_the_task_is_settled(kind: str, start: Open) -> None:
    """What was given back counts on, what was settled begins anew."""
    journal = start() if kind == "file" else MemoryJournal(monotonic=time.monotonic)
    assert begin(journal, "a").started == 1
    at_once(journal.give_back("a"))
    assert begin(journal, "a").started == 2
    at_once(journal.settle("a"))
    assert begin(journal, "a").started == 1
    assert not journal.in_flight_at_crash


def test_what_ended_is_written_soon_and_in_order(tmp_path: Path) -> None:
    """Ends wait for the next turn, or go with what begins before it: one write, and nobody is suspect for it."""
    soon: list[Callable[[], object]] = []
    journal = FileJournal(tmp_path, "aletheia", soon.append)
    journal.open()
    begin(journal, "a", "b", "c")
    file = tmp_path / "journal"
    before = file.read_bytes()
    at_once(journal.settle("a"))
    at_once(journal.settle("b"))
    assert file.read_bytes() == before
    assert len(soon) == 1
    begin(journal, "a")
    lines = file.read_bytes()[len(before) :].split(b"\n")[1:]
    assert lines[:2] == [b'{"id":"a","source":"aletheia"}', b'{"id":"b","source":"aletheia"}']
    assert len(lines) == 3
    at_once(journal.settle("c"))
    for write in soon:
        write()
    assert file.read_bytes().endswith(b'{"id":"c","source":"aletheia"}')

    later = FileJournal(tmp_path, "aletheia")
    later.open()
    assert later.in_flight_at_crash.keys() == {"a"}


def test_a_journal_of_the_version_before_is_read(start: Open, tmp_path: Path) -> None:
    """Without times and deaths: the same tasks, attempts and deaths."""
    (tmp_path / "journal").write_bytes(
        b"""
{"id":"waits","type":"t","fingerprint":"f","state":"suspect","tries":[2,0,0,2,0]}
{"id":"ran","type":"t","fingerprint":"f","state":"running","tries":[2,0,0,1,0]}
{"id":"ran alone","type":"t","fingerprint":"f","state":"alone","tries":[3,0,0,2,0]}
{"id":"marked","type":"t","fingerprint":"f","state":"idle","marked":true,"tries":[1,1,0,0,0]}
{"id":"later version","type":"t","fingerprint":"f","state":"dreaming","tries":[1,0,0,0,0]}"""
    )
    journal = start()
    assert {
        name: (one.tries.kills, one.tries.kills_isolated, one.ran_s) for name, one in journal.in_flight_at_crash.items()
    } == {"waits": (2, 0, 0.0), "ran": (2, 0, 0.0), "ran alone": (3, 1, 0.0)}
    assert journal.marked == {"marked"}


def test_how_long_a_task_was_seen_running_at_a_death_is_kept(tmp_path: Path) -> None:
    """Up to the last beginning in the same life, settled or not; the longest of several."""
    now = 1_000.0

    def start() -> FileJournal:
        journal = FileJournal(tmp_path, "aletheia", monotonic=lambda: now)
        journal.open()
        return journal

    journal = start()
    begin(journal, "long")
    now += 40.0
    begin(journal, "later")
    now += 2.0
    begin(journal, "settled")
    at_once(journal.settle("settled"))
    now += 100.0
    assert {name: one.ran_s for name, one in start().in_flight_at_crash.items()} == {"long": 42.0, "later": 2.0}
    now = 5.0  # the machine was started again
    journal = start()
    begin(journal, "long")
    now += 7.0
    begin(journal, "later")
    assert {name: one.ran_s for name, one in start().in_flight_at_crash.items()} == {"long": 42.0, "later": 2.0}


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_deaths_in_flight_are_counted_until_they_are_forgotten(kind: str, start: Open) -> None:
    """Neither a clean end, nor an idle one, nor one in which a task ran isolated is one."""
    lines: list[bytes] = []

    def again() -> FileJournal:
        nonlocal lines
        if kind == "file":
            return start()
        journal = MemoryJournal(lines, monotonic=time.monotonic)
        lines = journal.lines
        return journal

    begin(again(), "a")
    journal = again()
    assert journal.crashes == 1
    begin(journal, "a")  # it runs isolated
    journal = again()
    assert journal.crashes == 1
    begin(journal, "b")
    at_once(journal.settle("b"))
    journal = again()
    begin(journal, "b")
    journal.stopping()
    journal = again()
    assert journal.crashes == 1
    begin(journal, "b")
    journal = again()
    assert journal.crashes == 2
    journal.forget_crashes()
    assert again().crashes == 0


def test_who_was_under_way_at_a_death_is_suspect(start: Open) -> None:
    """Neither what was settled nor what was given back; attempts and crashes are counted on."""
    first = start()
    for task_id in ("running", "settled", "given back", "crashed"):
        at_once(first.begin([task(task_id, "text")]))[0].crashed += task_id == "crashed"
    at_once(first.settle("settled"))
    at_once(first.give_back("given back"))
    at_once(first.give_back("crashed"))
    begin(first, "crashed")

    second = start()
    assert second.in_flight_at_crash.keys() == {"running", "crashed"}
    assert second.in_flight_at_crash["running"].tries == Tries(started=1, kills=1)
    assert second.in_flight_at_crash["crashed"].tries == Tries(started=2, crashed=1, kills=1)
    assert begin(second, "given back").started == 2
    assert begin(second, "settled").started == 1


def test_a_suspect_runs_alone_and_a_death_then_counts_double(start: Open) -> None:
    """Only what began as a suspect counts as alone; every death is counted once, however often it is read."""
    begin(start(), "a")
    for kills_isolated in range(3):
        assert start().in_flight_at_crash["a"].tries.kills_isolated == kills_isolated
        journal = start()
        assert journal.in_flight_at_crash["a"].tries == Tries(
            kills_isolated + 1, 0, 0, kills_isolated + 1, kills_isolated
        )
        begin(journal, "a")
        assert (journal.isolated, dict(journal.in_flight_at_crash)) == ("a", {})
    journal = start()
    begin(journal, "a")
    at_once(journal.give_back("a"))
    assert journal.isolated is None
    assert not start().in_flight_at_crash


def test_an_end_that_was_told_makes_no_suspects(start: Open) -> None:
    """After ``stop`` the process may be killed at any moment; suspects it never began stay suspect."""
    begin(start(), "old")
    journal = start()
    begin(journal, "new")
    journal.stopping()
    assert start().in_flight_at_crash.keys() == {"old"}


def test_acquitted_and_settled_suspects_are_none(start: Open) -> None:
    """Also for the next process."""
    first = start()
    begin(first, "a", "b", "c")
    journal = start()
    journal.clear("a")
    at_once(journal.settle("b"))
    assert journal.in_flight_at_crash.keys() == start().in_flight_at_crash.keys() == {"c"}


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_torn_line_spoils_only_itself(cut: int, start: Open, tmp_path: Path) -> None:
    """Half a line at the end, as a full disk leaves it, takes nothing of the lines before and after it."""
    first = start()
    begin(first, "before", "torn")
    path = tmp_path / "journal"
    os.truncate(path, path.stat().st_size - cut)
    second = start()
    begin(second, "after")
    assert {"before", "after"} <= start().in_flight_at_crash.keys()


@pytest.mark.parametrize(
    "line", [b"\xff\x00", b"[]", b'{"id":1,"state":2}', b'{"state":"running"}', b'{"id":"x","tries":"ab"}', b"{}"]
)
def test_strange_lines_are_passed_over(line: bytes, start: Open, tmp_path: Path) -> None:
    """Neither damage nor a line of a later release keeps the daemon from starting."""
    begin(start(), "before")
    with (tmp_path / "journal").open("ab") as file:
        file.write(b"\n" + line)
    assert "before" in start().in_flight_at_crash


def test_the_file_stays_small_and_private(start: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand settled tasks leave a file of the size of the unsettled ones, readable by us alone."""
    monkeypatch.setattr(journal_module, "_REWRITE_AT", 4096)
    journal = start()
    begin(journal, "unfinished")
    for number in range(500):
        begin(journal, str(number))
        at_once(journal.settle(str(number)))
    path = tmp_path / "journal"
    assert path.stat().st_size < 8192
    assert path.stat().st_mode & 0o777 == 0o600
    assert start().in_flight_at_crash.keys() == {"unfinished"}


def test_content_stays_out_of_it(start: Open, tmp_path: Path) -> None:
    """A fingerprint, and nothing of what a user wrote."""
    at_once(start().begin([task(content={"text": "secret words"})]))[0]
    assert b"secret" not in (tmp_path / "journal").read_bytes()


def test_a_full_disk_refuses_starts_until_it_has_room(start: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused start does not count; ``usable`` tries again and finds the room."""
    journal = start()

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OutboxUnwritable, match="no space"):
            begin(journal, "a")
        assert not journal.usable()
    assert journal.usable()
    assert begin(journal, "a").started == 1


def test_half_a_line_on_a_full_disk_counts_as_refused(start: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, write = start(), os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
        with pytest.raises(OutboxUnwritable):
            begin(journal, "a")
    begin(journal, "b")
    assert start().in_flight_at_crash.keys() == {"b"}


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """With the path, as every fault of the data directory."""
    with pytest.raises(DataDirectoryError, match="journal"):
        FileJournal(tmp_path / "missing", "aletheia").open()
