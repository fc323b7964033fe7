"""Micro-batching in virtual time: who travels with whom, who waits for whom, and who is to blame."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ai_task_processor.batching import (
    FIRST_PAUSE_S,
    GATHERING_S,
    GATHERING_SHARE,
    HALVED_FROM_S,
    LONGEST_PAUSE_S,
    LOOK_AGAIN_S,
    MAX_INPUTS,
    MAX_LANES,
    MAX_TOKENS,
    Attempt,
    Embedded,
    MicroBatcher,
)
from ai_task_processor.errors import (
    Ambiguous,
    CircuitOpen,
    InputRefused,
    InvalidAnswer,
    ModelRefused,
    NeighbourError,
    Throttled,
    Transient,
)
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Usage, Vector
from ai_task_processor.pacing import DECREASE, LONGEST_WAIT_S, RISE
from ai_task_processor.ports import Allowance, Clock, Embeddings, RateLimits
from ai_task_processor.vector_cache import VectorCache

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

#: the fixture only lends its class: every example makes a clock of its own
EXAMPLES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REFUSED = InputRefused("input_refused", "the model refuses this text")


def vector(text: str) -> Vector:
    """Every text has its own, so that a mix-up shows."""
    return Vector(text.encode("utf-32-le")[:64])


class Model:
    """One call takes ``takes_s``; calls with a text in ``culprits`` are refused, and with one in ``hanging`` hang.

    ``limits`` are told with every answer; one token is charged for each byte.
    """

    def __init__(self, clock: Clock, takes_s: float = 1.0) -> None:
        self.clock = clock
        self.takes_s = takes_s
        self.culprits: set[str] = set()
        self.hanging: set[str] = set()
        self.error: Exception | None = None
        self.limits: Callable[[], RateLimits] = RateLimits
        self.calls: list[list[str]] = []
        self.times: list[float] = []
        self.running = self.most_running = 0

    async def __call__(self, texts: Sequence[str], model: str) -> Embeddings:
        self.calls.append(list(texts))
        self.times.append(self.clock.monotonic())
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            if self.hanging & set(texts):
                await asyncio.Event().wait()
            if self.takes_s:
                await self.clock.sleep(self.takes_s)
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        if self.culprits & set(texts):
            raise REFUSED
        usage = Usage(sum(len(text.encode()) for text in texts))
        return Embeddings([vector(text) for text in texts], usage, self.limits())

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


class Intake:
    """Says whether more tasks are on their way; ``refill`` may be a question."""

    def __init__(self) -> None:
        self.slots = 64
        self.refill: Callable[[], bool] = lambda: False

    def refilling(self) -> bool:
        return self.refill()


class House:
    """A running batcher with its model and intake, and a cache if it is given one."""

    def __init__(self, clock: Clock, takes_s: float = 1.0, cache: VectorCache | None = None) -> None:
        self.clock = clock
        self.model = Model(clock, takes_s)
        self.intake = Intake()
        self.metrics = Metrics(version="1", provider="mock", models=["m"])
        self.batcher = MicroBatcher(
            self.model, cache=cache, hold_s=lambda: 0.0, intake=self.intake, clock=clock, metrics=self.metrics
        )

    async def embed(self, *texts: str, model: str = "m") -> list[Embedded | BaseException]:
        """What becomes of these texts, brought at the same time."""
        return await asyncio.gather(*(self.batcher.embed(text, model) for text in texts), return_exceptions=True)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["House"]:
        running = asyncio.create_task(self.batcher.run())
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()


@pytest.fixture
async def house(clock: "FakeClock") -> AsyncIterator[House]:
    async with House(clock).open() as opened:
        yield opened


def texts(count: int, name: str = "t") -> list[str]:
    return [f"{name}{n}" for n in range(count)]


def errors(answers: Iterable[Embedded | BaseException]) -> list[type]:
    return [type(answer) for answer in answers]


# --- who travels with whom


async def test_a_lone_task_leaves_at_once(house: House) -> None:
    """Nobody else on the way: the call starts in the same instant, and its vector and usage come back."""
    began_at = house.clock.monotonic()
    assert await house.embed("hello") == [Embedded(vector("hello"), Usage(5))]
    assert house.model.times == [began_at]


async def test_a_finished_call_leaves_nothing_behind(house: House) -> None:
    """No alarm outlives its call, and the lane rests."""
    await house.embed("usual")
    running = asyncio.create_task(house.embed("running"))
    await house.clock.sleep(0.1)
    waiting = asyncio.create_task(house.embed("waiting"))
    await house.clock.sleep(0.1)
    assert batcher_task("slow-call-alarm")
    await asyncio.wait([running, waiting])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not house.batcher._lanes["m"].served
    assert not batcher_task("slow-call-alarm")


async def test_tasks_that_come_together_travel_together(house: House) -> None:
    """What is there in the same turn is one call, and everyone gets the vector of their own text."""
    wanted = texts(100)
    answers = await house.embed(*wanted)
    assert house.model.sizes == [100]
    assert answers == [Embedded(vector(text), Usage(len(text))) for text in wanted]
    assert house.metrics.value("batch_size_sum", model="m") == 100


@pytest.mark.parametrize(("slots", "sizes"), [(255, [255]), (256, [128, 128]), (301, [151, 150])])
async def test_a_large_house_goes_in_two_halves(house: House, slots: int, sizes: list[int]) -> None:
    """While one half is at the model the other's slots are refilled: both calls leave at once."""
    await house.embed("usual")
    house.intake.slots = slots
    await house.embed(*texts(slots))
    assert house.model.sizes[1:] == sizes
    assert len(set(house.model.times[1:])) == 1


async def test_a_house_is_not_halved_while_calls_are_short(house: House) -> None:
    """After a 429, or when few requests are left, a call carries as much as it can."""
    house.intake.slots = 300
    house.model.error = Throttled("429", status=429)
    await house.embed("usual")
    house.model.error = None
    await house.embed(*texts(300))
    assert house.model.sizes == [1, 300]
    house.model.limits = lambda: RateLimits(Allowance(100, 10, 30.0))
    await house.clock.sleep(100)
    await house.embed("free again")
    await house.embed(*texts(300))
    assert house.model.sizes == [1, 300, 1, 300]


async def test_a_house_is_not_halved_for_a_model_that_answers_at_once(clock: "FakeClock") -> None:
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

    async def later(delay_s: float, count: int) -> None:
        await house.clock.sleep(delay_s)
        await house.embed(*texts(count, f"{delay_s}-"))

    await asyncio.gather(house.embed(*texts(128)), later(0.25, 100), later(0.5, 28))
    assert house.model.sizes[1:] == [128, 128]
    assert house.model.times[1:] == [began_at, began_at + 0.5]
    await asyncio.gather(house.embed(*texts(128, "x")), later(0.25, 100))
    assert house.model.sizes[3:] == [128, 100]
    assert house.model.times[4] == pytest.approx(house.model.times[3] + 1.0, abs=0.11)


async def test_equal_texts_share_one_input(house: House) -> None:
    """A text that three tasks bring is sent once, and answered three times."""
    answers = await house.embed("a", "b", "a", "a")
    assert house.model.calls == [["a", "b"]]
    assert answers[0] == answers[2] == answers[3] == Embedded(vector("a"), Usage(1))


async def test_models_have_calls_of_their_own(house: House) -> None:
    """Texts for two models are two calls, at the same time."""
    await asyncio.gather(house.embed("a", model="m"), house.embed("b", model="n"))
    assert house.model.calls == [["a"], ["b"]]
    assert house.model.times[0] == house.model.times[1]


async def test_a_refill_on_its_way_is_waited_for(house: House) -> None:
    """While the intake says that more is coming, a batch waits for it, and leaves when all are there."""
    began_at = house.clock.monotonic()
    house.intake.refill = lambda: house.clock.monotonic() < began_at + 0.03

    async def late() -> None:
        await house.clock.sleep(0.02)
        await house.embed("late")

    await asyncio.gather(house.embed("early"), late())
    assert house.model.calls == [["early", "late"]]
    assert house.model.times[0] == pytest.approx(began_at + 0.03, abs=0.002)


async def test_a_batch_that_waits_is_rarely_woken(house: House) -> None:
    """Five ticks of a refill that brings 40 texts cost five wake-ups, and the last one comes at once."""
    house.intake.refill = lambda: len(house.batcher._lanes["m"].queue) < 41
    early = asyncio.create_task(house.embed("early"))
    await house.clock.sleep(0.003)
    wakes = 0
    expects = house.batcher._expects

    def counted(lane: Any) -> bool:
        nonlocal wakes
        wakes += asyncio.current_task() in (batcher_task("batch-lane"), batcher_task("gathering-end"))
        return expects(lane)

    house.batcher._expects = counted  # type: ignore[method-assign]
    late = []
    for tick in range(5):
        await house.clock.sleep(LOOK_AGAIN_S)
        late += [asyncio.create_task(house.embed(text)) for text in texts(8, f"{tick}-")]
    arrived_at = house.clock.monotonic()
    await asyncio.gather(early, *late)
    assert house.model.sizes == [41]
    assert house.model.times == [arrived_at]
    assert wakes <= 8


def batcher_task(name: str) -> asyncio.Task[Any] | None:
    return next((task for task in asyncio.all_tasks() if task.get_name() == name), None)


@pytest.mark.parametrize(("takes_s", "longest_s"), [(0.0, GATHERING_S), (0.1, GATHERING_S), (10.0, 1.0)])
async def test_nobody_waits_long_for_a_refill(clock: "FakeClock", takes_s: float, longest_s: float) -> None:
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
    """With as many texts as a call can hold there is nothing to wait for."""
    house.intake.refill = lambda: True
    began_at = house.clock.monotonic()
    await house.embed(*texts(MAX_INPUTS))
    assert house.model.times == [began_at]


async def test_tasks_wait_while_a_call_is_running(house: House) -> None:
    """One call at a time: what arrives meanwhile is the next batch."""

    async def stream() -> None:
        async with asyncio.TaskGroup() as group:
            for text in texts(9):
                group.create_task(house.embed(text))
                await house.clock.sleep(0.1)

    await stream()
    assert house.model.calls == [["t0"], texts(9)[1:]]
    assert house.model.most_running == 1


# --- the limits of one call


async def test_a_call_holds_a_limited_number_of_inputs(house: House) -> None:
    """2,048 inputs, then the next call; oldest first."""
    wanted = texts(MAX_INPUTS + 1)
    await house.embed(*wanted)
    assert house.model.calls == [wanted[:-1], wanted[-1:]]


async def test_a_call_holds_a_limited_number_of_bytes(house: House) -> None:
    """300,000 bytes of UTF-8, exactly; a multi-byte character counts as what it is."""
    half, rest = "é" * (MAX_TOKENS // 4), "x" * (MAX_TOKENS // 2)
    await house.embed(half, rest, "y")
    assert house.model.calls == [[half, rest], ["y"]]


async def test_an_over_long_text_goes_alone(house: House) -> None:
    """Only the provider judges a text too long: it travels by itself and delays nobody for good."""
    large = "x" * (MAX_TOKENS + 1)
    await house.embed("a", large, "b")
    assert house.model.calls == [["a"], [large], ["b"]]


async def test_a_text_that_cannot_be_sent_stays_behind(house: House) -> None:
    """Half a surrogate is refused before it could spoil the call of others."""
    answers = await house.embed("a", "\ud800", "b")
    assert errors(answers) == [Embedded, InputRefused, Embedded]
    assert house.model.calls == [["a", "b"]]


async def test_ten_thousand_texts_are_quick(clock: "FakeClock") -> None:
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


class Shop:
    """``slots`` tasks at a time, taken from an endless list by one claim at a time; a plain copy of the scheduler."""

    def __init__(self, house: House, slots: int, claim_s: float, settle_s: float, rng: random.Random) -> None:
        self._house = house
        self._slots = slots
        self._claim_s = claim_s
        self._settle_s = settle_s
        self._rng = rng
        self._running = self._started = self._finished = 0
        self._claiming = False
        self._freed = asyncio.Event()
        self._left = 0
        house.intake.refill = self._refilling

    def _refilling(self) -> bool:
        return self._left > 0 and (self._claiming or self._running < self._slots)

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
    clock: "FakeClock", slots: int, call_s: float, claim_s: float, settle_s: float
) -> None:
    """Model calls stay below 1.5 x tasks / slots + 5, with slots refilled one by one and work that jitters."""
    rng = random.Random(1)
    async with House(clock, call_s).open() as house:
        await Shop(house, slots, claim_s, settle_s, rng).work_off(20 * slots)
    assert sum(house.model.sizes) == 20 * slots
    assert len(house.model.calls) <= 1.5 * 20 + 5


@settings(EXAMPLES, max_examples=30)
@given(data=st.data())
def test_no_task_is_held_back_for_long(clock: "FakeClock", data: st.DataObject) -> None:
    """A free model is never kept waiting for more than the gathering allows while somebody wants it."""
    arrivals = data.draw(st.lists(st.floats(0, 3), min_size=1, max_size=30))
    call_s = data.draw(st.sampled_from([0.01, 0.3, 4.0]))

    async def play(clock: "FakeClock") -> None:
        async with House(clock, call_s).open() as house:
            await house.embed("usual")
            house.intake.refill = lambda: True
            began_at = clock.monotonic()

            async def arrive(n: int, after_s: float) -> None:
                await clock.sleep(after_s)
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

    asyncio.run(play(type(clock)()))


# --- who waits for whom


async def test_a_hung_call_holds_its_own_batch_only(house: House) -> None:
    """After a second the next call may start, and what hangs harms nobody else."""
    house.model.hanging = {"hang"}
    stuck = asyncio.create_task(house.embed("hang"))
    await house.clock.sleep(0.1)
    began_at = house.clock.monotonic()
    await house.embed("a")
    assert house.clock.monotonic() - began_at < 2.0
    for text in texts(5):
        await house.embed(text)
    assert not stuck.done()
    stuck.cancel()
    await asyncio.wait([stuck])


async def test_at_most_four_calls_hang_at_once(house: House) -> None:
    """When everything hangs, four calls are open, and no more."""
    house.model.hanging = set(texts(9))
    stuck = [asyncio.create_task(house.embed(text)) for text in texts(1)]
    for text in texts(9)[1:]:
        await house.clock.sleep(10)
        stuck.append(asyncio.create_task(house.embed(text)))
    await house.clock.sleep(100)
    assert house.model.most_running == len(house.model.calls) == 4
    for task in stuck:
        task.cancel()
    await asyncio.wait(stuck)


async def test_a_hung_model_serves_again_as_soon_as_it_can(house: House) -> None:
    """An old hung call does not count once a younger one came back: the next call starts at once."""
    house.model.hanging = {"hang"}
    stuck = asyncio.create_task(house.embed("hang"))
    await house.clock.sleep(1.5)
    await house.embed("a")
    began_at = house.clock.monotonic()
    await house.embed("b")
    assert house.clock.monotonic() - began_at == pytest.approx(1.0)
    stuck.cancel()
    await asyncio.wait([stuck])


async def test_a_hung_call_does_not_split_the_batches_of_the_others(house: House) -> None:
    """Beside it there is still one call at a time: what arrives while a healthy one is running travels together."""
    house.model.hanging = {"hang"}
    stuck = asyncio.create_task(house.embed("hang"))
    await house.clock.sleep(1.5)
    others = []
    for text in texts(9):
        others.append(asyncio.create_task(house.embed(text)))
        await house.clock.sleep(0.1)
    await asyncio.wait(others)
    assert house.model.calls == [["hang"], ["t0"], texts(9)[1:]]
    stuck.cancel()
    await asyncio.wait([stuck])


async def test_a_usually_slow_model_is_not_abnormally_slow(clock: "FakeClock") -> None:
    """Slow means three times the usual: a model that always takes ten seconds gets one call at a time."""
    async with House(clock, takes_s=10.0).open() as house:
        await house.embed("first")
        first = asyncio.create_task(house.embed("a"))
        await clock.sleep(5)
        await house.embed("b")
        await first
    assert house.model.most_running == 1


async def test_failures_do_not_teach_what_is_usual(house: House) -> None:
    """A call that hung for a minute and failed does not make the next hang last longer."""
    await house.embed("usual")
    house.model.takes_s, house.model.error = 60.0, Transient("down")
    await house.embed("failing")
    house.model.takes_s, house.model.error, house.model.hanging = 1.0, None, {"hang"}
    stuck = asyncio.create_task(house.embed("hang"))
    await house.clock.sleep(0.1)
    began_at = house.clock.monotonic()
    await house.embed("a")
    assert house.clock.monotonic() - began_at < 4.5
    stuck.cancel()
    await asyncio.wait([stuck])


async def test_a_text_that_nobody_waits_for_is_not_sent(house: House) -> None:
    """When all who brought a text have gone, it is dropped; while one of them waits, it is sent."""
    running = asyncio.create_task(house.embed("running"))
    await house.clock.sleep(0.1)
    gone = [asyncio.create_task(house.batcher.embed(text, "m")) for text in ("gone", "gone", "shared")]
    kept = asyncio.create_task(house.embed("kept", "shared"))
    await house.clock.sleep(0.1)
    for task in gone:
        task.cancel()
    await asyncio.gather(running, kept)
    assert house.model.calls == [["running"], ["shared", "kept"]]


async def test_a_batch_that_everybody_left_is_not_sent(house: House) -> None:
    """With nobody left there is no call at all."""
    running = asyncio.create_task(house.embed("running"))
    await house.clock.sleep(0.1)
    gone = asyncio.create_task(house.batcher.embed("gone", "m"))
    await house.clock.sleep(0.1)
    gone.cancel()
    await running
    await house.embed("next")
    assert house.model.calls == [["running"], ["next"]]
    lane = house.batcher._lanes["m"]
    assert (lane.texts, list(lane.queue)) == ({}, [])


# --- who is to blame


@settings(EXAMPLES, max_examples=40)
@given(size=st.integers(2, 40), data=st.data())
def test_bisection_finds_exactly_the_culprits(clock: "FakeClock", size: int, data: st.DataObject) -> None:
    """Any set of refused texts but all of them: each is refused, all others are served, in few calls."""
    wanted = texts(size)
    culprits = data.draw(st.sets(st.sampled_from(wanted), min_size=1, max_size=size - 1))

    async def play(clock: "FakeClock") -> None:
        async with House(clock).open() as house:
            house.model.culprits = culprits
            answers = await house.embed(*wanted)
            for text, answer in zip(wanted, answers, strict=True):
                assert type(answer) is (InputRefused if text in culprits else Embedded)
                if isinstance(answer, Embedded):
                    assert answer.vector == vector(text)
            levels = (size - 1).bit_length()
            assert len(house.model.calls) <= min(2 * size - 1, 1 + 2 * levels * len(culprits))
            served = Counter(text for call in house.model.calls if not culprits & set(call) for text in call)
            assert set(served.values()) <= {1}, "nobody is paid for twice"
            splits = sum(len(call) > 1 and bool(culprits & set(call)) for call in house.model.calls)
            assert house.metrics.value("batch_isolations_total") == splits

    asyncio.run(play(type(clock)()))


async def test_nobody_is_blamed_or_asked_for_after_leaving(house: House) -> None:
    """While a batch is bisected, those whose tasks have gone are left out of the calls that follow."""
    house.model.culprits = {"bad"}
    tasks = {text: asyncio.create_task(house.batcher.embed(text, "m")) for text in ("a", "b", "c", "bad")}
    await house.clock.sleep(0.5)
    for text in ("a", "b"):
        tasks[text].cancel()
    await asyncio.wait(tasks.values())
    assert house.model.calls == [["a", "b", "c", "bad"], ["c", "bad"], ["c"], ["bad"]]
    assert isinstance(tasks["bad"].exception(), InputRefused)


async def test_a_trickle_is_not_held_back(house: House) -> None:
    """After a burst has gone, lone tasks that follow each other closely leave at once."""
    await house.embed(*texts(9))
    await house.clock.sleep(1)
    for text in texts(5, "lone"):
        began_at = house.clock.monotonic()
        await house.embed(text)
        assert house.model.times[-1] == began_at
        await house.clock.sleep(0.01)


async def test_a_lone_culprit_is_refused(house: House) -> None:
    """One refused text by itself is at fault itself."""
    house.model.culprits = {"bad"}
    assert errors(await house.embed("bad")) == [InputRefused]
    assert errors(await house.embed("good")) == [Embedded]


async def test_when_all_are_refused_the_model_pauses(house: House) -> None:
    """Nothing but culprits: the request is at fault. Nobody fails, everyone is told when to come back."""
    house.model.culprits = {"a", "b", "c"}
    with capture_logs() as lines:
        answers = await house.embed("a", "b", "c")
    assert errors(answers) == [CircuitOpen] * 3
    assert [answer.retry_after_s for answer in answers if isinstance(answer, CircuitOpen)] == [FIRST_PAUSE_S] * 3
    assert [line["event"] for line in lines] == ["neighbour.paused"]
    assert list(house.batcher.troubles()) == ["m"]
    calls = len(house.model.calls)
    await house.clock.sleep(4)
    (error,) = await house.embed("d")
    assert isinstance(error, CircuitOpen)
    assert error.retry_after_s == pytest.approx(FIRST_PAUSE_S - 4)
    assert len(house.model.calls) == calls
    assert errors(await house.embed("d", model="another")) == [Embedded]


async def test_who_waits_when_a_model_pauses_is_sent_away(house: House) -> None:
    """The pause holds for the texts that were already waiting, too: they make no call of their own."""
    house.model.error = ModelRefused("the provider does not know this model")
    first = asyncio.create_task(house.embed("a"))
    await house.clock.sleep(0.1)
    assert errors(await house.embed("b", "c")) == [CircuitOpen] * 2
    await first
    assert house.model.calls == [["a"]]


async def test_after_a_pause_one_batch_probes(house: House) -> None:
    """The pause doubles while the model refuses, up to five minutes; each time one call is made."""
    house.model.error = ModelRefused("the provider does not know this model")
    pauses = []
    with capture_logs() as lines:
        for _ in range(8):
            before = len(house.model.calls)
            answers = await house.embed("a", "b")
            assert len(house.model.calls) == before + 1
            (pause_s,) = {answer.retry_after_s for answer in answers if isinstance(answer, CircuitOpen)}
            assert pause_s is not None
            pauses.append(pause_s)
            await house.clock.sleep(pause_s)
    assert pauses == [10, 20, 40, 80, 160, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert [line["event"] for line in lines if line["log_level"] != "debug"] == ["neighbour.paused"]


async def test_a_success_ends_the_trouble(house: House) -> None:
    """A probe that is served opens the model again, and a later pause is short again."""
    house.model.error = ModelRefused("the provider does not know this model")
    await house.embed("a")
    await house.clock.sleep(FIRST_PAUSE_S)
    house.model.error = None
    with capture_logs() as lines:
        assert errors(await house.embed("a", "b")) == [Embedded] * 2
    assert [line["event"] for line in lines] == ["neighbour.resumed"]
    assert house.batcher.troubles() == {}
    house.model.error = ModelRefused("again")
    (error,) = await house.embed("a")
    assert isinstance(error, CircuitOpen)
    assert error.retry_after_s == FIRST_PAUSE_S


async def test_five_refusals_in_a_row_are_not_the_texts_fault(house: House) -> None:
    """Four single texts are refused; the fifth in a row pauses the model instead, and a success starts anew."""
    house.model.culprits = set(texts(20))
    assert errors([(await house.embed(text))[0] for text in texts(4)]) == [InputRefused] * 4
    assert errors(await house.embed("good")) == [Embedded]
    assert errors([(await house.embed(text))[0] for text in texts(5)]) == [InputRefused] * 4 + [CircuitOpen]
    await house.clock.sleep(FIRST_PAUSE_S)
    assert errors(await house.embed("t9")) == [CircuitOpen], "the probe was refused as well"
    await house.clock.sleep(2 * FIRST_PAUSE_S)
    assert errors(await house.embed("good")) == [Embedded]
    assert errors(await house.embed("t9")) == [InputRefused]


@pytest.mark.parametrize("error", [Transient("503"), Throttled("429", retry_after_s=7.0), CircuitOpen("held")])
async def test_a_neighbours_fault_reaches_all_who_travelled(house: House, error: NeighbourError) -> None:
    """The batch shares the error as it was, nothing is bisected, and the next batch is tried."""
    house.model.error = error
    assert await house.embed("a", "b") == [error, error]
    house.model.error = None
    assert errors(await house.embed("a")) == [Embedded]
    assert house.model.calls == [["a", "b"], ["a"]]


@pytest.mark.parametrize(
    ("culprit", "expected"),
    [("d", [Embedded, Embedded, Transient, Transient]), ("a", [InputRefused, Embedded, Transient, Transient])],
    ids=["who was served stays served", "a known culprit is told, and not paid for again"],
)
async def test_an_outage_in_a_bisection_takes_back_nothing(
    clock: "FakeClock", culprit: str, expected: list[type]
) -> None:
    """Half of a refused batch is sorted out when the other half meets an outage."""

    class Breaking(Model):
        async def __call__(self, texts: Sequence[str], model: str) -> Embeddings:
            if list(texts) == ["c", "d"]:
                self.error = Transient("down")
            return await super().__call__(texts, model)

    house = House(clock)
    house.model = Breaking(clock)
    house.batcher = MicroBatcher(
        house.model, hold_s=lambda: 0.0, intake=house.intake, clock=clock, metrics=house.metrics
    )
    async with house.open():
        house.model.culprits = {culprit}
        answers = await house.embed("a", "b", "c", "d")
    assert errors(answers) == expected


async def test_a_bug_in_a_call_harms_its_batch_only(house: House) -> None:
    """An exception nobody expected is told in the log, gives the batch back, and the next one goes on."""
    house.model.error = ZeroDivisionError("what a text may have said")
    with capture_logs() as lines:
        answers = await house.embed("a", "b")
    assert errors(answers) == [Transient] * 2
    assert "text" not in str(answers[0])
    assert [line["event"] for line in lines] == ["model.crashed"]
    house.model.error = None
    assert errors(await house.embed("a")) == [Embedded]


async def test_an_unusable_vector_is_its_own_texts_trouble(clock: "FakeClock") -> None:
    """A vector that the provider marked unusable is an invalid answer for that text, and for no other."""

    async def call(texts: Sequence[str], model: str) -> Embeddings:
        return Embeddings([None if text == "b" else vector(text) for text in texts], Usage(3))

    house = House(clock)
    house.batcher = MicroBatcher(call, hold_s=lambda: 0.0, intake=house.intake, clock=clock, metrics=house.metrics)
    async with house.open():
        assert errors(await house.embed("a", "b", "c")) == [Embedded, InvalidAnswer, Embedded]


# --- equal texts


async def test_a_text_on_its_way_is_not_paid_for_again(house: House) -> None:
    """Who brings a text whose call is under way shares its answer; who comes after the answer needs a new call."""
    first = asyncio.create_task(house.embed("a", "b"))
    await house.clock.sleep(0.5)
    joined = asyncio.create_task(house.embed("b", "c", "b"))
    assert errors(await first) == [Embedded] * 2
    assert await joined == [Embedded(vector(text), Usage(1)) for text in ("b", "c", "b")]
    assert house.model.calls == [["a", "b"], ["c"]]
    await house.embed("a")
    assert house.model.calls[2:] == [["a"]]
    assert house.batcher._lanes["m"].texts == {}


async def test_who_leaves_takes_nothing_from_those_who_share(house: House) -> None:
    """Each of three tasks that share an input may be cancelled, the first as well, before and during the call."""
    tasks = [asyncio.create_task(house.batcher.embed("a", "m")) for _ in range(2)]
    await house.clock.sleep(0.5)
    tasks += [asyncio.create_task(house.batcher.embed("a", "m")) for _ in range(2)]
    await house.clock.sleep(0.1)
    tasks[0].cancel()
    tasks[2].cancel()
    assert await tasks[1] == await tasks[3] == Embedded(vector("a"), Usage(1))
    assert house.model.calls == [["a"]]


async def test_a_text_whose_task_has_gone_can_still_be_joined(house: House) -> None:
    """A task that ran out of time and comes again finds its own call, as long as that is under way."""
    gone = asyncio.create_task(house.batcher.embed("a", "m"))
    await house.clock.sleep(0.5)
    gone.cancel()
    await asyncio.wait([gone])
    assert errors(await house.embed("a")) == [Embedded]
    assert house.model.calls == [["a"]]


async def test_a_failure_reaches_all_who_share_the_call(house: House) -> None:
    """Who joined late, too; and nobody can join what has failed."""
    house.model.error = error = Transient("503")
    first = asyncio.create_task(house.embed("a"))
    await house.clock.sleep(0.5)
    assert await house.embed("a", "a") == [error] * 2
    assert await first == [error]
    house.model.error = None
    assert errors(await house.embed("a")) == [Embedded]


async def test_a_refusal_reaches_all_who_share_the_text(house: House) -> None:
    """A culprit that was joined while its batch is bisected is refused for everybody; its neighbours are served."""
    house.model.culprits = {"bad"}
    first = asyncio.create_task(house.embed("good", "bad"))
    await house.clock.sleep(1.5)
    late = asyncio.create_task(house.embed("bad", "good"))
    assert errors(await first) == [Embedded, InputRefused]
    assert errors(await late) == [InputRefused, Embedded]
    assert house.model.calls == [["good", "bad"], ["good"], ["bad"]]


async def test_what_a_bisection_left_out_is_not_joined(house: House) -> None:
    """A text that was dropped because its tasks had gone travels anew with whoever brings it."""
    house.model.culprits = {"bad"}
    tasks = {text: asyncio.create_task(house.batcher.embed(text, "m")) for text in ("a", "b", "c", "bad")}
    await house.clock.sleep(0.5)
    for text in ("a", "b"):
        tasks[text].cancel()
    await house.clock.sleep(1.0)
    again = asyncio.create_task(house.embed("a"))
    await asyncio.wait(tasks.values())
    assert errors(await again) == [Embedded]
    assert house.model.calls[:2] == [["a", "b", "c", "bad"], ["c", "bad"]]
    assert sorted(house.model.calls[2:]) == [["a"], ["bad"], ["c"]]


async def test_nobody_joins_what_a_pause_sent_away(house: House) -> None:
    """The queue of a model that pauses is forgotten: its texts are new ones when the pause is over."""
    house.model.error = ModelRefused("the provider does not know this model")
    await house.embed("a")
    await house.clock.sleep(FIRST_PAUSE_S)
    first = asyncio.create_task(house.embed("a"))
    await house.clock.sleep(0.1)
    assert errors(await house.embed("b")) == [CircuitOpen]
    await first
    house.model.error = None
    await house.clock.sleep(2 * FIRST_PAUSE_S)
    assert errors(await house.embed("a", "b")) == [Embedded] * 2


@settings(EXAMPLES, max_examples=40)
@given(data=st.data())
def test_everybody_is_answered_whatever_is_shared(clock: "FakeClock", data: st.DataObject) -> None:
    """Few texts, many tasks, some cancelled, some culprits, with a cache or without: nobody waits for ever."""
    arrivals = data.draw(
        st.lists(st.tuples(st.floats(0, 4), st.sampled_from("abcdx"), st.booleans()), min_size=1, max_size=25)
    )
    cache = data.draw(st.sampled_from([None, VectorCache(2**20)]))

    async def play(clock: "FakeClock") -> None:
        async with House(clock, cache=cache).open() as house:
            house.model.culprits = {"x"}

            async def arrive(after_s: float, text: str, leaves: bool) -> None:
                await clock.sleep(after_s)
                task = asyncio.create_task(house.batcher.embed(text, "m"))
                if leaves:
                    await clock.sleep(0.7)
                    task.cancel()
                await asyncio.wait([task])
                if task.cancelled():
                    return
                error = task.exception()
                if text == "x":
                    assert isinstance(error, InputRefused | CircuitOpen)
                elif error is None:
                    assert task.result().vector == vector(text)
                else:
                    assert isinstance(error, CircuitOpen)

            async with asyncio.TaskGroup() as group:
                for after_s, text, leaves in arrivals:
                    group.create_task(arrive(after_s, text, leaves))
            await clock.sleep(60)
            lane = house.batcher._lanes.get("m")
            assert lane is None or (lane.texts, list(lane.queue), lane.running) == ({}, [], [])
            paid = Counter(text for call in house.model.calls if not {"x"} & set(call) for text in call)
            assert cache is None or set(paid.values()) <= {1}

    asyncio.run(play(type(clock)()))


# --- remembered vectors


async def test_a_text_that_comes_again_costs_nothing(clock: "FakeClock") -> None:
    """Its vector is there at once, without a call and without tokens, and what it had cost is counted."""
    async with House(clock, cache=VectorCache(2**20)).open() as house:
        first = await house.embed("hello", "you")
        began_at = clock.monotonic()
        assert await house.embed("hello", "hello") == [Embedded(vector("hello"), Usage(0))] * 2
        assert clock.monotonic() == began_at
        assert errors(first) == [Embedded] * 2
        assert house.model.calls == [["hello", "you"]]
        assert house.metrics.value("vector_cache_hits_total") == 2
        assert house.metrics.value("vector_cache_saved_tokens_total") == 2 * 5
        await house.embed("hello", model="another")
        assert house.model.calls[1:] == [["hello"]]


async def test_a_remembered_vector_is_there_while_its_model_pauses(clock: "FakeClock") -> None:
    """Nobody needs to be asked for it."""
    async with House(clock, cache=VectorCache(2**20)).open() as house:
        await house.embed("a")
        house.model.error = ModelRefused("the provider does not know this model")
        assert errors(await house.embed("b")) == [CircuitOpen]
        assert errors(await house.embed("a", "b")) == [Embedded, CircuitOpen]


async def test_only_what_was_paid_for_is_remembered(clock: "FakeClock") -> None:
    """Refusals, failures and unusable vectors are asked for again; a vector that nobody waited for any more is not."""
    async with House(clock, cache=VectorCache(2**20)).open() as house:
        house.model.culprits = {"bad"}
        await house.embed("bad", "good")
        await house.embed("bad")
        house.model.error = Transient("503")
        await house.embed("new")
        house.model.error = None
        gone = asyncio.create_task(house.batcher.embed("gone", "m"))
        await clock.sleep(0.5)
        gone.cancel()
        await clock.sleep(1)
        before = len(house.model.calls)
        assert errors(await house.embed("good", "gone")) == [Embedded] * 2
        assert len(house.model.calls) == before
        assert errors(await house.embed("bad", "new")) == [InputRefused, Embedded]
        assert house.model.calls[before] == ["bad", "new"]


async def test_an_unusable_vector_is_not_remembered(clock: "FakeClock") -> None:
    """What the model answered is asked for again."""
    calls = []

    async def call(texts: Sequence[str], model: str) -> Embeddings:
        calls.append(list(texts))
        return Embeddings([None if len(calls) == 1 else vector(text) for text in texts], Usage(3))

    house, cache = House(clock), VectorCache(2**20)
    house.batcher = MicroBatcher(
        call, cache=cache, hold_s=lambda: 0.0, intake=house.intake, clock=clock, metrics=house.metrics
    )
    async with house.open():
        assert errors(await house.embed("a")) == [InvalidAnswer]
        assert errors(await house.embed("a")) == [Embedded]
        assert errors(await house.embed("a")) == [Embedded]
    assert calls == [["a"], ["a"]]


# --- the pace of a model


async def busy(house: House, tasks: int = 8) -> None:
    """So many tasks that always bring another text, until they are cancelled."""

    async def work(name: str) -> None:
        for n in range(10_000):
            await house.embed(f"{name}-{n}")

    async with asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(work(f"t{number}"))


@asynccontextmanager
async def kept_busy(house: House) -> AsyncIterator[None]:
    running = asyncio.create_task(busy(house))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_after_a_429_calls_start_slower_and_carry_the_same(clock: "FakeClock") -> None:
    """The rate falls to a part of what was reached, is told, comes back, and nobody is left out of a batch."""
    async with House(clock, takes_s=0.1).open() as house, kept_busy(house):
        await clock.sleep(30)
        assert house.batcher.paces() == {}
        reached = len(house.model.times) / 30
        house.model.error = Throttled("429", status=429)
        await clock.sleep(0.15)
        house.model.error = None
        await clock.sleep(5)
        times = [time for time in house.model.times if time > clock.monotonic() - 5]
        rate = house.metrics.value("model_request_rate", model="m") or 0.0
        assert DECREASE * RISE * reached <= rate < reached
        assert len(times) / 5 == pytest.approx(rate, rel=0.15)
        assert min(after - before for before, after in pairwise(times)) >= 1 / reached - 0.01
        assert house.batcher.paces() == {"m": f"after a 429 at most {60 * rate:.0f} calls a minute"}
        assert set(house.model.sizes) == {8}
        await clock.sleep(60)
        assert len([time for time in house.model.times if time > clock.monotonic() - 5]) / 5 == pytest.approx(
            reached, rel=0.05
        )
        assert house.batcher.paces() == {}
        assert house.metrics.value("model_request_rate", model="m") == 0


@pytest.mark.parametrize("error", [Transient("500"), Throttled("503", status=503), Ambiguous("timeout")], ids=str)
async def test_an_outage_is_no_reason_to_be_slow(clock: "FakeClock", error: NeighbourError) -> None:
    """A 5xx, with Retry-After too, and a timeout leave the rate as it is."""
    async with House(clock, takes_s=0.1).open() as house:
        house.model.error = error
        for text in texts(20):
            await house.embed(text)
        house.model.error = None
        began_at = clock.monotonic()
        await house.embed("back")
        assert house.model.times[-1] == began_at
        assert house.batcher.paces() == {}


async def test_each_repetition_of_a_call_is_seen(clock: "FakeClock") -> None:
    """A 429 inside the patience with a call is heeded, though the call succeeds in the end."""
    house = House(clock)
    attempts = 0

    async def patience(attempt: Attempt) -> Embeddings:
        nonlocal attempts
        while True:
            attempts += 1
            try:
                return await attempt()
            except Throttled:
                house.model.error = None
                await clock.sleep(7.0)

    house.batcher = MicroBatcher(
        house.model,
        patience=patience,
        hold_s=lambda: 0.0,
        intake=house.intake,
        clock=clock,
        metrics=house.metrics,
    )
    async with house.open():
        house.model.error = Throttled("429", status=429)
        assert errors(await house.embed("a")) == [Embedded]
        assert attempts == 2
        assert list(house.batcher.paces()) == ["m"]
        assert house.batcher._lanes["m"].pacer._flying == 0


async def test_models_have_a_pace_of_their_own(clock: "FakeClock") -> None:
    """A 429 for one slows no other down."""
    async with House(clock, takes_s=0.0).open() as house:
        house.model.error = Throttled("429", status=429)
        await house.embed("a", model="m")
        house.model.error = None
        began_at = clock.monotonic()
        await house.embed("b", model="n")
        assert clock.monotonic() == began_at
        await house.embed("b", model="m")
        assert clock.monotonic() - began_at == pytest.approx(1 / (DECREASE * RISE))


async def test_a_batch_is_no_larger_than_the_tokens_that_are_left(clock: "FakeClock") -> None:
    """Texts of 10 tokens, and 35 are left: three go, the others when the limit is whole again."""
    async with House(clock, takes_s=0.1).open() as house:
        left = iter([35, 5])
        house.model.limits = lambda: RateLimits(tokens=Allowance(40, next(left, 40), 20.0))
        await house.embed("x")
        answered_at = clock.monotonic()
        await house.embed(*(f"{n:010}" for n in range(7)))
    assert house.model.sizes == [1, 3, 4]
    assert house.model.times[1] == answered_at
    assert house.model.times[2] - answered_at == pytest.approx(20.1)


async def test_a_batch_that_no_limit_admits_becomes_smaller(clock: "FakeClock") -> None:
    """A provider that answers 429 to more than 45 tokens, and says nothing else: everybody is served, by and by."""

    class Strict(Model):
        async def __call__(self, texts: Sequence[str], model: str) -> Embeddings:
            too_much = sum(len(text) for text in texts) > 45
            self.error = Throttled("429", status=429) if too_much else None
            return await super().__call__(texts, model)

    house = House(clock, takes_s=0.1)
    house.model = Strict(clock, takes_s=0.1)
    house.batcher = MicroBatcher(
        house.model, hold_s=lambda: 0.0, intake=house.intake, clock=clock, metrics=house.metrics
    )

    async def work(text: str) -> None:
        while True:
            try:
                await house.batcher.embed(text, "m")
                return
            except Throttled:
                await clock.sleep(1.0)

    began_at = clock.monotonic()
    async with house.open(), asyncio.TaskGroup() as group:
        for n in range(100):
            group.create_task(work(f"{n:010}"))
    assert len(house.model.calls) < 80
    assert clock.monotonic() - began_at < 300


async def test_a_text_larger_than_the_whole_limit_still_goes(clock: "FakeClock") -> None:
    """Alone, and not before the limit is whole: then nothing else would help it."""
    async with House(clock, takes_s=0.1).open() as house:
        house.model.limits = lambda: RateLimits(tokens=Allowance(40, 39, 20.0))
        await house.embed("x")
        began_at = clock.monotonic()
        await house.embed("y" * 1_000, "z")
    assert house.model.sizes == [1, 1, 1]
    assert house.model.times[1] - began_at == pytest.approx(20.0)
    assert house.model.times[2] - began_at < 20.2


async def test_a_bisection_keeps_the_pace(clock: "FakeClock") -> None:
    """Its calls are calls like any other: after a 429 they take their turns, too."""
    async with House(clock, takes_s=0.0).open() as house:
        house.model.error = Throttled("429", status=429)
        await house.embed("a")
        house.model.error, house.model.culprits = None, {"bad"}
        await house.embed("b", "c", "d", "bad")
        gaps = [after - before for before, after in pairwise(house.model.times)]
        assert len(gaps) == 5
        assert min(gaps) > 0.5


ALLOWANCES = st.builds(
    lambda limit, share, reset_s: Allowance(limit, int(limit * share), reset_s),
    st.integers(1, 10**15),
    st.floats(0, 1),
    st.one_of(st.floats(0, 86_400), st.just(86_400.0)),
)
LIMITS = st.builds(RateLimits, st.none() | ALLOWANCES, st.none() | ALLOWANCES)


@settings(EXAMPLES, max_examples=100)
@given(data=st.data())
def test_nothing_that_is_told_stalls_a_model(clock: "FakeClock", data: st.DataObject) -> None:
    """Whatever headers and 429s say: a free model is never kept waiting for more than a minute."""
    answers = data.draw(st.lists(st.tuples(LIMITS, st.booleans()), min_size=1, max_size=12))

    async def play(clock: "FakeClock") -> None:
        async with House(clock, takes_s=0.0).open() as house:
            for number, (limits, throttled) in enumerate(answers):
                house.model.limits = partial(replace, limits)
                house.model.error = Throttled("429", status=429) if throttled else None
                began_at = clock.monotonic()
                await house.embed("x" * (number + 1), "y" * 100_000)
                for call in house.model.times[-2:]:
                    assert call - began_at <= 2 * (LONGEST_WAIT_S + GATHERING_S) + 0.01

    asyncio.run(play(type(clock)()))


async def test_a_limit_that_never_ends_is_tried_after_a_minute(clock: "FakeClock") -> None:
    """Nothing left for a day: the first call after that waits a minute, is served, and the headers are not believed."""
    async with House(clock, takes_s=0.0).open() as house:
        house.model.limits = lambda: RateLimits(Allowance(10, 0, 86_400.0), Allowance(10, 0, 86_400.0))
        await house.embed("a")
        began_at = clock.monotonic()
        await house.embed("b")
        assert clock.monotonic() - began_at == pytest.approx(LONGEST_WAIT_S)
        for text in texts(9):
            await house.embed(text)
        assert clock.monotonic() - began_at == pytest.approx(LONGEST_WAIT_S)


# --- the end, and bounds


async def test_the_end_sends_everyone_away(clock: "FakeClock") -> None:
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
async def test_the_end_may_come_at_any_turn(clock: "FakeClock", turns: int) -> None:
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
    busy = [asyncio.create_task(house.embed("a", model=f"m{n}")) for n in range(MAX_LANES)]
    await asyncio.sleep(0)
    (error,) = await house.embed("a", model="one more")
    assert isinstance(error, CircuitOpen)
    assert error.retry_after_s == 1.0
    assert [errors(await task) for task in busy] == [[Embedded]] * MAX_LANES
    assert errors(await house.embed("a", model="one more")) == [Embedded]


def test_it_asks_the_gate_for_its_hold(clock: "FakeClock") -> None:
    """``hold_s`` is what it was given."""
    batcher = MicroBatcher(
        Model(clock), hold_s=lambda: 7.0, intake=Intake(), clock=clock, metrics=Metrics(version="1", provider="mock")
    )
    assert batcher.hold_s() == 7.0
