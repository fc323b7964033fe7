"""A model with habits, in a house; and tasks in slots, as the scheduler has them."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any

from ai_task_processor.core.errors import RemoteError, TaskError
from ai_task_processor.core.ports import Clock
from ai_task_processor.engine.outcome import classify
from ai_task_processor.models.task import Embedded, Failed, Released, Tries
from tests.unit.processors.embedding.house import Ask, Habit, House

#: when it is due, its place in the order, text, model, tries
_Entry = tuple[float, int, str, str, Tries]


class Busy(House):
    """A house whose model has a habit; ``asked``: its calls."""

    def __init__(self, clock: Clock, habit: Habit = lambda _: None, takes_s: float = 1.0, **more: Any) -> None:
        super().__init__(clock, takes_s, **more)
        self.model.habit = habit
        self._began_at = clock.monotonic()

    @property
    def asked(self) -> list[Ask]:
        return self.model.asked

    @property
    def sizes(self) -> list[int]:
        return self.model.sizes

    def of(self, text: str) -> list[Ask]:
        """The calls that carried this text."""
        return [ask for ask in self.asked if text in ask.texts]

    def forget(self) -> None:
        self.asked.clear()

    async def prepare(self, *texts: str) -> None:
        """These texts are asked for, and their calls forgotten."""
        await self.embed(*texts)
        self.forget()

    @property
    def now(self) -> float:
        return self.clock.monotonic() - self._began_at

    async def rest(self, answers: Iterable[Embedded | BaseException]) -> float:
        """Sleep for as long as the longest of these asks; answers how long that was."""
        waits = [error.retry_after_s for error in answers if isinstance(error, RemoteError)]
        wait_s = max([wait_s for wait_s in waits if wait_s is not None], default=0.0)
        await self.clock.sleep(wait_s)
        return wait_s

    def _admitted(self, due: Iterable[_Entry], running: Counter[str]) -> Iterator[_Entry]:
        """Those that may start now; ``running`` counts them. A model that must wait is asked once."""
        held = set[str]()
        for entry in due:
            model = entry[3]
            if model in held or self.batcher.lane_hold_s(model, running[model]) > 0:
                held.add(model)
                continue
            running[model] += 1
            yield entry

    async def work(self, tasks: Sequence[tuple[str, str]], slots: int, seconds: float) -> dict[str, tuple[str, float]]:
        """Work on (text, model) tasks, oldest first, in so many slots; answers how each ended, and when.

        They are admitted by ``lane_hold_s`` and given back for as long as the verdict says. It ends when all have
        ended, or after so many seconds.
        """
        self.intake.slots = slots
        rng, order, ended = random.Random(1), count(), {}
        pending = [(0.0, next(order), text, model, Tries()) for text, model in tasks]
        running: dict[asyncio.Task[Embedded], tuple[str, str, Tries]] = {}
        ends_at = self.now + seconds
        try:
            while (pending or running) and self.now < ends_at:
                lanes = Counter(model for _, model, _ in running.values())
                due = (entry for entry in list(pending) if entry[0] <= self.now)
                for entry in islice(self._admitted(due, lanes), slots - len(running)):
                    _, _, text, model, tries = entry
                    pending.remove(entry)
                    running[asyncio.create_task(self.batcher.embed(text, model))] = text, model, tries
                await self.clock.sleep(0.1)
                for task in [task for task in running if task.done()]:
                    text, model, tries = running.pop(task)
                    error = task.exception()
                    if error is None:
                        ended[text] = "done", self.now
                        continue
                    assert isinstance(error, RemoteError | TaskError), error
                    match classify(error, tries, rng):
                        case Failed(failure):
                            ended[text] = failure.code, self.now
                        case Released(delay_s, _):
                            pending.append((self.now + delay_s, next(order), text, model, tries))
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
        return ended
