"""Deadlines that count only the time in which this process ran, and cost less than ``asyncio.timeout``.

Cost: every task has three deadlines, and nearly all of them end unused. ``asyncio.timeout`` takes five microseconds
each time, a twentieth of the whole cost of a task, and a timer of the loop three. So long deadlines share a timer.

Stalls: after SIGSTOP, a paused machine or a plug-in that blocks the loop, all timers are due before the loop has read
what arrived meanwhile. A deadline that expired then would discard answers that are already in the socket, and the work
would be paid for twice. So a stall does not count, and a deadline that fires late lets the loop read first. Apart from
that the rules are those of ``asyncio.timeout``; one suite tests both.
"""

import asyncio
import math
import threading
from asyncio import AbstractEventLoop, CancelledError, TimerHandle
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from weakref import WeakKeyDictionary

#: deadlines of at least ``LONG_S`` share a timer, and may expire up to ``GRAIN_S`` late
LONG_S, GRAIN_S = 10.0, 0.25
#: a deadline whose timer fires this many seconds late is moved by ``GRACE_S``, so that the loop can read first
LATE_S, GRACE_S = 0.005, 0.1
#: a delay of the loop from which on it is a stall and not a busy loop
STALL_S = 0.25
#: how often one deadline may move: a task that blocks the loop again and again must end
MOVES = 10

_thread = threading.local()


class Stalls:
    """The stalls of one event loop, as measured by timers that fired late."""

    __slots__ = ("_began_at", "ended_at", "grains", "total_s")

    def __init__(self) -> None:
        self.total_s = 0.0
        #: the last stall, in the loop's time
        self._began_at = self.ended_at = -math.inf
        #: long deadlines by expiry, in units of ``GRAIN_S`` of the loop's time
        self.grains: dict[int, set[Deadline]] = {}

    @property
    def lasted_s(self) -> float:
        """How long the last stall was."""
        return self.ended_at - self._began_at if self.total_s else 0.0

    def note(self, due_at: float, now: float) -> None:
        """Note when a timer was due and when it fired, in the loop's time. Several timers count one stall once."""
        if now - due_at < STALL_S:
            return
        if due_at < self.ended_at:
            self.total_s += max(0.0, self._began_at - due_at) + max(0.0, now - self.ended_at)
            self._began_at = min(self._began_at, due_at)
        else:
            self.total_s += now - due_at
            self._began_at = due_at
        self.ended_at = max(self.ended_at, now)


_stalls: "WeakKeyDictionary[AbstractEventLoop, Stalls]" = WeakKeyDictionary()


def stalls_of(loop: AbstractEventLoop) -> Stalls:
    """The stalls of this loop."""
    return _stalls.setdefault(loop, Stalls())


def stalled_s() -> float:
    """Total seconds of stalls of the running loop so far. Call it in a task."""
    return _running()[1].total_s


class Deadline:
    """``with Deadline(seconds):`` cancels the block when the time is over, and raises ``TimeoutError``.

    A cancellation from outside stays one, also when both come at once. For one use, in a task. With ``math.inf``
    seconds it expires only after a call of ``strike_in``.
    """

    __slots__ = ("_before", "_due_at", "_loop", "_moves", "_others", "_seconds", "_stalled_s", "_stalls", "_struck",
                 "_task", "_timer")  # fmt: skip

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._struck = False
        self._moves = 0
        self._timer: TimerHandle | None = None
        self._others: set[Deadline] | None = None

    def __enter__(self) -> "Deadline":
        self._loop, self._stalls, self._task = _running()
        self._before = self._task.cancelling()
        self._stalled_s = self._stalls.total_s
        if self._seconds < LONG_S:
            self._due_at = self._loop.time() + self._seconds
            self._timer = self._loop.call_later(self._seconds, self._fire)
        elif self._seconds < math.inf:
            grain = math.ceil((self._loop.time() + self._seconds) / GRAIN_S)
            self._due_at = grain * GRAIN_S
            self._others = _those_at(self._loop, self._stalls.grains, grain)
            self._others.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._forget()
        if self._struck and self._task.uncancel() <= self._before and kind is CancelledError:
            # Nobody else has cancelled the task: it was only this deadline.
            raise TimeoutError from error

    def strike_in(self, seconds: float) -> None:
        """Expire this many seconds from now instead. Call it while the block runs, from any task of the loop."""
        self._forget()
        self._stalled_s = self._stalls.total_s
        self._due_at = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._fire)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        elif self._others is not None:
            self._others.discard(self)

    def _fire(self) -> None:
        """The timer fired: expire, or move the deadline by the time of stalls."""
        now = self._loop.time()
        self._stalls.note(self._due_at, now)
        stalled_s = self._stalls.total_s - self._stalled_s
        held_up = stalled_s > 0.0 or (now - self._due_at > LATE_S and not self._moves)
        if held_up and self._moves < MOVES:
            self._moves += 1
            self.strike_in(max(self._due_at + stalled_s - now, GRACE_S))
            return
        self._struck = True
        self._task.cancel()


@contextmanager
def lost_cancellation_raised() -> Iterator[None]:
    """Raise ``CancelledError`` after a block in which a library lost one. For the boundary of a library's calls.

    ``asyncio.wait_for`` before Python 3.12 does not raise a cancellation that comes together with the result
    (python/cpython#86296). A loop around such a call would go on for ever.
    """
    task = _running()[2]
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise CancelledError


def _running() -> tuple[AbstractEventLoop, Stalls, asyncio.Task[object]]:
    """The running loop, its stalls and the current task.

    ``get_running_loop`` makes a system call before Python 3.12. The cached loop of this thread is the running one if
    it has a current task.
    """
    loop: AbstractEventLoop | None = getattr(_thread, "loop", None)
    task = None if loop is None else asyncio.current_task(loop)
    if loop is None or task is None:
        loop = _thread.loop = asyncio.get_running_loop()
        _thread.stalls = stalls_of(loop)
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline needs a task to cancel")
    stalls: Stalls = _thread.stalls
    return loop, stalls, task


def _those_at(loop: AbstractEventLoop, by_grain: dict[int, set[Deadline]], grain: int) -> set[Deadline]:
    """The deadlines that expire in this grain; the first one sets their timer."""
    deadlines = by_grain.get(grain)
    if deadlines is None:
        deadlines = by_grain[grain] = set()
        loop.call_at(grain * GRAIN_S, _fire_all, by_grain, grain)
    return deadlines


def _fire_all(by_grain: dict[int, set[Deadline]], grain: int) -> None:
    for deadline in tuple(by_grain.pop(grain)):
        deadline._fire()
