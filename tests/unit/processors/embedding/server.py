"""A model with habits, in a house; and tasks in slots, as the scheduler has them."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from ai_task_processor.core.errors import CallRefused, InputRefused, RemoteError, TaskError
from ai_task_processor.core.ports import Clock, Embeddings
from ai_task_processor.engine.outcome import classify
from ai_task_processor.models.task import Embedded, Failed, Released, Tries
from tests.unit.processors.embedding.house import House, served


@dataclass(frozen=True)
class After:
    """An outcome that takes so many seconds; None hangs for ever."""

    seconds: float | None
    outcome: "Exception | Embeddings | None" = None


@dataclass(frozen=True)
class Ask:
    """One call as the model sees it; ``at``: seconds since the house was built, ``number``: from 0."""

    texts: list[str]
    model: str
    at: float
    number: int

    def has(self, *words: str) -> bool:
        return any(word in self.texts for word in words)


#: what becomes of a call; None is served
Habit = Callable[[Ask], Exception | Embeddings | After | None]


def refused() -> CallRefused:
    """400 in words that say nothing."""
    final = InputRefused("input_refused", "the model refuses this text")
    return CallRefused("the model API answered 400", status=400, final=final)


class Busy(House):
    """A house whose model has a habit; ``asked``: its calls."""

    def __init__(self, clock: Clock, habit: Habit = lambda _: None, takes_s: float = 1.0, **more: Any) -> None:
        super().__init__(clock, call=self._call, **more)
        self.habit = habit
        self.takes_s = takes_s
        self.asked: list[Ask] = []
        self.running = 0
        self._began_at = clock.monotonic()

    async def _call(self, texts: Sequence[str], model: str) -> Embeddings:
        ask = Ask(list(texts), model, self.clock.monotonic() - self._began_at, len(self.asked))
        self.asked.append(ask)
        assert ask.number < 5_000, "calls without end"
        self.running += 1
        try:
            outcome = self.habit(ask)
            after = outcome if isinstance(outcome, After) else After(self.takes_s, outcome)
            if after.seconds is None:
                await asyncio.Event().wait()
            elif after.seconds:
                await self.clock.sleep(after.seconds)
        finally:
            self.running -= 1
        if isinstance(after.outcome, Exception):
            raise after.outcome
        return served(texts) if after.outcome is None else after.outcome

    @property
    def sizes(self) -> list[int]:
        return [len(ask.texts) for ask in self.asked]

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
                for entry in [entry for entry in pending if entry[0] <= self.now]:
                    _, _, text, model, tries = entry
                    if len(running) < slots and self.batcher.lane_hold_s(model, lanes[model]) <= 0:
                        lanes[model] += 1
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
