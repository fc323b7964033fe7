"""Marks upstream: set, taken back, and repaired, whatever answers are lost."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.errors import Ambiguous, Rejected, RemoteError, Unsent
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.models.task import Task, TaskStatus
from ai_task_processor.sources.rest.marks import STARTED_AFTER_S, Marks
from ai_task_processor.testing.memory import MemoryOutbox

LATE_S, WITHIN_S = 30.0, 0.01


class Room:
    """Marks over a store's memory; ``errors`` are answered, one for each PATCH, before it succeeds.

    ``busy`` are the tasks that run, or whose outcome waits.
    """

    def __init__(self, clock: Any, memory: MemoryOutbox | None = None, *, exclusive: bool = False) -> None:
        self.told: list[tuple[str, str]] = []
        self.errors: list[Exception] = []
        self.stuck = False
        self.running: dict[str, SkipReason] = {}
        self.clock = clock
        self.memory = memory or MemoryOutbox(2**20, clock)
        self.marks = Marks(
            self._patch, self.memory, self, late_s=LATE_S, within_s=WITHIN_S, clock=clock, exclusive=exclusive
        )

    async def _patch(self, task_id: str, state: TaskStatus) -> None:
        self.told.append((task_id, state.value))
        await asyncio.sleep(3600 if self.stuck else 0)
        if self.errors:
            raise self.errors.pop(0)

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        return {task_id: self.running[task_id] for task_id in task_ids if task_id in self.running}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        raise NotImplementedError

    async def begin(self, task_id: str = "a") -> bool:
        self.running[task_id] = "running"
        (mine,) = await self.marks.begin([task_id])
        return mine

    def end(self, *, settled: bool = False) -> None:
        self.running = {"a": "in_outbox"} if settled else {}


@pytest.fixture
def room(clock: Any) -> Room:
    return Room(clock)


@pytest.fixture(autouse=True)
def logs() -> Iterator[Any]:
    with capture_logs() as captured:
        yield captured


async def test_a_task_under_way_is_marked_and_left_alone(room: Room) -> None:
    assert await room.begin()
    await room.marks.tend()
    assert room.told == [("a", "in_progress")]


async def test_what_is_given_back_is_pending_again(room: Room) -> None:
    """At once, and again until the upstream has acknowledged it, and then no more."""
    await room.begin()
    room.end()
    room.errors = [Unsent("refused"), Ambiguous("lost")]
    await room.marks.withdraw("a")
    for _ in range(4):
        await room.marks.tend()
    assert room.told == [("a", "in_progress")] + [("a", "pending")] * 3


async def test_a_task_that_is_gone_is_not_worked_on(room: Room) -> None:
    room.errors = [Rejected("gone", 404)]
    assert not await room.begin()
    room.end()
    await room.marks.tend()
    assert room.told == [("a", "in_progress")]


@pytest.mark.parametrize("error", [Unsent("refused"), Ambiguous("lost")])
async def test_a_mark_that_does_not_arrive_keeps_nobody_from_working(room: Room, error: RemoteError) -> None:
    room.errors = [error]
    assert await room.begin()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unsent("refused"), ["in_progress"]),
        (Rejected("conflict"), ["in_progress"]),
        (Ambiguous("lost"), ["in_progress", "pending"]),
    ],
)
async def test_an_exclusive_mark_decides_whether_a_task_starts(clock: Any, error: Exception, told: list[str]) -> None:
    """Without a clear answer it does not, and is set to pending again."""
    room = Room(clock, exclusive=True)
    room.errors = [error]
    (mine,) = await room.marks.begin(["a"])
    await room.marks.tend()
    assert (mine, [state for _, state in room.told]) == (False, told)
    assert await room.memory.remembered() == []


async def test_a_mark_without_an_answer_is_followed_by_the_final_state(room: Room, clock: Any) -> None:
    """Bare, once no late mark can arrive any more, until it is acknowledged."""
    room.errors = [Ambiguous("lost")]
    await room.begin()
    room.end(settled=True)
    await room.marks.acknowledged("a", TaskStatus.SUCCEEDED)
    await room.marks.tend()
    assert room.told == [("a", "in_progress")]
    clock.advance(LATE_S)
    room.errors = [Unsent("refused")]
    for _ in range(3):
        await room.marks.tend()
    assert room.told[1:] == [("a", "succeeded")] * 2


async def test_a_mark_that_is_not_answered_in_time_holds_nobody_up(room: Room, clock: Any) -> None:
    """The task starts. Given back, it is set to pending twice: the mark may arrive after the first time."""
    room.stuck = True
    assert await room.begin()
    room.end()
    room.stuck = False
    await room.marks.withdraw("a")
    await room.marks.tend()
    assert room.told[1:] == [("a", "pending")]
    clock.advance(LATE_S)
    for _ in range(2):
        await room.marks.tend()
    assert room.told[1:] == [("a", "pending")] * 2
    assert await room.memory.remembered() == []


async def test_an_answered_mark_needs_no_repair(room: Room, clock: Any) -> None:
    """A bare state costs a request: only who needs it gets it."""
    await room.begin()
    room.end(settled=True)
    await room.marks.acknowledged("a", TaskStatus.SUCCEEDED)
    clock.advance(10 * LATE_S)
    await room.marks.tend(leaving=True)
    assert room.told == [("a", "in_progress")]


async def test_a_kill_forgets_no_mark(room: Room, clock: Any) -> None:
    """The next process gives back what this one had marked, unless its outcome waits."""
    await room.begin()
    await room.begin("b")
    after = Room(clock, room.memory)
    after.running = {"b": "in_outbox"}
    await after.marks.recover()
    assert after.told == [("a", "pending")]
    assert await room.memory.remembered() == ["b"]


async def test_a_claimed_task_has_a_moment_to_start(room: Room, clock: Any) -> None:
    """It is marked with its claim, and its slot may become free a little later."""
    await room.begin()
    room.end()
    await room.marks.tend()
    assert room.told == [("a", "in_progress")]
    clock.advance(STARTED_AFTER_S)
    await room.marks.tend()
    assert room.told[1:] == [("a", "pending")]


async def test_it_is_taken_back_by_one_request_at_a_time(room: Room) -> None:
    """A second one could arrive after the task was started again, and hide the new mark from the journal."""
    await room.begin()
    room.end()
    await asyncio.gather(room.marks.withdraw("a"), room.marks.tend())
    assert room.told == [("a", "in_progress"), ("a", "pending")]
