"""Which listed tasks may start, and the word for why not."""

from typing import Any

import pytest

from ai_task_processor.core import codec
from ai_task_processor.engine.admission import EngineAdmission, Running, RunningTasks
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.models.task import Task
from ai_task_processor.testing.memory import MemoryJournal, MemoryOutbox
from tests.helpers import at_once
from tests.unit.engine.parts import claim, task
from tests.unit.records import record


class Processor:
    """Wants tasks of type ``known``, and holds them for so many seconds."""

    held_s = 0.0
    asked = 0

    def hold_s(self) -> float:
        return self.held_s

    def lane(self, task: Task) -> str | None:
        return task.content if isinstance(task.content, str) else None

    def lane_hold_s(self, lane: str, running: int) -> float:
        """``full`` lanes take one task at a time, ``held`` ones none."""
        self.asked += 1
        return 1.0 if lane == "held" or (lane == "full" and running) else 0.0


class Room:
    def __init__(self, clock: Any) -> None:
        self.running = RunningTasks()
        self.outbox = MemoryOutbox(2**30, clock)
        self.processor = Processor()
        self.asked = 0
        self.clock = clock
        self.stopped = False
        self.journal = MemoryJournal(monotonic=clock.monotonic)
        self._equip()

    def _equip(self) -> None:
        self.recovery = Recovery(self.journal, self.outbox, source="aletheia", clock=self.clock)
        self.admission = EngineAdmission(
            self.running,
            self.outbox,
            self._find,
            self.recovery,
            limits={"limited": 2},
            stopped=lambda: self.stopped,
        )

    async def recover(self) -> None:
        """As at the next start."""
        self._equip()
        await self.recovery.begin()

    def _find(self, task: Task) -> Processor | None:
        self.asked += 1
        return self.processor if task.type in ("known", "limited") else None

    def put(self, task_id: str, content: object = None) -> None:
        assert self.outbox.put(record(task_id, fingerprint=codec.fingerprint(content))).done()

    def refuses(self, task_id: str = "a", content: object = None, kind: str = "known") -> str | None:
        """Why this task may not start."""
        return at_once(self.admission.refuse([task(task_id, content, type=kind)]))[0]

    def busy(self, task_id: str) -> str | None:
        """What its id alone says."""
        return at_once(self.admission.busy([task_id])).get(task_id)

    def run(self, task_id: str, lane: str | None = None, kind: str = "known") -> None:
        """From now on it has a slot."""
        self.running[task_id] = Running(claim(task_id, type=kind), 0.0, lane)

    def admits(self, limit: int, *pages: str) -> list[str]:
        """Which tasks a claim of at most ``limit`` lets start, asked page by page.

        A task is a letter: ``l…`` of the limited type, ``f…`` of a full lane, others of none. A digit makes its id.
        """
        self.admission.begin(limit)
        found: list[str] = []
        for page in pages:
            tasks = [self.task(name) for name in page.split()]
            reasons = at_once(self.admission.refuse(tasks))
            assert set(reasons) <= {None, "paused"}
            found += [task.id for task, reason in zip(tasks, reasons, strict=True) if reason is None]
        return found

    @staticmethod
    def task(name: str) -> Task:
        return task(name, "full" if name[0] == "f" else None, type="limited" if name[0] == "l" else "known")


@pytest.fixture
async def room(clock: Any) -> Room:
    return Room(clock)


async def test_a_running_task_does_not_start_twice(room: Room) -> None:
    """Not from the moment it has a slot until the slot is free; a known task may start."""
    assert room.refuses() is None
    room.run("a")
    assert room.refuses() == "running"
    del room.running["a"]
    assert room.refuses() is None


async def test_an_id_alone_tells_who_is_being_worked_on(room: Room) -> None:
    """Running, or finished and not delivered; a dead letter is a question of content."""
    room.run("a")
    room.put("b")
    room.put("c")
    await room.outbox.bury("c", "refused")
    assert [room.busy(task_id) for task_id in "abcd"] == ["running", "in_outbox", None, None]


async def test_a_finished_task_does_not_start_again_until_it_is_delivered(room: Room) -> None:
    """From the moment its outcome is accepted; a task that is listed after its delivery is new work."""
    room.put("a", {"text": "old"})
    assert room.refuses(content={"text": "old"}) == room.refuses(content={"text": "edited"}) == "in_outbox"
    await room.outbox.delivered("a")
    assert room.refuses(content={"text": "old"}) is None


@pytest.mark.parametrize("deep", [1, 1_000])
async def test_a_dead_letter_stands_for_its_own_content_only(room: Room, deep: int) -> None:
    """Skipped while listed; with changed content it is a new task. Content of any depth is compared."""
    content: object = "old"
    for _ in range(deep):
        content = [content]
    room.put("a", content)
    await room.outbox.bury("a", "refused (HTTP 400)")
    assert room.refuses(content=content) == "dead_letter"
    assert room.refuses(content={"text": "edited"}) is None


@pytest.mark.parametrize(
    ("kind", "held_s", "reason"), [("known", 0.0, None), ("known", 12.0, "paused"), ("horoscope", 0.0, "unknown_type")]
)
async def test_a_processor_must_want_the_task_and_be_free(
    room: Room, kind: str, held_s: float, reason: str | None
) -> None:
    room.processor.held_s = held_s
    assert room.refuses(kind=kind) == reason
    room.processor.held_s = 0.0
    assert room.refuses() is None


async def test_a_task_that_waits_for_an_isolated_run_is_deferred(room: Room, clock: Any) -> None:
    """Also by its id only: a source whose list begins with such tasks can skip them at once."""
    for _ in range(2):
        at_once(room.journal.begin([task("a", type="known")]))
        room.journal = MemoryJournal(room.journal.lines, monotonic=clock.monotonic)
    await room.recover()
    assert (room.refuses("a"), room.busy("a")) == ("deferred", "deferred")
    assert (room.refuses("b"), room.busy("b")) == (None, None)


async def test_the_reasons_are_asked_in_their_order(room: Room) -> None:
    room.run("a")
    room.put("a")
    room.put("b")
    assert [room.refuses(name, kind="horoscope") for name in "ab"] == ["running", "in_outbox"]
    assert room.asked == 0


async def test_a_lane_takes_its_share_of_the_slots(room: Room) -> None:
    """A model that is held, or has its share, is skipped; the tasks of others start."""
    assert room.refuses("a", "full") is None
    room.run("a", room.admission.lane(task("a", "full", type="known")))
    assert room.refuses("b", "full") == "paused"
    assert room.refuses("b", "another") is None
    assert room.refuses("c", "held") == "paused"
    room.running.pop("a")
    assert room.refuses("b", "full") is None
    assert not room.running.lanes


@pytest.mark.parametrize(
    ("limit", "pages", "admitted"),
    [
        (8, ["f1 f2 f3 a1 f4 a2"], "f1 a1 a2"),
        (8, ["f1", "f2 a1", "f3"], "f1 a1"),
        (8, ["l1 l2 l3 a1 l4 a2"], "l1 l2 a1 a2"),
        (8, ["l1", "l2 l3", "a1 l4"], "l1 l2 a1"),
        # asked for again, as by a source that lists it twice
        (8, ["l1 f1", "l1 f1 l2 l3"], "l1 f1 l1 f1 l2"),
        # what comes behind the tasks that are wanted is decided later, when it is taken
        (2, ["f1 f2 a1 f3 f4"], "f1 a1 f3 f4"),
        (3, ["l1 l2 a1 l3 l4"], "l1 l2 a1 l3 l4"),
    ],
)
async def test_what_one_claim_lets_start_counts_for_the_rest_of_it(
    room: Room, limit: int, pages: list[str], admitted: str
) -> None:
    """A lane and a limited type take their share only, in one page and over several; others fill the slots."""
    assert room.admits(limit, *pages) == admitted.split()
    assert room.admits(limit, *pages) == admitted.split(), "the next claim begins anew"


async def test_a_type_takes_as_many_slots_as_it_may(room: Room) -> None:
    """Those that run count, and a claimed task is asked for again before it starts; /status says what waits."""

    def limitation() -> str | None:
        return room.admission.limitation

    room.run("l1", kind="limited")
    assert room.admits(8, "l2 l3 a1 l4") == ["l2", "a1"]
    assert limitation() is None, "one runs, and one is about to start"
    assert room.admission.starts(room.task("l2")) is None
    room.run("l2", kind="limited")
    assert room.admission.starts(room.task("l3")) == "paused"
    assert limitation() == "2 of 2 limited tasks run (CONCURRENCY_LIMITS), 2 wait"
    assert room.admission.limited == {"limited": 2}
    del room.running["l1"]
    assert room.admission.starts(room.task("l3")) is None
    assert room.admits(8, "a1") == ["a1"]
    assert limitation() is None
    room.running.pop("l2")
    assert not room.running.types


async def test_nothing_starts_while_it_is_stopped(room: Room) -> None:
    """Neither what is listed nor what was claimed before; what is busy is told as ever."""
    room.run("a")
    room.stopped = True
    assert (room.refuses("a"), room.refuses("b"), room.busy("a")) == ("running", "paused", "running")
    assert room.admission.starts(task("b", type="known")) == "paused"
    room.stopped = False
    assert room.refuses("b") is None


async def test_a_long_list_asks_a_lane_once_for_each_task_that_is_wanted(room: Room) -> None:
    """Admission is asked for every listed task: those that are not for this claim cost a look-up."""
    for page in (" ".join(f"f{number}" for number in range(500)), " ".join(f"f{number}" for number in range(500))):
        room.processor.asked = 0
        room.admits(8, page)
        assert room.processor.asked <= 3
