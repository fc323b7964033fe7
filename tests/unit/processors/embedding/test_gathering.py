"""Micro-batching in virtual time: who travels with whom, and who waits for whom."""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ai_task_processor.core.errors import CircuitOpen, InputRefused, ModelRefused, Transient
from ai_task_processor.models.task import Embedded, Usage
from ai_task_processor.processors.embedding import MAX_LANES
from ai_task_processor.processors.embedding.lane import GATHERING_S, GATHERING_SHARE, HALVED_FROM_S, LOOK_AGAIN_S
from ai_task_processor.providers.call_size import MAX_INPUTS, MAX_TOKENS
from tests.unit.conftest import FakeClock
from tests.unit.processors.embedding.house import EXAMPLES, House, errors, texts, vector


async def test_a_lone_task_leaves_at_once(house: House) -> None:
    """Nobody else on the way: the call starts in the same instant, and its vector and usage come back."""
    began_at = house.clock.monotonic()
    assert await house.embed("hello") == [Embedded(vector("hello"), Usage(5))]
    assert house.model.times == [began_at]


async def test_a_finished_call_leaves_nothing_behind(house: House) -> None:
    """No alarm outlives its call, and the lane rests."""
    await house.embed("usual")
    running = house.bring("running")
    await house.clock.sleep(0.1)
    waiting = house.bring("waiting")
    await house.clock.sleep(0.1)
    assert batcher_task("batch-alarm")
    await asyncio.wait([running, waiting])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not house.batcher._lanes["m"].served
    assert not batcher_task("batch-alarm")


async def test_a_batch_that_is_being_filled_and_a_share_are_named(house: House) -> None:
    """For ``why_idle``; nothing once the model has answered."""
    house.intake.refill = lambda: True
    house.model.takes_s = 5.0
    task = house.bring("a", "b")
    await house.clock.sleep(0.01)
    gathering = [(problem.when, problem.message) for problem in house.batcher.problems()]
    assert gathering == [("running", "a batch for the model m is being filled: 2 texts so far")]
    await house.clock.sleep(1.0)
    assert house.batcher.lane_hold_s("m", 16) > 0
    limited = [(problem.when, problem.message) for problem in house.batcher.problems()]
    assert limited == [("paused", "at most 16 of 64 slots are for the model m: it answers no calls yet")]
    await task
    assert house.batcher.lane_hold_s("m", 16) == 0
    assert house.batcher.problems() == []


async def test_tasks_that_come_together_travel_together(house: House) -> None:
    """What is there in the same turn is one call, and everyone gets the vector of their own text."""
    wanted = texts(100)
    answers = await house.embed(*wanted)
    assert house.model.sizes == [100]
    assert answers == [Embedded(vector(text), Usage(len(text))) for text in wanted]
    assert house.metrics.value("batch_size_sum", model="m") == 100


@pytest.mark.parametrize(
    ("slots", "rate", "sizes"),
    [(255, None, [255]), (256, None, [128, 128]), (301, None, [151, 150]), (300, 5.0, [300])],
)
async def test_a_large_house_goes_in_two_halves(house: House, slots: int, rate: float | None, sizes: list[int]) -> None:
    """While one half is at the model the other's slots are refilled: both calls leave at once. Under a limit of calls,
    a call carries as much as it can."""
    await house.embed("usual")
    house.intake.slots = slots
    if rate is not None:
        house.batcher._lanes["m"].calls.limiter._pace.rate = rate
    await house.embed(*texts(slots))
    assert house.model.sizes[1:] == sizes
    assert len(set(house.model.times[1:])) == 1


async def test_a_house_is_not_halved_for_a_model_that_answers_at_once(clock: FakeClock) -> None:
    """There is nothing to do meanwhile, and one call costs less than two."""
    async with House(clock, HALVED_FROM_S / 2).open() as house:
        house.intake.slots = 300
        for _ in range(2):
            await house.embed(*texts(300))
    assert house.model.sizes == [300, 300]


async def test_less_than_a_half_waits_for_the_call_under_way(house: House) -> None:
    """The second half leaves when it is full, a smaller rest when the first has come back."""
    await house.embed("usual")
    house.intake.slots = 256
    began_at = house.clock.monotonic()
    second, third = house.embed(*texts(100, "y"), after_s=0.25), house.embed(*texts(28, "z"), after_s=0.5)
    await asyncio.gather(house.embed(*texts(128)), second, third)
    assert house.model.sizes[1:] == [128, 128]
    assert house.model.times[1:] == [began_at, began_at + 0.5]
    await asyncio.gather(house.embed(*texts(128, "x")), house.embed(*texts(100, "y"), after_s=0.25))
    assert house.model.sizes[3:] == [128, 100]
    assert house.model.times[4] == pytest.approx(house.model.times[3] + 1.0, abs=0.11)


async def test_models_have_calls_of_their_own(house: House) -> None:
    await asyncio.gather(house.embed("a", model="m"), house.embed("b", model="n"))
    assert house.model.calls == [["a"], ["b"]]
    assert house.model.times[0] == house.model.times[1]


async def test_a_refill_on_its_way_is_waited_for(house: House) -> None:
    """While the intake says that more is coming, a batch waits for it, and leaves when all are there."""
    began_at = house.clock.monotonic()
    house.intake.refill = lambda: house.clock.monotonic() < began_at + 0.03
    await asyncio.gather(house.embed("early"), house.embed("late", after_s=0.02))
    assert house.model.calls == [["early", "late"]]
    assert house.model.times[0] == pytest.approx(began_at + 0.03, abs=0.002)


async def test_a_batch_that_waits_is_rarely_woken(house: House) -> None:
    """Five ticks of a refill that brings 40 texts hardly wake the lane, and the last text wakes it at once."""
    house.intake.refill = lambda: len(house.batcher._lanes["m"]._queue) < 41
    early = house.bring("early")
    await house.clock.sleep(0.003)
    wakes = 0
    lane = house.batcher._lanes["m"]
    expects = lane._expects

    def counted() -> bool:
        nonlocal wakes
        wakes += asyncio.current_task() is batcher_task("batch-lane")
        return expects()

    lane._expects = counted  # type: ignore[method-assign]
    late = []
    for tick in range(5):
        await house.clock.sleep(LOOK_AGAIN_S)
        late += [house.bring(text) for text in texts(8, f"{tick}-")]
    arrived_at = house.clock.monotonic()
    await asyncio.gather(early, *late)
    assert house.model.sizes == [41]
    assert house.model.times == [arrived_at]
    assert wakes <= 8


@pytest.mark.parametrize("answers", [[True, True, False, True], [True, False, True, False, True], [False, True]])
async def test_no_wake_up_is_lost_while_the_intake_changes_its_mind(house: House, answers: list[bool]) -> None:
    """Whatever the intake answers, and in whatever order, a text leaves when the longest gathering is over."""
    left = iter(answers)
    house.intake.refill = lambda: next(left, True)
    began_at = house.clock.monotonic()
    await house.embed("a")
    assert house.model.times[0] - began_at <= GATHERING_S + 0.001


def batcher_task(name: str) -> asyncio.Task[Any] | None:
    return next((task for task in asyncio.all_tasks() if task.get_name() == name), None)


@pytest.mark.parametrize(("takes_s", "longest_s"), [(0.0, GATHERING_S), (0.1, GATHERING_S), (10.0, 1.0)])
async def test_nobody_waits_long_for_a_refill(clock: FakeClock, takes_s: float, longest_s: float) -> None:
    """A refill that never comes costs 50 ms, or a tenth of the usual call when that is more."""
    async with House(clock, takes_s).open() as house:
        for _ in range(30):
            await house.embed("usual")
            await clock.sleep(longest_s)
        house.intake.refill = lambda: True
        began_at = clock.monotonic()
        await house.embed("waiting")
    assert house.model.times[-1] - began_at == pytest.approx(longest_s, abs=0.002)


async def test_a_full_batch_waits_for_nobody(house: House) -> None:
    house.intake.refill = lambda: True
    began_at = house.clock.monotonic()
    await house.embed(*texts(MAX_INPUTS))
    assert house.model.times == [began_at]


async def test_tasks_wait_while_a_call_is_running(house: House) -> None:
    """One call at a time: what arrives meanwhile is the next batch."""
    async with asyncio.TaskGroup() as group:
        for text in texts(9):
            group.create_task(house.embed(text))
            await house.clock.sleep(0.1)
    assert house.model.calls == [["t0"], texts(9)[1:]]
    assert house.model.most_running == 1


# --- the limits of one call


HALF, REST, LARGE = "é" * (MAX_TOKENS // 4), "x" * (MAX_TOKENS // 2), "x" * (MAX_TOKENS + 1)
MANY = texts(MAX_INPUTS + 1)


@pytest.mark.parametrize(
    ("brought", "calls"),
    [
        pytest.param(MANY, [MANY[:-1], MANY[-1:]], id="2,048 inputs, then the next call, oldest first"),
        pytest.param([HALF, REST, "y"], [[HALF, REST], ["y"]], id="300,000 bytes of UTF-8 exactly"),
        pytest.param(["a", LARGE, "b"], [["a"], [LARGE], ["b"]], id="a text that only the provider judges goes alone"),
        pytest.param(["a", "\ud800", "b"], [["a", "b"]], id="half a surrogate is refused before it is sent"),
        pytest.param(["a", "b", "a", "a"], [["a", "b"]], id="equal texts share one input"),
    ],
)
async def test_what_one_call_holds(house: House, brought: list[str], calls: list[list[str]]) -> None:
    """Each text is in one call, and everybody who brought it has its vector."""
    answers = await house.embed(*brought)
    assert house.model.calls == calls
    for text, answer in zip(brought, answers, strict=True):
        if text == "\ud800":
            assert isinstance(answer, InputRefused)
        else:
            assert answer == Embedded(vector(text), Usage(len(text.encode())))


async def test_ten_thousand_texts_are_quick(clock: FakeClock) -> None:
    """However many calls they need, the work is proportional to the texts."""
    async with House(clock, takes_s=0.0).open() as house:
        few, many = [f"{n:05}" * 6_000 for n in range(500)], texts(10_000)
        started_at = time.process_time()
        await house.embed(*many)
        assert sum(house.model.sizes) == 10_000
        await house.embed(*few)
        assert house.model.sizes[5:] == [10] * 50
    assert time.process_time() - started_at < 3


# --- a house that refills


@dataclass
class Shop:
    """``slots`` tasks at a time, taken from an endless list by one claim at a time; a plain copy of the scheduler."""

    _house: House
    _slots: int
    _claim_s: float
    _settle_s: float
    _rng: random.Random
    _running = _left = 0
    _claiming = False

    def __post_init__(self) -> None:
        self._freed = asyncio.Event()
        self._house.intake.refill = lambda: self._left > 0 and (self._claiming or self._running < self._slots)

    async def work_off(self, tasks: int) -> None:
        self._left = tasks
        async with asyncio.TaskGroup() as group:
            while self._left:
                while self._running == self._slots:
                    self._freed.clear()
                    await self._freed.wait()
                wanted = min(self._slots - self._running, self._left)
                self._claiming = True
                await self._house.clock.sleep(self._claim_s * self._rng.uniform(0.9, 1.1))
                self._claiming = False
                for _ in range(wanted):
                    group.create_task(self._task(f"t{self._left}"))
                    self._running += 1
                    self._left -= 1

    async def _task(self, text: str) -> None:
        try:
            await self._house.batcher.embed(text, "m")
            await self._house.clock.sleep(self._rng.uniform(0, self._settle_s))
        finally:
            self._running -= 1
            self._freed.set()


@pytest.mark.parametrize("slots", [5, 32, 256])
@pytest.mark.parametrize(
    ("call_s", "claim_s", "settle_s"),
    [
        (0.05, 0.001, 0.0),
        (0.05, 0.3, 0.0),
        (0.3, 0.001, 0.02),
        (0.3, 0.02, 0.02),
        (0.3, 0.15, 0.0),
        (1.0, 0.04, 0.02),
        (5.0, 0.2, 0.02),
        (5.0, 0.2, 0.1),
    ],
)
async def test_a_refilled_house_leaves_full(
    clock: FakeClock, slots: int, call_s: float, claim_s: float, settle_s: float
) -> None:
    """Model calls stay below 1.5 x tasks / slots + 5, with slots refilled one by one and work that jitters."""
    rng = random.Random(1)
    async with House(clock, call_s).open() as house:
        await Shop(house, slots, claim_s, settle_s, rng).work_off(20 * slots)
    assert sum(house.model.sizes) == 20 * slots
    assert len(house.model.calls) <= 1.5 * 20 + 5


@settings(EXAMPLES, max_examples=30)
@given(data=st.data())
async def test_no_task_is_held_back_for_long(data: st.DataObject) -> None:
    """A free model is never kept waiting for more than the gathering allows while somebody wants it."""
    arrivals = data.draw(st.lists(st.floats(0, 3), min_size=1, max_size=30))
    call_s = data.draw(st.sampled_from([0.01, 0.3, 4.0]))
    async with House(FakeClock(), call_s).open() as house:
        await house.embed("usual")
        house.intake.refill = lambda: True
        began_at = house.clock.monotonic()

        async def arrive(n: int, after_s: float) -> None:
            await house.clock.sleep(after_s)
            await house.batcher.embed(f"t{n}", "m")

        async with asyncio.TaskGroup() as group:
            for n, after_s in enumerate(arrivals):
                group.create_task(arrive(n, after_s))
        at = {text: time for call, time in zip(house.model.calls, house.model.times, strict=True) for text in call}
        ends = [time + call_s for time in house.model.times]
        longest_s = max(GATHERING_S, GATHERING_SHARE * call_s) + 0.01
        for n, after_s in enumerate(arrivals):
            left_at = at[f"t{n}"]
            may_start_at = max([began_at + after_s, *(end for end in ends if end <= left_at + 1e-9)])
            assert left_at - may_start_at <= longest_s


# --- who waits for whom


async def test_a_hung_call_holds_its_own_batch_only(house: House) -> None:
    """After a second the next call may start, and what hangs harms nobody else."""
    house.model.hanging = {"hang"}
    stuck = house.bring("hang")
    await house.clock.sleep(0.1)
    began_at = house.clock.monotonic()
    await house.embed("a")
    assert house.clock.monotonic() - began_at < 2.0
    for text in texts(5):
        await house.embed(text)
    assert not stuck.done()


async def test_at_most_four_calls_hang_at_once(house: House) -> None:
    house.model.hanging = set(texts(9))
    for text in texts(9):
        house.bring(text)
        await house.clock.sleep(10)
    await house.clock.sleep(90)
    assert house.model.most_running == len(house.model.calls) == 4


async def test_a_hung_model_serves_again_as_soon_as_it_can(house: House) -> None:
    """An old hung call does not count once a younger one came back: the next call starts at once."""
    house.model.hanging = {"hang"}
    house.bring("hang")
    await house.clock.sleep(1.5)
    await house.embed("a")
    began_at = house.clock.monotonic()
    await house.embed("b")
    assert house.clock.monotonic() - began_at == pytest.approx(1.0)


async def test_a_hung_call_does_not_split_the_batches_of_the_others(house: House) -> None:
    """Beside it there is still one call at a time: what arrives while a healthy one is running travels together."""
    house.model.hanging = {"hang"}
    house.bring("hang")
    await house.clock.sleep(1.5)
    async with asyncio.TaskGroup() as group:
        for text in texts(9):
            group.create_task(house.embed(text))
            await house.clock.sleep(0.1)
    assert house.model.calls == [["hang"], ["t0"], texts(9)[1:]]


async def test_a_usually_slow_model_is_not_abnormally_slow(clock: FakeClock) -> None:
    """Slow means three times the usual: a model that always takes ten seconds gets one call at a time."""
    async with House(clock, takes_s=10.0).open() as house:
        await house.embed("first")
        first = house.bring("a")
        await clock.sleep(5)
        await house.embed("b")
        await first
    assert house.model.most_running == 1


async def test_failures_do_not_teach_what_is_usual(house: House) -> None:
    """A call that hung for a minute and failed does not make the next hang last longer."""
    await house.embed("usual")
    house.model.takes_s, house.model.error = 60.0, Transient("down")
    await house.embed("failing")
    house.model.takes_s, house.model.error = 1.0, None
    await house.embed("well again")
    house.model.hanging = {"hang"}
    house.bring("hang")
    await house.clock.sleep(0.1)
    began_at = house.clock.monotonic()
    await house.embed("a")
    assert house.clock.monotonic() - began_at < 4.5


async def test_a_text_that_nobody_waits_for_is_not_sent(house: House) -> None:
    """When all who brought a text have gone, it is dropped; while one of them waits, it is sent."""
    running = house.bring("running")
    await house.clock.sleep(0.1)
    gone = [asyncio.create_task(house.batcher.embed(text, "m")) for text in ("gone", "gone", "shared")]
    kept = house.bring("kept", "shared")
    await house.clock.sleep(0.1)
    for task in gone:
        task.cancel()
    await asyncio.gather(running, kept)
    assert house.model.calls == [["running"], ["shared", "kept"]]


async def test_a_batch_that_everybody_left_is_not_sent(house: House) -> None:
    running = house.bring("running")
    await house.clock.sleep(0.1)
    gone = asyncio.create_task(house.batcher.embed("gone", "m"))
    await house.clock.sleep(0.1)
    gone.cancel()
    await running
    await house.embed("next")
    assert house.model.calls == [["running"], ["next"]]
    lane = house.batcher._lanes["m"]
    assert (len(lane.texts), lane.waiting) == (0, 0)


# --- the end, and bounds


async def test_the_end_sends_everyone_away(clock: FakeClock) -> None:
    """Cancelled, it leaves no task behind, and whoever still waits or comes later is told."""
    before = asyncio.all_tasks()
    house = House(clock)
    async with house.open():
        house.model.hanging = {"hang"}
        waiting = [asyncio.create_task(house.embed(text)) for text in ("hang", "queued")]
        await clock.sleep(0.5)
        waiting.append(asyncio.create_task(house.embed("just come")))
        await asyncio.sleep(0)
    assert [errors(await task) for task in waiting] == [[Transient]] * 3
    assert errors(await house.embed("late")) == [Transient]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("turns", range(6))
async def test_the_end_may_come_at_any_turn(clock: FakeClock, turns: int) -> None:
    """Whenever the end comes while a batch is being formed and sent, its text does not wait for ever."""
    house = House(clock)
    async with house.open():
        waiting = asyncio.create_task(house.embed("a"))
        for _ in range(turns):
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert errors(await waiting) == [Transient]


async def test_hostile_model_names_take_bounded_room(house: House) -> None:
    """A thousand names leave a few hundred lanes, and the one in use is not forgotten."""
    house.model.error = ModelRefused("the provider does not know this model")
    with capture_logs():
        await house.embed("a", model="genuine")
        lane = house.batcher._lanes["genuine"]
        for n in range(1_000):
            assert errors(await house.embed("a", model=f"hostile{n}")) == [CircuitOpen]
            if n % 100 == 0:
                await house.embed("a", model="genuine")
    assert len(house.batcher._lanes) <= MAX_LANES
    assert house.batcher._lanes["genuine"] is lane


async def test_too_many_models_at_once_have_to_wait(house: House) -> None:
    """While every lane is busy, a further model is told to come back."""
    busy = [house.bring("a", model=f"m{n}") for n in range(MAX_LANES)]
    await asyncio.sleep(0)
    (error,) = await house.embed("a", model="one more")
    assert isinstance(error, CircuitOpen)
    assert error.retry_after_s == 1.0
    assert [errors(await task) for task in busy] == [[Embedded]] * MAX_LANES
    assert errors(await house.embed("a", model="one more")) == [Embedded]
