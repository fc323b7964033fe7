"""A batcher in virtual time, with a model and an intake that do what a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from hypothesis import settings

from ai_task_processor.core.errors import CallRefused, InputRefused
from ai_task_processor.core.ports import Clock, Embeddings
from ai_task_processor.models.task import Embedded, Usage, Vector
from ai_task_processor.net.resilience import Retries
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.embedding import MicroBatcher, ModelCircuits
from ai_task_processor.processors.embedding.cache import VectorCache

#: a property test makes a clock for every example
EXAMPLES = settings(deadline=None)
REFUSED = InputRefused("input_refused", "the model refuses this text")


def vector(text: str) -> Vector:
    """Every text has its own, so that a mix-up shows."""
    return Vector(text.encode("utf-32-le")[:64].ljust(64, b"\1"))


def served(texts: Sequence[str]) -> Embeddings:
    """One token is charged for each byte."""
    return Embeddings([vector(text) for text in texts], Usage(sum(len(text.encode()) for text in texts)))


@dataclass(frozen=True)
class After:
    """An outcome that takes so many seconds; None hangs for ever."""

    seconds: float | None
    outcome: Exception | Embeddings | None = None


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


class Model:
    """A call becomes what ``habit`` says, after ``takes_s`` unless it says when; ``asked``: its calls.

    By habit calls with a text in ``culprits`` are refused, and with one in ``hanging`` hang.
    """

    def __init__(self, clock: Clock, takes_s: float = 1.0) -> None:
        self.takes_s = takes_s
        self.habit: Habit = self._usual
        self.culprits: set[str] = set()
        self.hanging: set[str] = set()
        self.error: Exception | None = None
        self.asked: list[Ask] = []
        self.times: list[float] = []
        self.running = self.most_running = 0
        self._clock = clock
        self._began_at = clock.monotonic()

    def _usual(self, ask: Ask) -> Exception | After | None:
        if ask.has(*self.hanging):
            return After(None)
        return REFUSED if self.error is None and ask.has(*self.culprits) else self.error

    async def __call__(self, texts: Sequence[str], model: str) -> Embeddings:
        now = self._clock.monotonic()
        ask = Ask(list(texts), model, now - self._began_at, len(self.asked))
        self.asked.append(ask)
        self.times.append(now)
        assert ask.number < 5_000, "calls without end"
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            outcome = self.habit(ask)
            after = outcome if isinstance(outcome, After) else After(self.takes_s, outcome)
            if after.seconds is None:
                await asyncio.Event().wait()
            elif after.seconds:
                await self._clock.sleep(after.seconds)
        finally:
            self.running -= 1
        if isinstance(after.outcome, Exception):
            raise after.outcome
        return served(texts) if after.outcome is None else after.outcome

    @property
    def calls(self) -> list[list[str]]:
        return [ask.texts for ask in self.asked]

    @property
    def sizes(self) -> list[int]:
        return [len(ask.texts) for ask in self.asked]


class Intake:
    """Says whether more tasks are on their way; ``refill`` may be a question."""

    def __init__(self) -> None:
        self.slots = 64
        self.refill: Callable[[], bool] = lambda: False

    def refilling(self) -> bool:
        return self.refill()


class House:
    """A running batcher with its model and intake, and a cache if it is given one."""

    def __init__(
        self,
        clock: Clock,
        takes_s: float = 1.0,
        cache: VectorCache | None = None,
        *,
        length: int | None = 16,
    ) -> None:
        self.clock = clock
        self.model = Model(clock, takes_s)
        self._brought: list[asyncio.Task[list[Embedded | BaseException]]] = []
        self.intake = Intake()
        self.metrics = Metrics(version="1", provider="mock", models=["m"])
        self.circuits = ModelCircuits(threshold=5, clock=clock, metrics=self.metrics)
        self.batcher = MicroBatcher(
            self.model,
            circuits=self.circuits,
            threshold=5,
            retries=Retries(3, 2.0),
            cache=cache,
            length_of=lambda _: (length, None),
            intake=self.intake,
            clock=clock,
            metrics=self.metrics,
        )

    async def embed(self, *texts: str, model: str = "m", after_s: float = 0.0) -> list[Embedded | BaseException]:
        """What becomes of these texts, brought at the same time."""
        if after_s:
            await self.clock.sleep(after_s)
        return await asyncio.gather(*(self.batcher.embed(text, model) for text in texts), return_exceptions=True)

    def bring(self, *texts: str, **more: Any) -> asyncio.Task[list[Embedded | BaseException]]:
        """The same beside the test; what still waits at its end is cancelled."""
        task = asyncio.create_task(self.embed(*texts, **more))
        self._brought.append(task)
        return task

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        running = asyncio.create_task(self.batcher.run(asyncio.Event()))
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
            for task in self._brought:
                task.cancel()
            await asyncio.wait(self._brought or [running])


def texts(count: int, name: str = "t") -> list[str]:
    return [f"{name}{n}" for n in range(count)]


def errors(answers: Iterable[Embedded | BaseException]) -> list[type]:
    return [type(answer) for answer in answers]
