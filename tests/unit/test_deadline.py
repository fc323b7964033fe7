"""Deadlines keep the rules of ``asyncio.timeout``: each case runs with both."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from ai_task_processor import deadline
from ai_task_processor.deadline import Deadline

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


async def test_what_ends_in_time_is_left_alone(timeout: Timeout) -> None:
    """No error, no cancellation left behind, and none later."""
    async with timeout(0.001):
        pass
    await asyncio.sleep(0.01)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_takes_too_long_is_cut_off(timeout: Timeout) -> None:
    """``TimeoutError``, out of a cancellation that is no longer pending."""
    with pytest.raises(TimeoutError) as caught:
        async with timeout(0.001):
            await for_ever()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_the_block_s_own_error_is_raised(timeout: Timeout) -> None:
    """What the block raises instead of the cancellation stands."""

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
    done = []
    async with timeout(0.001):
        try:
            await for_ever()
        except asyncio.CancelledError:
            done.append(1)
    await asyncio.sleep(0)
    assert done == [1]


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_cancellation_from_outside_stays_one(timeout: Timeout, at_once: bool) -> None:
    """Alone, and when the deadline strikes in the same turn of the loop."""
    started = asyncio.Event()

    async def work() -> None:
        async with timeout(0.001 if at_once else 60):
            started.set()
            await for_ever()

    task = asyncio.create_task(work())
    await started.wait()
    if at_once:
        # Both are due before the task runs again.
        asyncio.get_running_loop().call_later(0.002, task.cancel)
        time.sleep(0.01)  # noqa: ASYNC251 - nothing may run in between
    else:
        task.cancel()
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
                async with timeout(inner):
                    await for_ever()
            except TimeoutError:
                told = "inner"
    except TimeoutError:
        told = "outer"
    assert told == cut


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
    """A thousand at once set a handful of timers; each strikes no earlier than it should and a grain later at most."""
    monkeypatch.setattr(deadline, "LONG_S", 0.05)
    monkeypatch.setattr(deadline, "GRAIN_S", 0.02)
    loop, timers = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def noted(when: float, *given: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *given)

    monkeypatch.setattr(loop, "call_at", noted)

    async def work() -> float:
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with ours(0.1):
                await for_ever()
        return loop.time() - began

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work()) for _ in range(1000)]
    assert len(timers) <= 5
    assert all(0.1 <= task.result() < 0.1 + 0.02 + 0.5 for task in tasks)
    assert not deadline.stalls_of(loop).grains
