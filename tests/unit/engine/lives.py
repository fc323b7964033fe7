"""One life of the daemon after another in virtual time: the real recovery and journal over a model of slots and tasks.

The model knows how long tasks take, which of them kill the process, and when it is killed from outside. Everything
that is decided is decided by ``Recovery``: the model asks it what the scheduler asks it.
"""

import heapq
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.models.task import Claim, Task
from ai_task_processor.testing.memory import MemoryJournal, MemoryOutbox
from tests.helpers import at_once
from tests.unit.engine.parts import claim

#: from the death of a process to the first poll of the next one
START_S = 0.3
#: how often a slot that found nothing, and a stretch of isolated runs, look again
LOOK_S = 0.25
#: a list that is not in order of creation is a random part of what is pending
LISTED = 12


class Time:
    """``ports.Clock`` that stands still until it is set."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Killer:
    """Ends the process ``after_s`` of its run, with a probability."""

    after_s: float
    probability: float = 1.0


class Lives:
    """``takes``: seconds by task id. ``in_order``: does the task API list them in their order?

    ``restarts_only``: recovery forgets everything at once, for comparison.
    """

    def __init__(
        self,
        takes: Mapping[str, float],
        *,
        slots: int,
        rng: random.Random,
        killers: Mapping[str, Killer] | None = None,
        in_order: bool = True,
        restarts_only: bool = False,
    ) -> None:
        self.time = Time()
        self.outbox = MemoryOutbox(2**30, self.time)
        self.journal = MemoryJournal(monotonic=self.time.monotonic)
        self.pending = dict(takes)
        #: when each task was done, at how many deaths it was in flight, at how many of those isolated
        self.done: dict[str, float] = {}
        self.deaths: Counter[str] = Counter()
        self.isolated_deaths: Counter[str] = Counter()
        self.isolated: set[str] = set()
        #: seconds of all slots that isolation kept idle while other tasks were listed
        self.lost_s = 0.0
        self._slots = slots
        self._rng = rng
        self._killers = killers or {}
        self._in_order = in_order
        self._restarts_only = restarts_only

    @property
    def quarantined(self) -> set[str]:
        held = at_once(self.outbox.held(list(self.deaths)))
        return {name for name, each in held.items() if each.standing == "quarantined"}

    async def live(self, until: float) -> bool:
        """Start, and work until that time, the death by a killer, or the end of all work; is there work left?"""
        self.time.at += START_S
        self.journal = MemoryJournal(self.journal.lines, monotonic=self.time.monotonic)
        self._recovery = Recovery(self.journal, self.outbox, source="aletheia", clock=self.time)
        await self._recovery.begin()
        for name in self.quarantined & self.pending.keys():
            del self.pending[name]
        if self._restarts_only:
            for name in list(self.journal.in_flight_at_crash):
                self.journal.clear(name)
        self._running: dict[str, float] = {}
        self._events: list[tuple[float, str, bool]] = []
        while self.pending:
            self._fill()
            self._step()
            if not self._advance(until):
                self._die()
                return bool(self.pending)
        return False

    @property
    def _ages(self) -> list[float]:
        return [self.time.at - began_at for began_at in self._running.values()]

    def _fill(self) -> None:
        """Poll as long as polls bring something, or may bring an isolated task instead."""
        again = True
        while again and not self._recovery.isolating and len(self._running) < self._slots:
            self._recovery.look(self._ages)
            started = self._recovery.isolate(self._claims(), self._ages)
            for each in started:
                self._start(each.task)
            if not self._recovery.isolating:
                self._recovery.left_over()
            again = bool(started) or self._recovery.wants_poll

    def _claims(self) -> Sequence[Claim]:
        listed = self.pending
        if not self._in_order and len(listed) > LISTED:
            listed = dict.fromkeys(self._rng.sample(list(listed), LISTED), 0.0)
        startable = (name for name in listed if name not in self._running and not self._recovery.refuse(name))
        names = islice(startable, self._slots - len(self._running))
        return [claim(name) for name in names]

    def _step(self) -> None:
        isolated = self._recovery.step(self._ages, self._slots)
        if isolated is not None:
            assert not self._running, "an isolated task starts beside others"
            self.isolated.add(isolated.task.id)
            self._start(isolated.task)
        elif not self._recovery.isolating:
            self._recovery.left_over()

    def _start(self, task: Task) -> None:
        assert self.journal.isolated is None, "a task starts beside an isolated one"
        at_once(self.journal.begin([task]))
        self._running[task.id] = self.time.at
        takes_s, killer = self.pending[task.id], self._killers.get(task.id)
        kills = killer is not None and self._rng.random() < killer.probability
        ends_at = self.time.at + (min(killer.after_s, takes_s) if kills and killer else takes_s)
        heapq.heappush(self._events, (ends_at, task.id, kills))

    def _advance(self, until: float) -> bool:
        """Go on to the next event; false when the process is dead."""
        at = self._events[0][0] if self._events else until
        if self._recovery.isolating or len(self._running) < self._slots:
            at = min(at, self.time.at + LOOK_S)
        if self._recovery.isolating and len(self.pending) > len(self.journal.in_flight_at_crash) + len(self._running):
            self.lost_s += (min(at, until) - self.time.at) * (1 - len(self._running) / self._slots)
        self.time.at = min(at, until)
        if at >= until:
            return False
        while self._events and self._events[0][0] <= at:
            _, name, kills = heapq.heappop(self._events)
            if kills:
                return False
            self._recovery.ended(at - self._running.pop(name))
            at_once(self.journal.settle(name))
            del self.pending[name]
            self.done[name] = at
        return True

    def _die(self) -> None:
        self.deaths.update(list(self._running))
        if self.journal.isolated is not None:
            self.isolated_deaths[self.journal.isolated] += 1
