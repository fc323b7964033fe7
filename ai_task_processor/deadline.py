"""A deadline for a block of a coroutine: ``asyncio.timeout`` at a third of its price.

A task stands under three of them, one inside the other, and nearly none of them ever strikes. What
``asyncio.timeout`` has beside (rescheduling, states, an asynchronous entrance) costs five microseconds each
time, a twentieth of all that a task costs, and a timer of the loop three. So long deadlines share a timer.
The rules are the same, and so is the suite that tests both.
"""

import asyncio
import math
import threading
from asyncio import AbstractEventLoop, CancelledError
from types import TracebackType
from weakref import WeakKeyDictionary

#: a deadline of at least so many seconds may strike so much later, together with others
LONG_S, GRAIN_S = 10.0, 0.25

_thread = threading.local()
#: long deadlines by the moment at which they strike, in grains of the loop's time
_shared: "WeakKeyDictionary[AbstractEventLoop, dict[int, set[Deadline]]]" = WeakKeyDictionary()


class Deadline:
    """``with Deadline(seconds):`` cancels its task inside the block when the time is over, and raises ``TimeoutError``.

    A cancellation from outside stays one, also when both come at once. For one use, in a task.
    """

    __slots__ = ("_before", "_others", "_seconds", "_struck", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._struck = False

    def __enter__(self) -> None:
        loop, self._task = _running()
        self._before = self._task.cancelling()
        if self._seconds < LONG_S:
            self._others, self._timer = None, loop.call_later(self._seconds, self._strike)
        else:
            self._others = _those_at(loop, math.ceil((loop.time() + self._seconds) / GRAIN_S))
            self._others.add(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._others is None:
            self._timer.cancel()
        else:
            self._others.discard(self)
        if self._struck and self._task.uncancel() <= self._before and kind is CancelledError:
            # Whoever cancelled the task meanwhile is answered; otherwise it was this deadline alone.
            raise TimeoutError from error

    def _strike(self) -> None:
        self._struck = True
        self._task.cancel()


def _running() -> tuple[AbstractEventLoop, asyncio.Task[object]]:
    """The running loop and its present task. To ask asyncio for the loop makes a system call until Python 3.12.

    The loop that ran in this thread before and has a present task is the one that runs.
    """
    loop: AbstractEventLoop | None = getattr(_thread, "loop", None)
    task = None if loop is None else asyncio.current_task(loop)
    if loop is None or task is None:
        loop = _thread.loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline needs a task to cancel")
    return loop, task


def _those_at(loop: AbstractEventLoop, grain: int) -> set[Deadline]:
    """The deadlines that strike at this moment; their timer is set with the first of them."""
    by_grain = _shared.setdefault(loop, {})
    deadlines = by_grain.get(grain)
    if deadlines is None:
        deadlines = by_grain[grain] = set()
        loop.call_at(grain * GRAIN_S, _strike_all, by_grain, grain)
    return deadlines


def _strike_all(by_grain: dict[int, set[Deadline]], grain: int) -> None:
    for deadline in by_grain.pop(grain):
        deadline._strike()
