"""Deadlines keep the rules of ``asyncio.timeout``, where each case runs with both; and a stall does not count."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest

from ai_task_processor.core import deadline
from ai_task_processor.core.deadline import MOVES, Deadline, Stalls, lost_cancellation_raised, stalls_of
from ai_task_processor.engine.grace import GracePeriod

Timeout = Callable[[float], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def ours(seconds: float) -> Any:
    with Deadline(seconds):
        yield


@pytest.fixture(params=["asyncio", "ours", "shared"])
def timeout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Timeout:
    """The standard library's, ours with a timer of its own, and ours with a shared one."""
    if request.param == "shared":
        monkeypatch.setattr(deadline, "LONG_S", 0.0)
        monkeypatch.setattr(deadline, "GRAIN_S", 0.001)
    return asyncio.timeout if request.param == "asyncio" else ours


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def cancelling() -> int:
    """How many cancellations are pending for this task."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def wait_within(deadline: AbstractAsyncContextManager[Any]) -> None:
    async with deadline:
        await for_ever()


async def test_what_ends_in_time_is_left_alone(timeout: Timeout) -> None:
    """No error, no cancellation left behind, and none later."""
    async with timeout(0.001):
        pass
    await asyncio.sleep(0.01)
    assert cancelling() == 0


async def test_what_takes_too_long_is_cut_off(timeout: Timeout) -> None:
    """``TimeoutError``, out of a cancellation that is no longer pending."""
    with pytest.raises(TimeoutError) as caught:
        await wait_within(timeout(0.001))
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert cancelling() == 0


async def test_the_block_s_own_error_is_raised(timeout: Timeout) -> None:
    async def work() -> None:
        async with timeout(0.001):
            try:
                await for_ever()
            except asyncio.CancelledError as error:
                raise ValueError("mine") from error

    with pytest.raises(ValueError, match="mine"):
        await work()


async def test_a_result_that_comes_after_the_deadline_is_kept(timeout: Timeout) -> None:
    """A block that swallows its cancellation has its way, and the next await is not cancelled."""
    done = False
    async with timeout(0.001):
        try:
            await for_ever()
        except asyncio.CancelledError:
            done = True
    await asyncio.sleep(0)
    assert done


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_cancellation_from_outside_stays_one(timeout: Timeout, at_once: bool) -> None:
    """Alone, and when the deadline strikes in the same turn of the loop."""

    async def work() -> None:
        async with timeout(0.001 if at_once else 60):
            asyncio.get_running_loop().call_later(0.002 if at_once else 0, task.cancel)
            if at_once:
                time.sleep(0.01)  # noqa: ASYNC251 - both are due in the next turn
            await for_ever()

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize(("outer", "inner", "cut"), [(60.0, 0.001, "inner"), (0.001, 60.0, "outer")])
async def test_the_one_that_strikes_is_the_one_that_tells(
    timeout: Timeout, outer: float, inner: float, cut: str
) -> None:
    """Nested deadlines do not answer for each other."""
    told = None
    try:
        async with timeout(outer):
            try:
                await wait_within(timeout(inner))
            except TimeoutError:
                told = "inner"
    except TimeoutError:
        told = "outer"
    assert told == cut


@pytest.mark.parametrize("error", [None, ValueError("x")])
@pytest.mark.parametrize("own", [False, True])
async def test_a_cancellation_that_a_library_loses_is_raised(error: Exception | None, own: bool) -> None:
    """Also when the library raises something else; not when it was only a deadline inside the block."""

    async def loses() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        if error is not None:
            raise error

    async def call() -> None:
        with lost_cancellation_raised(), Deadline(0.0 if own else 60.0):
            await loses()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    if not own:
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() is not own
    assert own is False or task.exception() is error


async def test_no_time_at_all_still_lets_the_block_begin(timeout: Timeout) -> None:
    """A deadline of 0 strikes at the first await that waits."""
    began = []

    async def work() -> None:
        async with timeout(0):
            began.append(1)
            await for_ever()

    with pytest.raises(TimeoutError):
        await work()
    assert began == [1]


async def test_long_deadlines_share_their_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand at once set a handful of timers; each strikes no earlier than it should.

    Only when the machine holds the loop up do they set timers of their own.
    """
    monkeypatch.setattr(deadline, "LONG_S", 0.05)
    monkeypatch.setattr(deadline, "GRAIN_S", 0.02)
    loop, timers = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def noted(when: float, *given: Any, **more: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *given, **more)

    monkeypatch.setattr(loop, "call_at", noted)

    async def work() -> float:
        began = loop.time()
        with pytest.raises(TimeoutError):
            await wait_within(ours(0.1))
        return loop.time() - began

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work()) for _ in range(1000)]
        await asyncio.sleep(0)
        entered = len(timers)
    assert 1 <= entered <= 5
    assert all(0.1 <= task.result() < 2.0 for task in tasks)
    assert not deadline.stalls_of(loop).grains


Stop = Callable[[float], None]
Wire = tuple[socket.socket, socket.socket]


@pytest.fixture
async def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Stops the process for so long: time passes for the loop, and nothing runs."""
    loop, stopped_s = asyncio.get_running_loop(), list[float]()
    running = loop.time
    monkeypatch.setattr(loop, "time", lambda: running() + sum(stopped_s))
    return stopped_s.append


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Two ends; what is sent into the first lies in the second until the loop reads it."""
    there, here = socket.socketpair()
    here.setblocking(False)
    with there, here:
        yield there, here


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("pieces", [1, 20])
async def test_what_arrived_during_a_stall_is_read(
    wire: Wire, stop: Stop, pieces: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer in the socket is not thrown away when the process goes on after 36 s, however many reads it takes."""
    if shared:
        monkeypatch.setattr(deadline, "LONG_S", 0.0)
    there, here = wire

    async def answer() -> bytes:
        with Deadline(0.5):
            return b"".join([await asyncio.get_running_loop().sock_recv(here, 1) for _ in range(pieces)])

    task = asyncio.create_task(answer())
    await asyncio.sleep(0.01)
    there.send(b"x" * pieces)
    stop(36)
    assert await task == b"x" * pieces


@pytest.mark.parametrize("stalls", [[36.0], [0.3], [36.0, 1.0, 36.0]], ids=str)
async def test_a_deadline_counts_the_time_in_which_we_ran(stop: Stop, stalls: list[float]) -> None:
    """Whether a stall ends before or after the moment that was set: the rest of the time is there, and no more."""
    began = time.monotonic()
    for seconds in stalls:
        asyncio.get_running_loop().call_later(0.05, stop, seconds)

    async def beat() -> None:
        while True:
            due_at = asyncio.get_running_loop().time() + 0.02
            await asyncio.sleep(0.02)
            stalls_of(asyncio.get_running_loop()).note(due_at, asyncio.get_running_loop().time())

    heart = asyncio.create_task(beat())
    with pytest.raises(TimeoutError):
        await wait_within(ours(0.6))
    heart.cancel()
    assert 0.5 <= time.monotonic() - began < 3


async def test_a_task_that_blocks_the_loop_for_ever_is_ended(stop: Stop) -> None:
    turns = 0

    async def block() -> None:
        nonlocal turns
        async with ours(0.05):
            while True:
                stop(1.0)
                turns += 1
                await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await block()
    assert turns <= 3 * (MOVES + 1)


@pytest.mark.parametrize(
    ("seen", "total_s"),
    [
        ([(0.0, 0.2)], 0.0),
        ([(0.0, 36.0)], 36.0),
        ([(0.5, 36.0), (0.0, 36.0), (9.0, 36.0)], 36.0),
        ([(0.0, 36.0), (0.5, 36.25)], 36.25),
        ([(0.0, 36.0), (40.0, 41.0)], 37.0),
    ],
)
def test_a_stall_counts_once(seen: list[tuple[float, float]], total_s: float) -> None:
    """Several timers that were due in it show the same stall, each from its own moment on."""
    stalls = Stalls()
    for due_at, now in seen:
        stalls.note(due_at, now)
    assert stalls.total_s == total_s


async def test_a_stall_does_not_use_up_the_grace_period(wire: Wire, stop: Stop) -> None:
    """What was under way at SIGTERM and has its answer is not cut when the process was stopped meanwhile."""
    there, here = wire
    grace = GracePeriod(0.5)

    async def work() -> bytes:
        async with grace.share(0.8):
            return await asyncio.get_running_loop().sock_recv(here, 1)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    grace.begin()
    there.send(b"x")
    stop(36)
    assert await task == b"x"
    assert 0.0 < grace.left_s() <= 0.5


async def test_the_grace_period_ends_at_its_parts() -> None:
    """Endless before the signal; then a share is cut at its part, also one that is entered later."""
    grace = GracePeriod(0.05)
    assert not grace.begun
    early = asyncio.create_task(wait_within(grace.share(0.0)))
    await asyncio.sleep(0.1)
    assert not early.done()
    grace.begin()
    for task in (early, asyncio.create_task(wait_within(grace.share(1.0)))):
        with pytest.raises(TimeoutError):
            await task
    assert grace.begun
