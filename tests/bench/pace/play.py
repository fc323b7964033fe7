"""Plays a controller against a simulated provider: slots full of tasks, a queue, batches of what waits."""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any

from ai_task_processor.core.ports import RateLimits
from tests.bench.pace.provider import Answer, Provider, Text

ENDLESS = 10**9


def short(rng: random.Random) -> Text:
    return Text(220, 55)


@dataclass(slots=True, eq=False)
class Task:
    """A text on its way. ``refusals``: how often it was refused."""

    text: Text
    refusals: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """One call. ``in_flight``: calls under way, this one included."""

    tasks: Sequence[Task]
    bytes: int
    tokens: int
    in_flight: int

    @property
    def inputs(self) -> int:
        return len(self.tasks)


class Controller:
    """Decides when a call starts and how large it is. This one never waits, and knows no bound."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def most(self) -> tuple[float, float]:
        """Inputs and bytes of the next call."""
        return inf, inf

    def wait_s(self, now: float, size: int, in_flight: int) -> float:
        """Until a call of so many bytes may start; infinite: until another ends."""
        return 0.0

    def started(self, now: float, call: Sent) -> None:
        """A call starts."""

    def served(self, now: float, call: Sent, limits: RateLimits) -> None:
        """200."""

    def throttled(self, now: float, call: Sent, retry_after_s: float | None) -> float:
        """429. How long its tasks stay away."""
        return 0.0

    def failed(self, now: float, call: Sent, status: int) -> None:
        """413, 503, 504."""

    def restarted(self) -> "Controller":
        """What a new process would have: what is kept, and nothing else."""
        return type(self)(self.rng)


Make = Callable[[random.Random], Controller]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What must hold. ``used``: goodput as a share of the best possible, on average, ``used_any`` in each run.

    ``refused``: share of 429s at most. ``back_s``: until 90 % of what is possible after a change, the worst of all.
    ``too_large``: refused calls in all; ``too_large_late``: their share in the second thousand of calls;
    ``too_large_again``: after the last restart.
    """

    used: float = 0.0
    used_any: float = 0.0
    refused: float = 1.0
    back_s: float = inf
    too_large: float = inf
    too_large_late: float = 1.0
    too_large_again: float = inf


@dataclass(frozen=True, slots=True)
class Scene:
    """``best``: tasks a second that are possible. Figures are taken from ``warm_up_s`` to ``seconds``.

    ``parallel``: calls in flight at most; one call takes many tasks only when it is 1.
    ``possible``: (moment, tasks a second from then on). ``restarts``: moments of a crash.
    With several ``arrivals`` (moment, tasks) the last are measured: the ideal time as a share of the real one.
    """

    name: str
    provider: Callable[[random.Random], Provider]
    best: float
    bounds: Bounds
    seconds: float = 120.0
    warm_up_s: float = 30.0
    possible: Sequence[tuple[float, float]] = ()
    restarts: Sequence[float] = ()
    slots: int = 8
    parallel: int = 1
    arrivals: Sequence[tuple[float, int]] = ((0.0, ENDLESS),)
    text: Callable[[random.Random], Text] = short


@dataclass(slots=True)
class Played:
    """``done``: (moment, tasks) served. ``calls``: (moment, status) of every answer, in order."""

    done: list[tuple[float, int]] = field(default_factory=list)
    calls: list[tuple[float, int]] = field(default_factory=list)

    def served(self, begins: float, ends: float) -> int:
        return sum(n for at, n in self.done if begins < at <= ends)


class Stage:
    """One run of a scene."""

    def __init__(self, scene: Scene, make: Make, seed: int) -> None:
        self.scene, self.played = scene, Played()
        self.rng = random.Random(seed)
        self.provider, self.controller = scene.provider(self.rng), make(random.Random(seed + 1_000))
        self.waiting: deque[Task] = deque()
        self.backlog = self.inside = self.in_flight = 0
        self.wake_at, self.generation = inf, 0
        self.order = count()
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def play(self) -> Played:
        for at, tasks in self.scene.arrivals:
            self._later(at, self._arrive, tasks)
        for at in self.scene.restarts:
            self._later(at, self._restart)
        while self.events and self.events[0][0] <= self.scene.seconds:
            now, _, what, arguments = heapq.heappop(self.events)
            what(now, *arguments)
            self._start_calls(now)
        return self.played

    def _later(self, at: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self.events, (at, next(self.order), what, arguments))

    def _arrive(self, now: float, tasks: int) -> None:
        self.backlog += tasks

    def _back(self, now: float, tasks: Sequence[Task]) -> None:
        self.waiting.extendleft(reversed(tasks))

    def _wake(self, now: float) -> None: ...

    def _restart(self, now: float) -> None:
        """The process dies with its calls; its tasks are listed again."""
        self.backlog += self.inside
        self.inside = self.in_flight = self.provider.in_flight = 0
        self.waiting.clear()
        self.controller, self.generation = self.controller.restarted(), self.generation + 1

    def _answered(self, now: float, call: Sent, answer: Answer, generation: int) -> None:
        if generation != self.generation:
            return
        self.in_flight -= 1
        self.played.calls.append((now, answer.status))
        if answer.status in (200, 504):
            self.provider.ended()
        if answer.status == 200:
            self.inside -= call.inputs
            self.played.done.append((now, call.inputs))
            self.controller.served(now, call, answer.limits)
            return
        away_s = 0.0
        if answer.status == 429:
            away_s = self.controller.throttled(now, call, answer.retry_after_s)
        else:
            self.controller.failed(now, call, answer.status)
        for task in call.tasks:
            task.refusals += 1
        self._later(now + away_s, self._back, call.tasks)

    def _start_calls(self, now: float) -> None:
        while self.backlog and self.inside < self.scene.slots:
            self.backlog, self.inside = self.backlog - 1, self.inside + 1
            self.waiting.append(Task(self.scene.text(self.rng)))
        while self.waiting and self.in_flight < self.scene.parallel:
            tasks, size = self._batch()
            wait_s = self.controller.wait_s(now, size, self.in_flight)
            if wait_s > 1e-9:
                if wait_s < inf and (now + wait_s < self.wake_at or self.wake_at <= now):
                    self.wake_at = now + wait_s
                    self._later(self.wake_at, self._wake)
                return
            self._send(now, tasks, size)

    def _batch(self) -> tuple[list[Task], int]:
        most, most_bytes = self.controller.most()
        most = most if self.scene.parallel == 1 else 1
        tasks, size = list[Task](), 0
        for task in self.waiting:
            if tasks and (len(tasks) >= most or size + task.text.bytes > most_bytes):
                break
            tasks.append(task)
            size += task.text.bytes
        return tasks, size

    def _send(self, now: float, tasks: list[Task], size: int) -> None:
        for _ in tasks:
            self.waiting.popleft()
        self.in_flight += 1
        texts = [task.text for task in tasks]
        call = Sent(tasks, size, sum(text.tokens for text in texts), self.in_flight)
        self.controller.started(now, call)
        answer = self.provider.answer(now, texts)
        self._later(now + answer.after_s, self._answered, call, answer, self.generation)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run; see ``Bounds``."""

    used: float
    refused: float
    back_s: float
    too_large: int
    too_large_late: float
    too_large_again: int


def figures(scene: Scene, played: Played) -> Figures:
    used = played.served(scene.warm_up_s, scene.seconds) / (scene.best * (scene.seconds - scene.warm_up_s))
    if len(scene.arrivals) > 1:
        first, tasks = scene.arrivals[-1]
        ended = played.done[-1][0] if played.served(first, inf) >= tasks else inf
        used = tasks / scene.best / (ended - first)
    steady = [status == 429 for at, status in played.calls if at > scene.warm_up_s]
    large = [status == 413 for _, status in played.calls]
    late = large[1_000:2_000]
    return Figures(
        used,
        sum(steady) / max(1, len(steady)),
        max([0.0, *(_back_s(scene, played, at, rate) for at, rate in scene.possible)]),
        sum(large),
        sum(late) / max(1, len(late)),
        sum(status == 413 and at > max(scene.restarts, default=0.0) for at, status in played.calls),
    )


def _back_s(scene: Scene, played: Played, at: float, rate: float) -> float:
    """Seconds until a span with 90 % of the possible begins: two seconds, or ten calls if that is longer."""
    span_s = max(2.0, 10 * scene.slots / scene.parallel / rate)
    moments = [at, *(moment for moment, _ in played.done if moment >= at)]
    return next((t - at for t in moments if played.served(t, t + span_s) >= 0.9 * rate * span_s), inf)
