"""Which listed tasks may start, and the word for why not."""

from typing import Any

import pytest

from ai_task_processor.core import codec
from ai_task_processor.engine.admission import EngineAdmission, Running, RunningTasks
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.models.task import Claim, Receipt, Record, Task, TaskStatus
from ai_task_processor.testing.memory import MemoryJournal, MemoryOutbox
from tests.helpers import at_once


class Processor:
    """Wants tasks of type ``known``, and holds them for so many seconds."""

    held_s = 0.0

    def hold_s(self) -> float:
        return self.held_s

    def lane(self, task: Task) -> str | None:
        return task.content if isinstance(task.content, str) else None

    def lane_hold_s(self, lane: str, running: int) -> float:
        """``full`` lanes take one task at a time, ``held`` ones none."""
        return 1.0 if lane == "held" or (lane == "full" and running) else 0.0


class Room:
    def __init__(self, clock: Any) -> None:
        self.running = RunningTasks()
        self.outbox = MemoryOutbox(2**30, clock)
        self.processor = Processor()
        self.asked = 0
        self.journal = MemoryJournal(monotonic=clock.monotonic)
        self.recovery = Recovery(self.journal, self.outbox, source="aletheia", clock=clock)
        self.admission = EngineAdmission(self.running, self.outbox, self._find, self.recovery)

    def _find(self, task: Task) -> Processor | None:
        self.asked += 1
        return self.processor if task.type == "known" else None

    def put(self, task_id: str, content: object = None) -> None:
        record = Record(
            receipt=Receipt("aletheia", task_id),
            task_type="known",
            status=TaskStatus.SUCCEEDED,
            fingerprint=codec.fingerprint(content),
            finished_at=0.0,
        )
        assert self.outbox.put(record).done()


@pytest.fixture
async def room(clock: Any) -> Room:
    return Room(clock)


def task(task_id: str = "a", content: object = None, **fields: Any) -> Task:
    return Task(**{"id": task_id, "type": "known", "content": content, **fields})


async def test_a_known_task_may_start(room: Room) -> None:
    """Nothing stands against it."""
    assert at_once(room.admission.refuse([task()]))[0] is None


async def test_a_running_task_does_not_start_twice(room: Room) -> None:
    """Not from the moment it has a slot until the slot is free."""
    room.running["a"] = Running(Claim(task("a"), Receipt("aletheia", "a")), 0.0)
    assert at_once(room.admission.refuse([task()]))[0] == "running"
    del room.running["a"]
    assert at_once(room.admission.refuse([task()]))[0] is None


async def test_an_id_alone_tells_who_is_being_worked_on(room: Room) -> None:
    """Running, or finished and not delivered; a dead letter is a question of content."""
    room.running["a"] = Running(Claim(task("a"), Receipt("aletheia", "a")), 0.0)
    room.put("b")
    room.put("c")
    await room.outbox.bury("c", "refused")
    assert [at_once(room.admission.busy([task_id])).get(task_id) for task_id in "abcd"] == [
        "running",
        "in_outbox",
        None,
        None,
    ]


async def test_a_finished_task_does_not_start_again_until_it_is_delivered(room: Room) -> None:
    """From the moment its outcome is accepted; a task that is listed after its delivery is new work."""
    room.put("a", {"text": "old"})
    assert at_once(room.admission.refuse([task(content={"text": "old"})]))[0] == "in_outbox"
    assert at_once(room.admission.refuse([task(content={"text": "edited"})]))[0] == "in_outbox"
    await room.outbox.delivered("a")
    assert at_once(room.admission.refuse([task(content={"text": "old"})]))[0] is None


@pytest.mark.parametrize("deep", [1, 1_000])
async def test_a_dead_letter_stands_for_its_own_content_only(room: Room, deep: int) -> None:
    """Skipped while listed; with changed content it is a new task. Content of any depth is compared."""
    content: object = "old"
    for _ in range(deep):
        content = [content]
    room.put("a", content)
    await room.outbox.bury("a", "refused (HTTP 400)")
    assert at_once(room.admission.refuse([task(content=content)]))[0] == "dead_letter"
    assert at_once(room.admission.refuse([task(content={"text": "edited"})]))[0] is None


async def test_what_nobody_processes_is_named(room: Room) -> None:
    """An unknown type stays pending, as data."""
    assert at_once(room.admission.refuse([task(type="horoscope")]))[0] == "unknown_type"


async def test_tasks_of_a_paused_processor_wait(room: Room) -> None:
    """A processor whose remote is away takes nothing; the others do."""
    room.processor.held_s = 12.0
    assert at_once(room.admission.refuse([task()]))[0] == "paused"
    room.processor.held_s = 0.0
    assert at_once(room.admission.refuse([task()]))[0] is None


async def test_a_task_that_waits_for_an_isolated_run_is_deferred(room: Room, clock: Any) -> None:
    """Also by its id only: a source whose list begins with such tasks can skip them at once."""
    for _ in range(2):
        at_once(room.journal.begin([task("a")]))[0]
        room.journal = MemoryJournal(room.journal.lines, monotonic=clock.monotonic)
    recovery = Recovery(room.journal, room.outbox, source="aletheia", clock=clock)
    await recovery.begin()
    admission = EngineAdmission(room.running, room.outbox, room._find, recovery)
    assert (at_once(admission.refuse([task("a")]))[0], at_once(admission.busy(["a"])).get("a")) == (
        "deferred",
        "deferred",
    )
    assert (at_once(admission.refuse([task("b")]))[0], at_once(admission.busy(["b"])).get("b")) == (None, None)


async def test_the_reasons_are_asked_in_their_order(room: Room) -> None:
    """What runs or is finished here is no question for a processor."""
    room.running["a"] = Running(Claim(task("a"), Receipt("aletheia", "a")), 0.0)
    room.put("a")
    room.put("b")
    assert [at_once(room.admission.refuse([task(name, type="horoscope")]))[0] for name in "ab"] == [
        "running",
        "in_outbox",
    ]
    assert room.asked == 0


async def test_a_lane_takes_its_share_of_the_slots(room: Room) -> None:
    """A model that is held, or has its share, is skipped; the tasks of others start."""
    assert at_once(room.admission.refuse([task("a", "full")]))[0] is None
    room.running["a"] = Running(Claim(task("a"), Receipt("aletheia", "a")), 0.0, room.admission.lane(task("a", "full")))
    assert at_once(room.admission.refuse([task("b", "full")]))[0] == "paused"
    assert at_once(room.admission.refuse([task("b", "another")]))[0] is None
    assert at_once(room.admission.refuse([task("c", "held")]))[0] == "paused"
    room.running.pop("a")
    assert at_once(room.admission.refuse([task("b", "full")]))[0] is None
    assert not room.running.lanes
