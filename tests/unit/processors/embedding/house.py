"""A batcher in virtual time, with a model and an intake that do what a test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from hypothesis import settings

from ai_task_processor.core.errors import InputRefused
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


class Model:
    """One call takes ``takes_s``; calls with a text in ``culprits`` are refused, and with one in ``hanging`` hang."""

    def __init__(self, clock: Clock, takes_s: float = 1.0) -> None:
        self.clock = clock
        self.takes_s = takes_s
        self.culprits: set[str] = set()
        self.hanging: set[str] = set()
        self.error: Exception | None = None
        self.calls: list[list[str]] = []
        self.times: list[float] = []
        self.running = self.most_running = 0

    async def __call__(self, texts: Sequence[str], model: str) -> Embeddings:
        self.calls.append(list(texts))
        self.times.append(self.clock.monotonic())
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            if self.hanging & set(texts):
                await asyncio.Event().wait()
            if self.takes_s:
                await self.clock.sleep(self.takes_s)
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        if self.culprits & set(texts):
            raise REFUSED
        return served(texts)

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


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
        call: Callable[[Sequence[str], str], Awaitable[Embeddings]] | None = None,
        length: int | None = 16,
    ) -> None:
        self.clock = clock
        self.model = Model(clock, takes_s)
        self._brought: list[asyncio.Task[list[Embedded | BaseException]]] = []
        self.intake = Intake()
        self.metrics = Metrics(version="1", provider="mock", models=["m"])
        self.circuits = ModelCircuits(threshold=5, clock=clock, metrics=self.metrics)
        self.batcher = MicroBatcher(
            call or self.model,
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
