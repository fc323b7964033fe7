"""After a crash: full width at once, isolated only after two, in turn, and never quarantined by chance."""

from typing import Any

import pytest

from ai_task_processor.core.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.engine.isolation import SHARE
from ai_task_processor.engine.recovery import CALM_S, DEATHS_WITHOUT, ISOLATE_AT, QUARANTINE_AT, QUIET_S, Recovery
from ai_task_processor.models.task import Record, Tries
from ai_task_processor.testing.memory import MemoryJournal, MemoryOutbox
from tests.helpers import at_once, standing
from tests.unit.engine.parts import Logs, claim, task
from tests.unit.records import record

SLOTS = 4


class Process:
    """One life of the daemon after another over the same lines and the same outbox."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.outbox = MemoryOutbox(2**30, clock)
        self.lines: list[bytes] = []

    async def start(self) -> "Process":
        """As after a SIGKILL: only what was written is left."""
        self.journal = MemoryJournal(self.lines, monotonic=self.clock.monotonic)
        self.lines = self.journal.lines
        self.recovery = Recovery(self.journal, self.outbox, source="aletheia", clock=self.clock)
        await self.recovery.begin()
        return self

    def begin(self, task_id: str) -> Tries:
        """An attempt is written down."""
        return at_once(self.journal.begin([task(task_id, task_id)]))[0]

    async def die_with(self, *task_ids: str, times: int = 1) -> None:
        """Start them, and be killed."""
        for _ in range(times):
            for task_id in task_ids:
                self.begin(task_id)
            await self.start()

    def waiting(self) -> set[str]:
        """The tasks that wait for an isolated run."""
        return set(self.journal.in_flight_at_crash)

    def poll(self, *listed: str, running_s: tuple[float, ...] = ()) -> list[str]:
        """What a poll for all slots starts at once."""
        self.recovery.look(running_s)
        claims = [claim(name) for name in listed if self.recovery.refuse(name) is None]
        return [started.task.id for started in self.recovery.isolate(claims[:SLOTS], running_s)]

    def step(self, *running_s: float) -> str | None:
        """What the stretch starts now."""
        started = self.recovery.step(running_s, SLOTS)
        if started is None:
            return None
        self.begin(started.task.id)
        return started.task.id

    def isolate(self, task_id: str) -> None:
        """With nothing else to do, its isolated run starts."""
        self.poll()
        self.poll(task_id)
        assert self.step() == task_id

    def wants_poll(self) -> bool:
        return self.recovery.wants_poll

    def given_back(self) -> list[str]:
        return [left.task.id for left in self.recovery.left_over()]

    def survive(self, task_id: str, seconds: float = 1.0) -> None:
        """The attempt takes so long and ends well."""
        self.clock.advance(seconds)
        self.recovery.ended(seconds)
        at_once(self.journal.settle(task_id))


@pytest.fixture
async def process(clock: Any) -> Process:
    return await Process(clock).start()


# --- who is isolated


async def test_a_first_crash_isolates_nobody(process: Process) -> None:
    """What was in flight starts with everything else, and its attempts are counted on."""
    await process.die_with("a", "b", "c")
    assert process.poll("a", "b", "new") == ["a", "b", "new"]
    assert not process.waiting()
    assert process.begin("a").kills == 1


async def test_what_was_in_flight_at_two_crashes_waits(process: Process) -> None:
    """Everything else runs at full width at once, whatever the list begins with."""
    await process.die_with("a", "b")
    await process.die_with("b", "c")
    assert process.poll("b", "a", "c", "new") == ["a", "c", "new"]
    assert not process.recovery.isolating
    assert process.recovery.refuse("b") == "deferred"


async def test_a_given_back_attempt_forgets_no_death(process: Process) -> None:
    await process.die_with("a")
    process.begin("a")
    at_once(process.journal.give_back("a"))
    await process.start()
    await process.die_with("a")
    assert process.waiting() == {"a"}


async def test_a_kept_result_clears_its_task(process: Process) -> None:
    """Killed between the commit and the journal's line: the result is safe, nothing waits."""
    await process.die_with("a")
    process.begin("a")
    await process.outbox.put(record("a"))
    await process.start()
    assert not process.waiting()


async def test_an_older_dead_letter_clears_nobody(process: Process) -> None:
    """It stands for other content: an edited task that kills the process is found all the same."""
    await process.outbox.put(record("a", fingerprint="of other content"))
    await process.outbox.bury("a", "refused")
    await process.die_with("a", times=ISOLATE_AT)
    assert process.waiting() == {"a"}


async def test_deaths_without_a_task_clear_it(process: Process) -> None:
    """Whoever kills that often from outside goes on without it; five killers in turn do not kill that often."""
    await process.die_with("a", times=ISOLATE_AT)
    for number in range(DEATHS_WITHOUT):
        assert process.waiting() == {"a"}, number
        await process.die_with(f"other {number}")
    assert not process.waiting()
    await process.die_with("a")
    for number in range(3):
        assert process.waiting() == {"a"}, "after a third death more of them are needed"
        await process.die_with(f"another {number}")
    assert not process.waiting()


async def test_deaths_do_not_clear_a_task_that_died_isolated(process: Process) -> None:
    """There is evidence against it."""
    await process.die_with("a", times=ISOLATE_AT)
    process.isolate("a")
    await process.start()
    for number in range(3 * DEATHS_WITHOUT):
        await process.die_with(f"other {number}")
    assert process.waiting() == {"a"}


async def test_old_deaths_are_forgotten(process: Process) -> None:
    """Those before a long life say nothing about the next task."""
    for number in range(DEATHS_WITHOUT):
        await process.die_with(f"other {number}")
    process.clock.advance(CALM_S)
    process.poll()
    await process.die_with("a", times=ISOLATE_AT)
    assert process.journal.crashes == ISOLATE_AT
    assert process.waiting() == {"a"}


# --- when


@pytest.fixture
async def waiting(process: Process) -> Process:
    """``a`` and ``b`` wait for an isolated run."""
    await process.die_with("a", "b", times=ISOLATE_AT)
    return process


async def test_with_nothing_else_to_do_they_run_one_by_one(waiting: Process) -> None:
    """The poll that finds nothing else is followed by another; beside an isolated task nothing starts."""
    assert waiting.poll("a", "b") == []
    assert waiting.wants_poll()
    assert waiting.poll("a", "b") == []
    assert not waiting.wants_poll()
    assert waiting.step() == "a"
    assert waiting.recovery.isolation == "one task runs isolated because it was running at 2 crashes"
    waiting.survive("a")
    assert waiting.step() is None
    assert not waiting.recovery.isolating
    assert waiting.given_back() == ["b"]
    waiting.poll("b")
    assert waiting.wants_poll(), "other work has its chance first"
    waiting.poll("b")
    assert waiting.step() == "b"


async def test_other_work_goes_first(waiting: Process) -> None:
    waiting.poll()
    assert waiting.poll("a", "new") == ["new"]
    assert waiting.given_back() == ["a"]
    assert not waiting.recovery.isolating


async def test_a_poll_that_is_full_of_isolated_tasks_proves_no_idleness(waiting: Process) -> None:
    """Other work may stand behind them in the list."""
    await waiting.die_with(*"cdefg", times=ISOLATE_AT)
    waiting.poll()
    assert waiting.poll(*"cdefg", "new") == []
    assert waiting.step() == "c"
    waiting.survive("c")
    waiting.step()
    assert waiting.poll(*"defg", "new") == ["new"]


async def test_under_load_a_run_is_paid_for_in_advance(waiting: Process) -> None:
    """Tasks of 1 s: the drain is expected to cost half a second, the run a whole one."""
    waiting.recovery.ended(1.0)
    waiting.clock.advance(1.5 / SHARE - 0.01)
    assert waiting.poll("a", "new", running_s=(0.5,)) == ["new"]
    waiting.clock.advance(0.02)
    assert waiting.poll("a", "new", running_s=(0.5,)) == []
    assert waiting.recovery.isolating
    assert waiting.step(0.5) is None
    assert waiting.recovery.isolation == (
        "one task waits for the others to end and then runs isolated because it was running at 2 crashes"
    )
    waiting.clock.advance(0.5)
    assert waiting.step() == "a"
    waiting.survive("a")
    assert waiting.step() is None
    assert waiting.given_back() == ["new"]
    waiting.clock.advance(1.0)
    assert waiting.poll("b", "new", running_s=(0.5,)) == ["new"]


@pytest.mark.parametrize("running_s", [(), (30.0,)])
async def test_a_run_that_takes_long_is_paid_for_as_such(process: Process, running_s: tuple[float, ...]) -> None:
    """Tasks of 0.1 s; the isolated one was seen running for 20 s, or another one runs for 30 s."""
    for _ in range(ISOLATE_AT):
        process.begin("long")
        process.clock.advance(20.0)
        await process.die_with("short")
        process.journal.clear("short")
    process.recovery.ended(0.1)
    assert process.journal.in_flight_at_crash["long"].ran_s == pytest.approx(20.0)
    process.clock.advance(1.4 * 20.0 / SHARE)
    assert process.poll("long", "new", running_s=running_s) == ["new"]
    process.clock.advance(0.8 * 20.0 / SHARE)
    assert process.poll("long", "new", running_s=running_s) == ([] if not running_s else ["new"])


async def test_a_drain_that_lasts_too_long_is_given_up(waiting: Process) -> None:
    """Something takes longer than anything before: the slots are not kept empty for it."""
    waiting.recovery.ended(1.0)
    waiting.clock.advance(1.6 / SHARE)
    waiting.poll("a", running_s=(0.5,))
    for _ in range(20):
        assert waiting.step(0.5) is None
        waiting.clock.advance(0.2)
    assert not waiting.recovery.isolating
    assert waiting.given_back() == ["a"]
    assert waiting.poll("a", "new", running_s=(4.0,)) == ["new"]


async def test_savings_are_bounded(process: Process) -> None:
    """After a day of work six isolated runs of 30 s are not one stretch of three minutes."""
    await process.die_with(*"abcdef", times=ISOLATE_AT)
    process.recovery.ended(30.0)
    process.poll(*"abcdef", running_s=(0.1,))
    process.clock.advance(86_400.0)
    process.poll(*"abcdef", running_s=(0.1,))
    runs = 0
    while (name := process.step()) is not None:
        process.survive(name, 30.0)
        runs += 1
    assert 1 <= runs <= 2


async def test_a_cheap_run_does_not_spend_the_savings_for_a_dear_one(process: Process) -> None:
    """Both wait; the dear one has its turn, too."""
    for _ in range(ISOLATE_AT):
        process.begin("dear")
        process.clock.advance(60.0)
        await process.die_with("cheap")
    process.recovery.ended(0.1)
    for _ in range(500):
        process.clock.advance(1.5)
        if not process.poll("dear", "new", running_s=(0.1,)):
            break
    assert process.recovery.isolating


async def test_a_stretch_goes_on_as_far_as_it_is_paid_for(waiting: Process) -> None:
    waiting.recovery.ended(1.0)
    waiting.poll("a", "b", running_s=(0.1,))
    waiting.clock.advance(86_400.0)
    waiting.poll("a", "b", running_s=(0.1,))
    assert waiting.step() == "a"
    waiting.survive("a")
    assert waiting.step() == "b"


async def test_an_isolated_task_that_is_not_listed_holds_nobody_up(waiting: Process) -> None:
    """Polls go on as ever: one more after the first that found nothing, and no slot is kept empty."""
    assert waiting.poll() == []
    assert waiting.wants_poll()
    for _ in range(3):
        assert waiting.poll() == []
        assert not waiting.wants_poll()
    assert waiting.poll("new") == ["new"]
    assert not waiting.recovery.isolating


async def test_an_isolated_task_that_is_never_listed_is_forgotten(waiting: Process) -> None:
    """Somebody has deleted it: it is not shown as waiting for ever. What is listed waits on."""
    waiting.poll("a", "new")
    waiting.clock.advance(CALM_S)
    waiting.poll()
    assert waiting.waiting() == {"a"}


# --- what comes of it


async def test_three_deaths_isolated_are_a_quarantine(process: Process, clock: Any, logs: Logs) -> None:
    """Five in all; logged once, kept with type and content, and forgotten by the journal: a retry begins from zero."""
    await process.die_with("bad", times=ISOLATE_AT)
    for deaths in range(QUARANTINE_AT):
        assert standing(process.outbox, "bad") is None
        clock.advance(QUIET_S[deaths])
        process.isolate("bad")
        logs.clear()
        await process.start()
    assert standing(process.outbox, "bad") == "quarantined"
    (told,) = [log for log in logs if log["event"] == "task.quarantined"]
    assert (told["task_id"], told["reason"]) == ("bad", "the process died 3 times while this task ran isolated")
    assert not process.waiting()
    assert process.begin("bad").kills_isolated == 0


@pytest.mark.parametrize("ends", ["settle", "give_back"])
async def test_a_task_that_survives_its_isolated_run_is_cleared(waiting: Process, ends: str) -> None:
    waiting.isolate("a")
    await getattr(waiting.journal, ends)("a")
    assert waiting.waiting() == {"b"}
    await waiting.start()
    assert waiting.poll("a", "new") == ["a", "new"]


async def test_deaths_in_company_never_quarantine(process: Process) -> None:
    for _ in range(50):
        await process.die_with("a", "b")
        process.journal.clear("a")
        process.journal.clear("b")
    assert process.outbox.depth().quarantined == 0


async def test_a_task_that_died_isolated_waits_for_quiet(process: Process, clock: Any) -> None:
    """Others work meanwhile; when the process has lived for long enough it runs isolated again."""
    await process.die_with("a", times=ISOLATE_AT)
    for quiet_s in (5.0, 15.0):
        process.isolate("a")
        await process.start()
        clock.advance(quiet_s - 0.5)
        process.poll()
        assert not process.wants_poll()
        assert process.poll("a", "new") == ["new"]
        assert not process.recovery.isolating
        clock.advance(0.5)


async def test_evidence_goes_first(process: Process, clock: Any) -> None:
    """Of several the one whose isolated runs ended in a crash, then the one with more deaths."""
    await process.die_with("a", "b", "c", times=2)
    process.isolate("c")
    await process.start()
    clock.advance(QUIET_S[1])
    process.poll()
    process.poll("a", "b", "c")
    assert process.step() == "c"


async def test_a_start_that_cannot_be_written_clears_nobody(waiting: Process) -> None:
    """A full disk at that moment."""
    waiting.journal.broken = True
    with pytest.raises(OutboxUnwritable):
        waiting.begin("a")
    assert waiting.waiting() == {"a", "b"}
    assert waiting.journal.isolated is None


async def test_what_cannot_be_quarantined_is_not_started_again(
    process: Process, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at that moment ends the start with the error of the data directory."""

    async def full(self: MemoryOutbox, record: Record) -> None:
        raise OutboxUnwritable("disk full")

    await process.die_with("bad", times=ISOLATE_AT + QUARANTINE_AT - 1)
    monkeypatch.setattr(MemoryOutbox, "quarantine", full)
    with pytest.raises(DataDirectoryError, match="disk full"):
        await process.die_with("bad")
