"""Deadlines that count only the time in which this process ran.

Two needs meet here. ``asyncio.timeout`` is too dear: a task stands under three deadlines, nearly none of them
ever strikes, and what asyncio has beside (rescheduling, states, an asynchronous entrance) costs five microseconds
each time, a twentieth of all that a task costs, and a timer of the loop three. So long deadlines share a timer.

And after a stall (SIGSTOP, a paused machine, a plug-in that blocks the loop) every timer of the loop is due before
anything that arrived meanwhile has been read. A deadline that struck then would throw away answers that lie in the
socket: work would be done and paid for again. So a stall does not count, and a deadline that fires late lets the
loop read before it strikes. Apart from that the rules are those of ``asyncio.timeout``; one suite tests both.
"""

import asyncio
import math
import threading
from asyncio import AbstractEventLoop, CancelledError, TimerHandle
from types import TracebackType
from weakref import WeakKeyDictionary

#: a deadline of at least so many seconds may strike so much later, together with others
LONG_S, GRAIN_S = 10.0, 0.25
#: a timer that fires so many seconds late was held up: the loop reads what has arrived, for at least ``GRACE_S``
LATE_S, GRACE_S = 0.005, 0.1
#: a delay of the loop that is no longer the usual work of a busy one
STALL_S = 0.25
#: so often one deadline moves: a task that blocks the loop again and again must end some day
MOVES = 10

_thread = threading.local()


class Stalls:
    """How long one event loop has stood still, as far as timers that fired late have shown."""

    __slots__ = ("_began_at", "ended_at", "grains", "total_s")

    def __init__(self) -> None:
        self.total_s = 0.0
        #: the last one, in the loop's time
        self._began_at = self.ended_at = -math.inf
        #: long deadlines by the moment at which they strike, in grains of the loop's time
        self.grains: dict[int, set[Deadline]] = {}

    @property
    def lasted_s(self) -> float:
        """How long the last one was."""
        return self.ended_at - self._began_at if self.total_s else 0.0

    def note(self, due_at: float, now: float) -> None:
        """A timer was due then and fired now, in the loop's time. A stall counts once, however many timers show it."""
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
    """For how many seconds the running loop has stood still so far. To be called in a task."""
    return _running()[1].total_s


class Deadline:
    """``with Deadline(seconds):`` cancels its task inside the block when the time is over, and raises ``TimeoutError``.

    A cancellation from outside stays one, also when both come at once. For one use, in a task. ``math.inf`` seconds:
    never, unless ``strike_in`` says otherwise.
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
            # Whoever cancelled the task meanwhile is answered; otherwise it was this deadline alone.
            raise TimeoutError from error

    def strike_in(self, seconds: float) -> None:
        """So many seconds from now, whatever was said before. To be called inside the block, by anybody in the loop."""
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
        """The time is over, or seems to be. Was it ours to use?"""
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


def _running() -> tuple[AbstractEventLoop, Stalls, asyncio.Task[object]]:
    """The running loop, its stalls and its present task. To ask asyncio for the loop makes a system call until 3.12.

    The loop that ran in this thread before and has a present task is the one that runs.
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
    """The deadlines that strike at this moment; their timer is set with the first of them."""
    deadlines = by_grain.get(grain)
    if deadlines is None:
        deadlines = by_grain[grain] = set()
        loop.call_at(grain * GRAIN_S, _fire_all, by_grain, grain)
    return deadlines


def _fire_all(by_grain: dict[int, set[Deadline]], grain: int) -> None:
    for deadline in tuple(by_grain.pop(grain)):
        deadline._fire()
