"""After a crash: alone, in the right order, and never convicted by chance."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from ai_task_processor.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.models.task import Record, Task, TaskStatus
from ai_task_processor.recovery import PATIENCE_S, QUARANTINE_AT, QUIET_S, Recovery
from ai_task_processor.stores.memory import MemoryJournal, MemoryOutbox


class Process:
    """One life of the daemon after another over the same lines and the same outbox."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.outbox = MemoryOutbox(2**30, clock)
        self.lines: list[bytes] = []

    async def start(self) -> "Process":
        """As after a SIGKILL: only what was written is left."""
        self.journal = MemoryJournal(self.lines)
        self.lines = self.journal.lines
        self.recovery = Recovery(self.journal, self.outbox, clock=self.clock)
        await self.recovery.begin()
        return self

    def alone(self) -> bool:
        return self.recovery.alone

    def may(self, *task_ids: str) -> list[str]:
        return [task_id for task_id in task_ids if self.recovery.refuse(task(task_id)) is None]


def task(task_id: str) -> Task:
    return Task(id=task_id, type="text_embedding", content=task_id)


@pytest.fixture
async def process(clock: Any) -> Process:
    return await Process(clock).start()


async def test_without_a_crash_nobody_is_held_up(process: Process) -> None:
    """Nothing is alone, everything may start."""
    assert not process.alone()
    assert process.may("a", "b") == ["a", "b"]


async def test_after_a_crash_the_unfinished_run_alone_first(process: Process) -> None:
    """While there are suspects nobody else starts; while one runs nobody at all; then everybody."""
    for task_id in ("a", "b"):
        process.journal.begin(task(task_id))
    await process.start()
    assert process.alone()
    assert process.may("a", "b", "new") == ["a", "b"]
    process.journal.begin(task("a"))
    assert process.alone()
    process.journal.settle("a")
    process.journal.begin(task("b"))
    assert process.alone()
    process.journal.give_back("b")
    assert not process.alone()
    assert process.may("b", "new") == ["b", "new"]


async def test_three_deaths_alone_are_a_quarantine(process: Process) -> None:
    """Told once, kept with type and content, and forgotten by the journal: a retry begins from zero."""
    for lives in range(1 + QUARANTINE_AT):
        assert process.outbox.holds("bad") is None, lives
        process.journal.begin(task("bad"))
        with capture_logs() as logs:
            await process.start()
    assert process.outbox.holds("bad") == "quarantined"
    assert [log["task_id"] for log in logs if log["event"] == "task.quarantined"] == ["bad"]
    assert not process.journal.suspects
    assert process.journal.begin(task("bad")).kills_alone == 0


async def test_deaths_in_company_never_quarantine(process: Process, clock: Any) -> None:
    """However often: only what happened while a task was alone speaks against it."""
    for _ in range(50):
        process.journal.begin(task("a"))
        process.journal.begin(task("b"))
        await process.start()
        process.recovery.not_listed()
    assert process.outbox.depth().quarantined == 0


async def test_who_died_alone_waits_for_quiet(process: Process, clock: Any) -> None:
    """Others work meanwhile; when the quiet is over the suspect is alone again."""
    process.journal.begin(task("a"))
    for deaths in (1, 2):
        await process.start()
        clock.advance(QUIET_S[deaths - 1])
        assert process.may("a", "new") == ["a"]
        process.journal.begin(task("a"))
        await process.start()
        assert not process.alone()
        assert process.may("a", "new") == ["new"]
        clock.advance(QUIET_S[deaths] - 0.5)
        assert not process.alone()
        clock.advance(0.5)
        assert process.alone()


async def test_what_is_not_listed_any_more_holds_nobody_up(process: Process) -> None:
    """A poll that brought no suspect ends the waiting, for good."""
    process.journal.begin(task("gone"))
    await process.start()
    process.recovery.not_listed()
    assert not process.alone()
    assert process.may("new") == ["new"]
    await process.start()
    assert not process.journal.suspects


async def test_a_kept_result_clears_its_task(process: Process) -> None:
    """Killed between the commit and the journal's line: the result is safe, nothing is suspect."""
    process.journal.begin(task("a"))
    await process.outbox.put(
        Record(task_id="a", task_type="t", status=TaskStatus.SUCCEEDED, fingerprint="", finished_at=0.0)
    )
    await process.start()
    assert not process.journal.suspects


async def test_nobody_is_waited_for_for_ever(process: Process, clock: Any) -> None:
    """After a minute suspects of one death run like everybody else, those of more after three: found or not."""
    process.journal.begin(task("twice"))
    await process.start()
    process.journal.acquit("twice")
    process.journal.begin(task("twice"))
    process.journal.begin(task("once"))
    await process.start()
    assert process.may("once", "twice", "new") == ["once", "twice"]
    clock.advance(PATIENCE_S[0] + 1)
    assert process.may("once", "twice", "new") == ["twice"]
    clock.advance(PATIENCE_S[1] - PATIENCE_S[0])
    assert process.may("once", "twice", "new") == ["once", "twice", "new"]


async def test_suspects_are_not_sorted_for_every_listed_task(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of any length is refused after one look at who is due."""
    for number in range(100):
        process.journal.begin(task(str(number)))
    await process.start()
    looks = 0

    def look(self: Recovery, age_s: float) -> set[str]:
        nonlocal looks
        looks += 1
        return original(self, age_s)

    original = Recovery._look
    monkeypatch.setattr(Recovery, "_look", look)
    assert {process.recovery.refuse(task(f"other {number}")) for number in range(10_000)} == {"deferred"}
    assert looks == 1


async def test_a_start_that_cannot_be_written_leaves_a_suspect_suspect(process: Process) -> None:
    """A full disk acquits nobody."""
    process.journal.begin(task("a"))
    await process.start()
    process.journal.broken = True
    with pytest.raises(OutboxUnwritable):
        process.journal.begin(task("a"))
    assert process.journal.suspects.keys() == {"a"}
    assert process.journal.alone is None


async def test_an_older_dead_letter_acquits_nobody(process: Process) -> None:
    """It stands for other content: an edited task that kills the process is found all the same."""
    await process.outbox.put(
        Record(task_id="a", task_type="t", status=TaskStatus.SUCCEEDED, fingerprint="of other content", finished_at=0.0)
    )
    await process.outbox.bury("a", "refused")
    process.journal.begin(task("a"))
    await process.start()
    assert process.journal.suspects.keys() == {"a"}


async def test_who_cannot_be_quarantined_is_not_started_again(
    process: Process, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at that moment ends the start with the error of the data directory."""

    async def full(self: MemoryOutbox, record: Record) -> None:
        raise OutboxUnwritable("disk full")

    for _ in range(QUARANTINE_AT):
        process.journal.begin(task("bad"))
        await process.start()
    process.journal.begin(task("bad"))
    monkeypatch.setattr(MemoryOutbox, "quarantine", full)
    with pytest.raises(DataDirectoryError, match="disk full"):
        await process.start()
