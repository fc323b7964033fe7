"""Slots and polls in virtual time: at once while there is work, calm when there is none, alive in every wait."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest

from ai_task_processor.core.errors import Transient, Unsent
from ai_task_processor.core.ports import Clock, SkipReason, Want
from ai_task_processor.engine import heartbeat as heartbeat_module
from ai_task_processor.engine.admission import EngineAdmission, Running, RunningTasks
from ai_task_processor.engine.faults import Faults
from ai_task_processor.engine.heartbeat import Heartbeat
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.engine.scheduler import (
    FIRST_PAUSE_S,
    LIMITED_PAUSE,
    LONGEST_POLL_S,
    TICK_S,
    WOKEN_PAUSE_S,
    Pauses,
)
from ai_task_processor.engine.scheduler import TaskScheduler as Scheduler
from ai_task_processor.engine.slots import Slots
from ai_task_processor.engine.wiring import PAUSED_LOOK_S
from ai_task_processor.models.task import Claim, Failure, Receipt, Task, Tries
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.testing.memory import MemoryJournal, MemoryOutbox
from tests.helpers import StubSource, at_once
from tests.unit.engine.parts import Logs, at_work, claim, events, ids_of, names, task
from tests.unit.records import record


class Source(StubSource):
    """Lists ``pending`` without what runs; a poll takes ``latency_s`` and raises what ``error`` holds.

    ``call`` says that there may be work: it ends the wait under way, or the next one.
    """

    def __init__(self, clock: Clock, running: dict[str, Running]) -> None:
        self.pending: list[str] = []
        self.error: Exception | None = None
        self.latency_s = 0.0
        self.polls: list[tuple[float, int]] = []
        self.released: list[str] = []
        self.cut_claims = 0
        self.asks_admission = False
        self.refuse: Callable[[str], object] = lambda _: None
        self._clock = clock
        self._running = running
        self._called = False
        self._pause: asyncio.Task[None] | None = None

    async def claim(self, want: Want) -> Sequence[Claim]:
        limit = want.limit
        self.polls.append((self._clock.monotonic(), limit))
        listed = [name for name in self.pending if name not in self._running and not self.refuse(name)]
        if self.asks_admission:
            reasons = await want.admission.refuse([task(name, type=name[0]) for name in listed])
            listed = [name for name, reason in zip(listed, reasons, strict=True) if reason is None]
        try:
            await self._clock.sleep(self.latency_s)
        except asyncio.CancelledError:
            self.cut_claims += 1
            raise
        if self.error is not None:
            raise self.error
        return [claim(name, **({"type": name[0]} if self.asks_admission else {})) for name in listed[:limit]]

    async def wait(self, timeout_s: float) -> bool:
        if not self._called:
            async with asyncio.TaskGroup() as group:
                self._pause = group.create_task(self._clock.sleep(timeout_s))
        called, self._called = self._called, False
        return called

    def call(self) -> None:
        self._called = True
        if self._pause is not None:
            self._pause.cancel()

    def resume(self) -> None:
        self.call()

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        assert delay_s == 0.0
        self.released.append(receipt.id)


class Runner:
    """A task takes as many seconds as ``takes`` says; it settles (and leaves the list) unless it is given back."""

    def __init__(self, clock: Clock, source: Source) -> None:
        self.settling = 0
        self.on_settling: Callable[[], None] = lambda: None
        self.settling_s = 0.0
        self.takes: Callable[[str], float] = lambda _: 1.0
        self.settles: Callable[[str], bool] = lambda _: True
        self.journal = MemoryJournal(monotonic=clock.monotonic)
        self.abandoned: list[str] = []
        self.started: list[tuple[float, str]] = []
        self.ended: list[str] = []
        self.now = self.most = 0
        self._clock = clock
        self._source = source

    async def cancel(self, claim: Claim) -> None:
        self.abandoned.append(claim.task.id)

    async def lost(self, claim: Claim) -> None:
        await self.journal.settle(claim.task.id)

    async def run(self, claim: Claim, tries: Tries) -> bool:
        task_id = claim.task.id
        self.started.append((self._clock.monotonic(), task_id))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._clock.sleep(self.takes(task_id))
            if self.settling_s:
                self.settling += 1
                self.on_settling()
                await self._clock.sleep(self.settling_s)
                self.settling -= 1
            if settles := self.settles(task_id):
                self._source.pending.remove(task_id)
            self.ended.append(task_id)
            return settles
        finally:
            self.now -= 1
            settled = task_id not in self._source.pending
            await (self.journal.settle if settled else self.journal.give_back)(task_id)


class Free:
    """A processor that holds nothing."""

    def hold_s(self) -> float:
        return 0.0

    def lane(self, task: Task) -> None:
        return None

    def lane_hold_s(self, lane: str, running: int) -> float:
        return 0.0


class Room:
    """A scheduler with everything around it; ``async with room.working()`` runs it.

    ``pending``: the listed tasks, or how many there are; ``takes``: the seconds of each task, 1.0 for those not named;
    ``crashed``: tasks of one letter that the process died with, twice. ``limits``: of types, which are first letters;
    only with them the source asks admission, and ``paused`` stops everything.
    """

    def __init__(
        self,
        clock: Any,
        *,
        slots: int = 3,
        interval_s: float = 30.0,
        pending: int | Sequence[str] = (),
        crashed: str = "",
        limits: Mapping[str, int] | None = None,
        takes: float | Mapping[str, float] | Callable[[str], float] = 1.0,
        settles: bool = True,
        settling_s: float = 0.0,
        latency_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        running, outbox = RunningTasks(), MemoryOutbox(2**30, clock)
        self.faults = Faults()
        self.clock = clock
        self.source = Source(clock, running)
        self.runner = Runner(clock, self.source)
        self.journal = self.runner.journal
        self.recovery = Recovery(self.journal, outbox, source="aletheia", clock=clock)
        self.paused = False
        self.admission = EngineAdmission(
            running,
            outbox,
            lambda _: None if limits is None else Free(),
            self.recovery,
            limits=limits or {},
            stopped=lambda: self.paused,
        )
        if limits is None:
            self.admission.starts = lambda _: None  # type: ignore[method-assign,assignment]  # whatever recovery lets
            self.source.refuse = self.recovery.refuse
        self.source.asks_admission = limits is not None
        self.source.pending = names(pending) if isinstance(pending, int) else list(pending)
        self.source.latency_s, self.source.error = latency_s, error
        if isinstance(takes, Mapping):
            self.runner.takes = lambda name: takes.get(name, 1.0)
        else:
            self.runner.takes = takes if callable(takes) else lambda _: takes
        self.runner.settles = lambda _: settles
        self.runner.settling_s = settling_s
        self.hold_until = 0.0
        self.metrics = Metrics(version="0", provider="mock")
        self.slots = Slots(
            slots,
            source=self.source,
            runner=self.runner,  # type: ignore[arg-type]  # the two words of a TaskRunner that count here
            running=running,
            journal=self.journal,
            admission=self.admission,
            recovery=self.recovery,
            faults=self.faults,
            clock=clock,
        )
        self.scheduler = Scheduler(
            self.source,
            self.slots,
            admission=self.admission,
            recovery=self.recovery,
            faults=self.faults,
            interval_s=interval_s,
            hold_s=lambda: PAUSED_LOOK_S if self.paused else max(0.0, self.hold_until - clock.monotonic()),
            clock=clock,
            metrics=self.metrics,
            rng=random.Random(7),
        )
        if crashed:
            self._crash(crashed)

    def call(self) -> float:
        """The source says that there may be work; answers when."""
        self.source.call()
        return float(self.clock.monotonic())

    def polls(self, since: float = 0.0) -> list[float]:
        return [at for at, _ in self.source.polls if at >= since]

    @asynccontextmanager
    async def working(self) -> AsyncIterator["Room"]:
        async with at_work(self.scheduler.run()):
            yield self

    def _crash(self, task_ids: str) -> None:
        """The process before this one, and the one before that, died with these in flight."""
        for _ in range(2):
            for task_id in task_ids:
                at_once(self.journal.begin([task(task_id)]))
            journal = MemoryJournal(self.journal.lines, monotonic=self.clock.monotonic)
            self.journal.__dict__.update(journal.__dict__)
            at_once(self.recovery.begin())

    async def tick_ages(self, seconds: int) -> list[float]:
        """The age of the last tick, once a second."""
        ages = []
        for _ in range(seconds):
            await self.clock.sleep(1.0)
            ages.append(self.clock.monotonic() - self.scheduler.ticked_at)
        return ages


# --- slots


@pytest.mark.parametrize("slots", [1, 3, 16])
async def test_a_slot_is_reserved_before_a_task_is_claimed(clock: Any, slots: int) -> None:
    """No poll without a free slot, no more tasks asked for than slots are free, never more than that running."""
    rng = random.Random(3)
    room = Room(clock, slots=slots, takes=lambda _: rng.uniform(0.0, 5.0), pending=200, latency_s=0.3)
    async with room.working():
        while room.source.pending:
            await clock.sleep(0.1)
            assert len(room.slots.running) <= slots
    assert room.runner.most == slots
    assert len(room.runner.ended) == len(set(room.runner.ended)) == 200
    assert all(1 <= limit <= slots for _, limit in room.source.polls)


async def test_slots_are_refilled_one_by_one(clock: Any) -> None:
    async with Room(clock, slots=2, takes={"slow": 1_000.0}, pending=["slow", *names(50)]).working() as room:
        await clock.sleep(60.0)
        assert len(room.runner.ended) == 50
        assert list(room.slots.running) == ["slow"]


async def test_what_is_free_while_a_poll_is_under_way_is_asked_for_next(clock: Any) -> None:
    """A slow API delays nobody else: slots that fall free meanwhile are claimed for right after its answer."""
    async with Room(clock, slots=3, pending=30, latency_s=5.0).working() as room:
        await clock.sleep(60.0)
        gaps = [later - earlier for earlier, later in zip(room.polls(), room.polls()[1:], strict=False)]
        assert gaps[:8] == pytest.approx([5.0, 6.0] * 4, abs=1.1)
        assert len(room.runner.ended) >= 25


async def test_a_bug_in_one_task_spares_the_others(clock: Any, logs: Logs) -> None:
    def takes(name: str) -> float:
        if name == "bad":
            raise RuntimeError("a bug of ours")
        return 1.0

    async with Room(clock, takes=takes, pending=["bad", *names(20)]).working() as room:
        await clock.sleep(120.0)
        assert len(room.runner.ended) == 20
        assert room.slots.free >= 2
    assert ids_of(logs, "task.crashed") == {"bad"}


# --- isolated runs


async def test_after_two_crashes_all_slots_work_at_once(clock: Any) -> None:
    """What waits for an isolated run holds nobody up, although the list begins with it."""
    async with Room(clock, slots=4, crashed="ab", pending=["a", "b", *names(100)]).working() as room:
        await clock.sleep(2.0)
        assert room.runner.most == 4
        assert len(room.runner.started) >= 8
        assert room.recovery.isolation is None


async def test_between_normal_work_an_isolated_task_has_the_process_for_itself(clock: Any) -> None:
    """What runs is waited for, nothing starts beside it, then all slots work again; a fifth of the time at most."""

    def takes(name: str) -> float:
        assert name != "a" or room.runner.now == 1, "something runs beside it"
        return 1.0

    began, drained = clock.monotonic(), 0
    room = Room(clock, slots=4, crashed="ab", takes=takes, settling_s=0.05, pending=["a", "b", *names(1_000)])
    async with room.working():
        while not {"a", "b"} <= set(room.runner.ended):
            await clock.sleep(0.01)
            drained += room.recovery.isolating and room.runner.settling > 0
            assert not (room.recovery.isolating and room.scheduler.refilling()), "a batch waits for tasks in vain"
        assert drained
        passed = clock.monotonic() - began
        assert passed < 60.0
        assert len(room.runner.ended) >= 0.8 * 4 * (passed - 2.0)
        done = len(room.runner.ended)
        await clock.sleep(5.0)
        assert len(room.runner.ended) >= done + 16


async def test_while_slots_wait_for_an_isolated_run_the_loop_is_alive_and_says_why(clock: Any) -> None:
    """A long isolated run: no poll, no free slot, ticks, and a sentence."""
    async with Room(clock, slots=4, crashed="a", takes={"a": 100.0}, pending=["a"]).working() as room:
        await clock.sleep(5.0)
        polls = len(room.polls())
        assert max(await room.tick_ages(60)) <= TICK_S + 1.0
        assert len(room.polls()) == polls
        assert room.slots.free == 0
        assert not room.scheduler.refilling()
        assert "isolated" in str(room.recovery.isolation)
    assert room.runner.started[0][1] == "a"


async def test_with_nothing_else_to_do_isolated_tasks_follow_each_other(clock: Any) -> None:
    """Without the pauses between polls that bring nothing; new work goes first."""
    async with Room(clock, slots=4, crashed="abcde", pending=[*"abcde"]).working() as room:
        await clock.sleep(2.5)
        room.source.pending.append("new")
        await clock.sleep(6.0)
        assert set(room.runner.ended) == {*"abcde", "new"}
        assert room.runner.ended.index("new") <= 4
        assert room.source.released[:2] == ["b", "c"], "what does not run is given back"
        assert set(room.source.released) == {*"bcde"}
    assert room.runner.most == 1


async def test_what_may_not_start_after_the_drain_is_given_back(clock: Any) -> None:
    """Its model was paused while it waited for the others to end."""
    paused = set[str]()
    room = Room(clock, slots=4, crashed="a", pending=["a", *names(200)])

    def starts(task: Task) -> SkipReason | None:
        if task.id != "a":
            return None
        paused.add(task.id)
        return "paused"

    room.admission.starts = starts  # type: ignore[method-assign]
    room.source.refuse = lambda name: name in paused or room.recovery.refuse(name)
    async with room.working():
        await clock.sleep(30.0)
        assert "a" in room.source.released
        assert "a" not in room.runner.ended
        assert len(room.runner.ended) >= 80


async def test_a_listed_task_that_stays_deferred_is_no_storm_of_polls(clock: Any) -> None:
    """It died in an isolated run and waits for quiet: polls come calmly."""
    room = Room(clock, slots=4, crashed="a", pending=["a"])
    room.recovery.look(())
    room.recovery._is_quiet = lambda _: False  # type: ignore[method-assign,assignment]  # for as long as the test takes
    async with room.working():
        await clock.sleep(60.0)
        assert len(room.polls()) < 12
        assert not room.runner.started


# --- when to poll


async def test_polls_follow_at_once_while_they_start_tasks(clock: Any) -> None:
    async with Room(clock, slots=5, takes=0.0, pending=100).working() as room:
        await clock.sleep(1.5)
        assert len(room.runner.ended) == 100


@pytest.mark.parametrize(("interval_s", "least", "most"), [(30.0, 2, 3), (1.0, 60, 80), (0.1, 600, 800)])
async def test_an_empty_list_is_asked_for_calmly(clock: Any, interval_s: float, least: int, most: int) -> None:
    """With nothing to do polls come at the interval, shortened by jitter only; early on they come sooner."""
    async with Room(clock, interval_s=interval_s).working() as room:
        await clock.sleep(60.0)
        early = len(room.polls())
        began = clock.monotonic()
        await clock.sleep(60.0)
        assert least <= len(room.polls(began)) <= most
        assert early >= len(room.polls(began))


def test_pauses_double_up_to_the_interval_with_jitter() -> None:
    """Half a second, one, two, … and never more than the interval; no two daemons in step."""
    pauses = Pauses(30.0, lambda: inf, random.Random(1))
    bounds = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, *[30.0] * 2_000]
    lengths = [pauses.next_s(fruitless=False) for _ in bounds]
    assert all(0.75 * bound <= length <= bound for length, bound in zip(lengths, bounds, strict=True))
    assert len(set(lengths)) == len(lengths)


async def test_daemons_that_start_together_do_not_poll_together(clock: Any) -> None:
    """The first poll comes within a second, at a random moment."""
    first = []
    for seed in range(20):
        began = clock.monotonic()
        room = Room(clock)
        room.scheduler._pauses._rng = random.Random(seed)
        async with room.working():
            await clock.sleep(1.1)
        first.append(room.polls()[0] - began)
    assert all(0.0 <= at <= 1.0 for at in first)
    assert len(set(first)) == 20


async def test_tasks_that_come_straight_back_are_no_hot_loop(clock: Any) -> None:
    """A processor that gives everything back, or a paused model: a poll every second or two, then full speed again."""
    async with Room(clock, slots=3, takes=0.0, settles=False, pending=300).working() as room:
        await clock.sleep(60.0)
        assert 30 <= len(room.polls()) <= 80
        room.runner.settles = lambda _: True
        await clock.sleep(3.0)
        assert room.source.pending == []


async def test_a_few_that_come_back_do_not_slow_the_rest(clock: Any) -> None:
    room = Room(clock, slots=4, takes=0.01, pending=300)
    room.runner.settles = lambda name: int(name) % 3 > 0 or room.runner.ended.count(name) > 0
    async with room.working():
        await clock.sleep(10.0)
        assert room.source.pending == []


# --- calls of the source


async def storm(room: Room, seconds: float, every_s: float = 0.001) -> None:
    """A call every millisecond."""
    ends_at = room.clock.monotonic() + seconds
    while room.clock.monotonic() < ends_at:
        room.source.call()
        await room.clock.sleep(every_s)


@pytest.mark.parametrize("error", [None, Unsent("connection refused")], ids=["idle", "failing"])
async def test_a_call_ends_the_pause(clock: Any, error: Exception | None) -> None:
    """A daemon that is idle or backs off polls at the moment it is called, and takes what is there."""
    async with Room(clock, interval_s=3_600.0, error=error).working() as room:
        await clock.sleep(5_000.0)
        room.source.error, room.source.pending = None, ["a"]
        called_at = room.call()
        await clock.sleep(1.5)
        assert room.polls(called_at)[0] == called_at
        assert room.runner.ended == ["a"]


async def test_calls_that_bring_tasks_are_heard_at_once(clock: Any) -> None:
    """One task after the other, a few milliseconds apart, each starts at the moment of its call."""
    async with Room(clock, interval_s=3_600.0, takes=0.001).working() as room:
        await clock.sleep(5_000.0)
        for number in range(20):
            room.source.pending.append(str(number))
            called_at = room.call()
            await clock.sleep(WOKEN_PAUSE_S / 5)
            assert room.runner.started[-1] == (called_at, str(number))


async def test_a_call_ends_the_first_pause(clock: Any) -> None:
    async with Room(clock, interval_s=3_600.0).working() as room:
        began = room.call()
        await clock.sleep(0.001)
        assert room.polls() == [began]


async def test_a_call_during_a_poll_is_heard_after_it(clock: Any) -> None:
    """The list may have been read before the task was there: another poll follows, and one only."""
    async with Room(clock, interval_s=3_600.0, latency_s=5.0).working() as room:
        await clock.sleep(2.0)
        assert len(room.polls()) == 1
        for _ in range(10):
            room.source.call()
        room.source.pending = ["late"]
        await clock.sleep(10.0)
        assert room.polls()[1] == room.polls()[0] + 5.0
        assert [task_id for _, task_id in room.runner.started] == ["late"]


async def test_a_call_while_all_slots_are_taken_is_heard_when_one_is_free(clock: Any) -> None:
    """Nothing is polled for while no task could start; then the next pause ends at once."""
    async with Room(clock, slots=1, interval_s=3_600.0, takes=100.0, pending=["a"]).working() as room:
        await clock.sleep(10.0)
        room.source.call()
        await clock.sleep(50.0)
        assert len(room.polls()) == 1
        await clock.sleep(50.0)
        first, freed, called = room.polls()[:3]
        assert freed == first + 100.0
        assert called == freed


async def test_it_knows_when_it_polls_next(clock: Any) -> None:
    """In every pause, and whether the pause was asked for; not while a poll is under way."""
    async with Room(clock, latency_s=5.0).working() as room:
        await clock.sleep(4.0)
        assert (room.scheduler.next_poll_at, room.scheduler.holding) == (None, False)
        while room.scheduler.next_poll_at is None:
            await clock.sleep(0.01)
        assert 0.3 < room.scheduler.next_poll_at - clock.monotonic() <= 0.5
        room.hold_until = clock.monotonic() + 100.0
        while not room.scheduler.holding:
            await clock.sleep(0.1)
        assert room.scheduler.next_poll_at is not None
        assert 29.0 < room.scheduler.next_poll_at - clock.monotonic() <= 30.0
        await clock.sleep(110.0)
        assert room.scheduler.holding is False


async def test_a_call_during_a_hold_is_heard_after_it(clock: Any) -> None:
    """An open circuit, a full disk or a Retry-After is not cut short, however often it is called; nor forgotten."""
    async with Room(clock, interval_s=3_600.0).working() as room:
        await clock.sleep(100.0)
        room.hold_until = clock.monotonic() + 60.0
        before, slept = len(room.polls()), len(clock.slept)
        await storm(room, 59.0, every_s=1.0)
        assert len(room.polls()) == before
        assert len(clock.slept) - slept < 59 + 2 * 59 / TICK_S + 3, "it must not turn round while it is held"
        await clock.sleep(1.5)
        first, called = room.polls()[before : before + 2]
        assert first == pytest.approx(room.hold_until, abs=0.001)
        assert called <= first + WOKEN_PAUSE_S + 0.001


async def test_who_calls_too_early_is_looked_for_soon(clock: Any) -> None:
    """The task is visible a moment after the call: the pauses begin anew, however long they had become."""
    async with Room(clock, interval_s=3_600.0).working() as room:
        await clock.sleep(20_000.0)
        called_at = room.call()
        await clock.sleep(0.2)
        room.source.pending = ["a"]
        await clock.sleep(5.0)
        first, second = room.polls(called_at)[:2]
        assert 0.75 * FIRST_PAUSE_S <= second - first <= FIRST_PAUSE_S + WOKEN_PAUSE_S
        assert room.runner.ended == ["a"]


async def test_a_storm_of_calls_that_brings_nothing_is_no_storm_of_polls(clock: Any) -> None:
    """A thousand calls a second: forty polls a second, and calm as soon as it is over."""
    async with Room(clock, interval_s=3_600.0).working() as room:
        await clock.sleep(5_000.0)
        began = clock.monotonic()
        await storm(room, 10.0)
        assert 300 <= len(room.polls(began)) <= 10.0 / WOKEN_PAUSE_S + 2
        ended = clock.monotonic()
        await clock.sleep(60.0)
        assert len(room.polls(ended)) <= 10


async def test_a_storm_of_calls_does_not_delay_the_tasks(clock: Any) -> None:
    """Under the same storm a task starts within the distance of two polls, and a backlog at full speed."""
    async with Room(clock, slots=5, interval_s=3_600.0, takes=0.01).working() as room:
        calling = asyncio.ensure_future(storm(room, 20.0))
        for number in range(100):
            await clock.sleep(0.1)
            room.source.pending.append(str(number))
            added_at = clock.monotonic()
            await clock.sleep(WOKEN_PAUSE_S + 0.002)
            started_at, task_id = room.runner.started[-1]
            assert (task_id, started_at - added_at <= WOKEN_PAUSE_S + 0.001) == (str(number), True)
        room.source.pending += [f"backlog {number}" for number in range(100)]
        await clock.sleep(0.5)
        assert room.source.pending == []
        calling.cancel()


@pytest.mark.parametrize(
    "trouble", [{"error": Unsent("connection refused")}, {"pending": 9}], ids=["error", "tasks that come back"]
)
async def test_a_storm_of_calls_keeps_the_backoff_of_trouble(clock: Any, trouble: dict[str, Any]) -> None:
    """A dead API, or tasks that all come straight back: at most two polls for one without any calls."""
    polls = []
    for every_s in (100.0, 0.001):
        async with Room(clock, interval_s=10.0, takes=0.0, settles=False, **trouble).working() as room:
            await storm(room, 99.0, every_s)
            polls.append(len(room.polls()))
    calm, stormy = polls
    assert calm <= stormy <= 2 * calm + 2


# --- failures


async def test_a_failing_source_is_asked_less_and_less_and_told_three_times(clock: Any, logs: Logs) -> None:
    """It backs off to the interval; the log has one line when it begins, changes and ends."""
    async with Room(clock, interval_s=10.0, error=Unsent("connection refused")).working() as room:
        await clock.sleep(60.0)
        assert 6 <= len(room.polls()) <= 14
        assert str(room.scheduler.problem) == "connection refused"
        room.source.error = Transient("the task API answered 503")
        await clock.sleep(60.0)
        room.source.error = None
        await clock.sleep(11.0)
        assert room.scheduler.problem is None
    told = [(line["event"], line.get("reason", line.get("after"))) for line in logs]
    assert told == [
        ("poll.failed", "connection refused"),
        ("poll.failed", "the task API answered 503"),
        ("poll.recovered", "the task API answered 503"),
    ]


async def test_a_bug_in_the_source_is_a_failed_poll(clock: Any, logs: Logs) -> None:
    """What a listed record does to our own code must not end the daemon: what runs and what is kept goes on."""
    async with Room(clock, interval_s=1.0, error=TypeError("unhashable")).working() as room:
        await clock.sleep(10.0)
        assert str(room.scheduler.problem) == "the component 'aletheia' fails in claim (TypeError)"
        room.source.error = None
        room.source.pending = ["a"]
        await clock.sleep(3.0)
        assert room.runner.ended == ["a"]
    assert events(logs).count("component.failed") == events(logs).count("component.restored") == 1


@pytest.mark.parametrize("error", [RuntimeError("x"), SystemExit(3), Unsent("away")])
async def test_a_release_that_fails_counts_as_released(clock: Any, logs: Logs, error: BaseException) -> None:
    """The claim beyond the slots cannot be given back; it is listed again later, and nothing else stops."""
    room = Room(clock, slots=1, interval_s=1.0, takes=3.0, pending=["a"])

    async def release(*_: object) -> None:
        raise error

    async def claims(want: Want) -> list[Claim]:
        return [claim(name) for name in ("a", "b") if name not in room.runner.ended]

    room.source.release, room.source.claim = release, claims  # type: ignore[method-assign,assignment]
    room.source.pending = ["a", "b"]
    async with room.working():
        await clock.sleep(20.0)
    assert room.runner.ended == ["a", "b"]
    event = "task.not_released" if isinstance(error, Unsent) else "component.failed"
    assert events(logs).count(event) >= 1
    assert room.faults.problems == []


@pytest.mark.parametrize("answer", [None, [], ["x"], RuntimeError("x"), SystemExit(3)])
async def test_an_attempt_that_cannot_be_counted_does_not_start(clock: Any, answer: object) -> None:
    """As when the disk is full: the task is released, and starts when the journal works again."""
    room = Room(clock, interval_s=1.0, pending=["a"])
    begin = room.journal.begin

    async def broken(tasks: object) -> object:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    room.journal.begin = broken  # type: ignore[method-assign,assignment]
    async with room.working():
        await clock.sleep(5.0)
        assert (room.runner.started, room.slots.running) == ([], {})
        assert "a" in room.source.released
        assert [problem.code for problem in room.faults.problems] == ["component_failed"]
        room.journal.begin = begin  # type: ignore[method-assign]
        await clock.sleep(5.0)
    assert room.runner.ended == ["a"]
    assert room.faults.problems == []


@pytest.mark.parametrize("answer", [None, 5, ["junk"], [claim("a"), "junk"], [Claim(None, claim("a").receipt)]])  # type: ignore[arg-type]
async def test_a_claim_that_returns_nonsense_is_a_failed_poll(clock: Any, answer: object) -> None:
    """By the name of the source; nothing of it starts, and the polls go on."""
    room = Room(clock, interval_s=1.0, pending=["a"])
    well = room.source.claim

    async def claims(want: Want) -> object:
        return answer

    room.source.claim = claims  # type: ignore[method-assign,assignment]
    async with room.working():
        await clock.sleep(5.0)
        assert "'aletheia' fails in claim (it returned " in str(room.scheduler.problem)
        assert room.runner.started == []
        room.source.claim = well  # type: ignore[method-assign]
        await clock.sleep(5.0)
    assert room.runner.ended == ["a"]


# --- holds


async def test_nothing_is_claimed_while_held_and_polling_resumes_when_it_ends(clock: Any) -> None:
    """A full outbox or an open circuit stops claiming; the moment it ends the next poll is made."""
    room = Room(clock, interval_s=30.0, pending=["a"])
    room.hold_until = clock.monotonic() + 17.3
    async with room.working():
        await clock.sleep(20.0)
        assert room.polls()[0] == pytest.approx(room.hold_until, abs=0.001)
        room.hold_until = clock.monotonic() + 400.0
        before = len(room.polls())
        await clock.sleep(399.0)
        assert len(room.polls()) - before <= 1
        await clock.sleep(2.0)
        assert room.polls()[before:][-1] == pytest.approx(room.hold_until, abs=0.001)


# --- drain


async def test_a_drain_gives_up_the_poll_and_finishes_the_tasks(clock: Any) -> None:
    """The poll under way is cancelled at once, running tasks end in their own time, and then run() returns."""
    room = Room(clock, slots=2, takes=50.0, pending=["a"])
    work = asyncio.ensure_future(room.scheduler.run())
    await clock.sleep(5.0)
    room.source.latency_s = 1_000.0
    await clock.sleep(30.0)
    began, polls = clock.monotonic(), len(room.polls())
    room.scheduler.drain()
    await work
    assert room.source.cut_claims == 1
    assert clock.monotonic() - began < 20.0
    assert room.runner.ended == ["a"]
    assert (len(room.polls()), room.slots.cut) == (polls, [])


async def test_a_drain_before_the_start_claims_nothing(clock: Any) -> None:
    room = Room(clock, pending=["a"])
    room.scheduler.drain()
    await room.scheduler.run()
    assert (room.polls(), room.runner.started) == ([], [])


@pytest.mark.parametrize(("interval_s", "called"), [(30.0, False), (3_600.0, True)], ids=["idle", "called"])
async def test_a_drain_with_nothing_running_ends_at_once(clock: Any, interval_s: float, called: bool) -> None:
    """An idle scheduler does not wait out its pause, and a call in the same moment claims nothing more."""
    room = Room(clock, interval_s=interval_s)
    work = asyncio.ensure_future(room.scheduler.run())
    await clock.sleep(100.0)
    began, polls = clock.monotonic(), len(room.polls())
    if called:
        room.source.call()
    room.scheduler.drain()
    await work
    assert (clock.monotonic(), len(room.polls())) == (began, polls)


async def test_what_a_drain_cuts_off_is_named(clock: Any) -> None:
    async with Room(clock, slots=2, takes=500.0, pending=["b", "a"]).working() as room:
        await clock.sleep(5.0)
    assert sorted(receipt.id for receipt in room.slots.cut) == ["a", "b"]
    assert room.slots.running == {}


async def test_the_next_tasks_are_asked_for_while_the_last_results_are_written(clock: Any) -> None:
    """A poll and a commit take their time together, and no more tasks run at once than there are slots."""
    async with Room(clock, slots=2, takes=10.0, settling_s=0.1, latency_s=0.1, pending=8).working() as room:
        await clock.sleep(35.0)
    first, second, third, *_ = (at for at, _ in room.runner.started[::2])
    assert [second - first, third - second] == pytest.approx([10.1, 10.1], abs=0.01)
    assert {limit for _, limit in room.source.polls} == {2}
    assert room.runner.most == 2


async def test_who_waits_in_vain_for_a_slot_is_given_back(clock: Any) -> None:
    """A result that the disk does not take holds its slot: the task that was to follow is nobody's again."""
    async with Room(clock, slots=1, settling_s=100.0, pending=["held", "next"]).working() as room:
        await clock.sleep(5.0)
        assert set(room.source.released) == {"next"}
        assert [task_id for _, task_id in room.runner.started] == ["held"]
        assert len(room.polls()) <= 6


# --- what others ask


async def test_refilling_only_while_polls_bring_as_many_as_asked(clock: Any) -> None:
    """True while more may come: a full answer and a free slot, a poll under way, or a task about to end."""
    room = Room(clock, slots=2, takes=10.0, pending=4, latency_s=1.0)
    scheduler = room.scheduler
    assert scheduler.refilling() is False
    async with room.working():
        await clock.sleep(0.5)
        assert scheduler.refilling() is False, "nothing is known of the source yet"
        await clock.sleep(2.0)
        assert (room.slots.free, scheduler.refilling()) == (0, False), "no slot is free"
        room.runner.settling = 1
        assert scheduler.refilling() is True, "a slot is about to be free"
        room.runner.settling = 0
        await clock.sleep(9.6)
        assert (room.slots.free, scheduler.refilling()) == (2, True), "a poll is under way"
        await clock.sleep(25.0)
        assert (room.slots.free, scheduler.refilling()) == (2, False), "the list is empty"


async def test_refilling_ends_with_a_hold_and_a_drain(clock: Any) -> None:
    async with Room(clock, slots=2, pending=100, latency_s=1.0).working() as room:
        await clock.sleep(5.0)
        room.hold_until = clock.monotonic() + 10.0
        await clock.sleep(5.0)
        assert (room.slots.free, room.scheduler.refilling()) == (2, False)
        await clock.sleep(7.0)
        room.scheduler.draining = True
        assert room.scheduler.refilling() is False


async def test_idle_means_that_a_poll_found_nothing_while_nothing_ran(clock: Any) -> None:
    """A list that was read while a task still ran says nothing about that task: it may have come back since."""
    room = Room(clock, slots=2, interval_s=10.0, latency_s=2.0, pending=["a"])
    room.runner.settles = lambda name: room.runner.ended.count(name) > 0
    seen: list[tuple[bool, int]] = []
    async with room.working():
        for _ in range(400):
            await clock.sleep(0.05)
            seen.append((room.scheduler.idle, len(room.source.pending)))
        assert room.runner.ended == ["a", "a"]
        assert (True, 0) in seen
        assert (True, 1) not in seen
        room.source.error = Unsent("refused")
        await clock.sleep(20.0)
        assert room.scheduler.idle is False, "a failed poll has seen nothing"


# --- life


async def test_it_ticks_while_all_slots_are_taken_for_an_hour(clock: Any) -> None:
    async with Room(clock, slots=1, takes=3_600.0, pending=["a"]).working() as room:
        assert max(await room.tick_ages(3_600)) <= 10.0
    assert len(room.polls()) == 1


async def test_it_ticks_while_idle_held_or_in_trouble(clock: Any) -> None:
    """Long pauses come in pieces."""
    async with Room(clock, interval_s=300.0).working() as room:
        assert max(await room.tick_ages(1_000)) <= 10.0
        room.hold_until = clock.monotonic() + 1_000.0
        assert max(await room.tick_ages(1_000)) <= 10.0
        room.source.error = Transient("503")
        assert max(await room.tick_ages(1_000)) <= 10.0


async def test_it_ticks_while_a_poll_takes_its_time_but_not_for_ever(clock: Any) -> None:
    """A slow API is no reason to restart us; a poll that never ends is."""
    async with Room(clock, latency_s=LONGEST_POLL_S - 10.0).working() as room:
        assert max(await room.tick_ages(int(2 * LONGEST_POLL_S))) <= 10.0
    async with Room(clock, latency_s=10_000.0).working() as room:
        ages = await room.tick_ages(int(LONGEST_POLL_S) + 100)
    assert max(ages[: int(LONGEST_POLL_S)]) <= 10.0
    assert ages[-1] >= 90.0


async def test_the_gauges_follow(clock: Any) -> None:
    async with Room(clock, slots=2, takes=10.0, pending=["a"]).working() as room:
        await clock.sleep(5.0)
        assert (room.metrics.value("slots"), room.metrics.value("tasks_in_flight")) == (2, 1)
        await clock.sleep(10.0)
        assert room.metrics.value("tasks_in_flight") == 0


# --- claims that end


async def test_nothing_is_paid_for_whose_start_cannot_be_written(clock: Any) -> None:
    """A journal that refuses sends the tasks back before they run; the attempts do not count."""
    room = Room(clock, pending=["a", "b"])
    room.journal.broken = True
    async with room.working():
        await clock.sleep(1.0)
        assert room.runner.started == []
        assert set(room.source.released) == {"a", "b"}
        room.journal.broken = False
        await clock.sleep(10.0)
    assert sorted(room.runner.ended) == ["a", "b"]


@pytest.mark.parametrize(("reason", "abandoned"), [("lost", []), ("cancelled", ["a"])])
async def test_a_revoked_task_stops_and_its_slot_is_free(clock: Any, reason: Any, abandoned: list[str]) -> None:
    """Lost, nothing is reported: somebody else does. Cancelled, that is the outcome."""
    async with Room(clock, slots=1, takes={"a": 1_000.0}, pending=["a", "b"]).working() as room:
        await clock.sleep(2.0)
        room.slots.revoke("a", reason)
        room.slots.revoke("unknown", reason)
        room.source.pending.remove("a")
        await clock.sleep(10.0)
    assert (room.runner.ended, room.runner.abandoned, room.slots.cut) == (["b"], abandoned, [])


async def test_a_heartbeat_renews_what_runs_and_what_waits(clock: Any) -> None:
    """Until the outcome is acknowledged; what is lost or cancelled is revoked, and an error renews nothing."""
    outbox, revoked, renewed = MemoryOutbox(2**30, clock), list[tuple[str, str]](), list[list[str]]()

    class Leases(StubSource):
        renew_every_s = 5.0
        error: Exception | None = None

        async def renew(self, receipts: Sequence[Receipt]) -> Sequence[Receipt]:
            renewed.append([receipt.id for receipt in receipts])
            if self.error:
                raise self.error
            return [receipt for receipt in receipts if receipt.id == "lost"]

        def cancelled(self) -> Sequence[Receipt]:
            return [Receipt("leases", "cancelled")]

    source, running = Leases(), [Receipt("leases", name) for name in ("a", "lost", "cancelled")]
    await outbox.put(record("waiting", "leases"))
    heartbeat = Heartbeat(
        source, outbox, running=lambda: running, revoke=lambda *what: revoked.append(what), clock=clock
    )
    async with at_work(heartbeat.run()):
        await clock.sleep(5.5)
        source.error = Transient("503")
        await clock.sleep(5.0)
    assert renewed == [["a", "lost", "cancelled", "waiting"]] * 2
    assert revoked == [("lost", "lost"), ("cancelled", "cancelled")]


@pytest.mark.parametrize("answer", [ValueError("a bug"), SystemExit(5), None, "strangers"])
async def test_a_heartbeat_survives_what_a_source_answers(clock: Any, answer: Any) -> None:
    """A bug in a source, or claims that are not ours, stop neither a task nor the daemon."""
    revoked = list[tuple[str, str]]()

    class Leases(StubSource):
        renew_every_s = 5.0

        async def renew(self, receipts: Sequence[Receipt]) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            others = [Receipt("others", "a", "1"), Receipt("leases", "a", "0"), Receipt("leases", "b", "1")]
            return None if answer is None else others

        def cancelled(self) -> Sequence[Receipt]:
            return [Receipt("others", "a"), Receipt("leases", "b")]

    heartbeat = Heartbeat(
        Leases(),
        MemoryOutbox(2**30, clock),
        running=lambda: [Receipt("leases", "a", "1")],
        revoke=lambda *what: revoked.append(what),
        clock=clock,
    )
    await heartbeat.beat()
    assert revoked == []


async def test_a_renewal_that_hangs_is_given_up(clock: Any, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says that nothing is renewed, and the next renewal comes."""
    monkeypatch.setattr(heartbeat_module, "LEAST_S", 0.02)
    answers = [asyncio.Event(), None]

    class Leases(StubSource):
        renew_every_s = 0.01

        async def renew(self, receipts: Sequence[Receipt]) -> Sequence[Receipt]:
            if hang := answers.pop(0):
                await hang.wait()
            return ()

    heartbeat = Heartbeat(Leases(), MemoryOutbox(2**30, clock), running=list, revoke=lambda *_: None, clock=clock)
    await heartbeat.beat()
    await heartbeat.beat()
    assert [(line["event"], line.get("reason")) for line in logs] == [
        ("claims.not_renewed", "no answer in time"),
        ("claims.renewed", None),
    ]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_source_that_does_not_wait_is_not_asked_without_end(
    clock: Any, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ``wait`` that returns at once, or raises, costs nothing but the wake-ups."""
    room = Room(clock, interval_s=30.0)

    async def wait(_: float) -> bool:
        if fails:
            raise ValueError("a bug")
        return False

    monkeypatch.setattr(room.source, "wait", wait)
    async with room.working():
        await clock.sleep(300.0)
        assert len(room.source.polls) < 25
        room.source.pending = ["a"]
        await clock.sleep(40.0)
        assert room.runner.ended == ["a"]


async def test_a_claim_that_comes_twice_is_not_released_while_it_runs(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To release it would give the running task away. The same task under another claim is released."""
    room = Room(clock)
    monkeypatch.setattr(room.admission, "starts", lambda task: "running" if task.id in room.slots.running else None)
    claim = Claim(Task(id="a", type="t", content=None), Receipt("aletheia", "a", "1"))
    async with asyncio.TaskGroup() as group:
        assert await room.slots.start(group, [claim, claim]) == 1
        assert room.source.released == []
        assert await room.slots.start(group, [Claim(claim.task, Receipt("aletheia", "a", "2"))]) == 0
    assert room.source.released == ["a"]


# --- control by operators


async def test_a_limited_type_leaves_the_other_slots_to_others(clock: Any) -> None:
    """A hundred limited tasks stand before the others: these start at once, and the limit is used to the full."""
    room = Room(clock, slots=4, limits={"l": 2}, takes={}, pending=[f"l{number}" for number in range(30)])
    room.runner.takes = lambda name: 10.0 if name[0] == "l" else 1.0
    room.source.pending += [f"a{number}" for number in range(20)]
    most = 0
    async with room.working():
        began = clock.monotonic()
        while len(room.runner.ended) < 50:
            await clock.sleep(0.25)
            most = max(most, room.slots.running.types["l"])
            if clock.monotonic() == began + 5.0:
                assert room.slots.running.types == {"l": 2, "a": 2}
    assert most == 2
    assert room.source.released == []
    # Two at a time of ten seconds each: a limited task that ends ends the pause before the next poll, too.
    assert clock.monotonic() - began == pytest.approx(150.0, abs=5.0)


@pytest.mark.parametrize(
    ("latency_s", "takes_s", "seconds", "ended"), [(0.001, 0.1, 10, 85), (1.0, 0.1, 120, 9), (1.0, 86.0, 3000, 31)]
)
async def test_a_long_list_is_not_read_for_each_task_that_waits_for_a_limit(
    clock: Any, latency_s: float, takes_s: float, seconds: float, ended: int
) -> None:
    """A freed slot of the type is filled at once where polls are short; long ones take a tenth of the time."""
    pending = [f"l{number}" for number in range(200)]
    room = Room(clock, slots=4, limits={"l": 1}, takes=takes_s, pending=pending, latency_s=latency_s)
    async with room.working():
        await clock.sleep(seconds)
    assert len(room.source.polls) * latency_s <= seconds / LIMITED_PAUSE + 1.0
    assert len(room.runner.ended) >= ended


async def test_a_wake_up_is_heard_while_tasks_wait_for_a_limit(clock: Any) -> None:
    """New tasks of other types need not wait for the end of that pause."""
    room = Room(clock, slots=4, limits={"l": 1}, takes=100.0, pending=["l1", "l2"], latency_s=1.0)
    async with room.working():
        await clock.sleep(5.0)
        room.source.pending.append("a1")
        called_at = room.call()
        await clock.sleep(2.0)
        started_at, name = room.runner.started[-1]
        assert (started_at, name) == (called_at + 1.0, "a1")


async def test_a_pause_lets_what_runs_end_and_nothing_begin(clock: Any) -> None:
    """Nor what was claimed by a poll under way; the poll loop stays alive; a resume takes effect at once."""
    async with Room(clock, slots=3, limits={}, pending=60, latency_s=0.4).working() as room:
        while (polled := len(room.source.polls)) < 4:
            await clock.sleep(0.05)
        ran, room.paused = len(room.runner.started), True
        assert max(await room.tick_ages(120)) <= TICK_S + 1.0
        assert (len(room.runner.started), len(room.runner.ended)) == (ran, ran)
        assert len(room.source.polls) == polled
        assert len(room.source.released) == 3, "the claims of the poll under way"
        room.paused, resumed_at = False, clock.monotonic()
        room.source.resume()
        await clock.sleep(2.0)
        assert room.runner.started[ran][0] <= resumed_at + PAUSED_LOOK_S + 0.5
