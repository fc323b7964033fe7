"""Micro-batches across tasks: many tasks' texts in few model calls, with no task waiting for a full house.

A batch leaves when a call may start and no refill is on its way (50 ms at most): a lone task leaves
at once, a refilled house leaves full. One call per model at a time; another, up to four, only while
the running one is abnormally slow, so that a hung call holds its own batch and nobody else's.
A refusal is bisected until the culprit stands alone; when there is nothing but culprits, the fault
is not theirs, and that model pauses.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ai_task_processor.errors import CircuitOpen, InputRefused, InvalidAnswer, ModelRefused, NeighbourError, Transient
from ai_task_processor.logs import get_logger
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Usage, Vector
from ai_task_processor.ports import Clock, Embeddings

#: OpenAI's published limits for one embeddings call. A token is at least one byte of UTF-8, so bytes
#: bound tokens from above without a tokenizer; only the provider judges whether one text is too long.
MAX_INPUTS = 2_048
MAX_TOKENS = 300_000
LONGEST_GATHERING_S = 0.05
MAX_CALLS_PER_MODEL = 4
#: a call is abnormally slow when it takes this many times the usual, and at least a second
SLOW_FACTOR = 3.0
SLOW_AT_LEAST_S = 1.0
#: this many refusals in a row, with no success between them, are no longer the texts' fault
REFUSALS_IN_A_ROW = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
#: model names come from tasks: no more than so many lanes are remembered
MAX_LANES = 256

log = get_logger(__name__)

Call = Callable[[Sequence[str], str], Awaitable[Embeddings]]


class Intake(Protocol):
    """What batching asks of the scheduler."""

    def refilling(self) -> bool:
        """Are more tasks on their way into free slots right now?"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One text's vector. ``usage`` is its share of the call, by bytes (exact for a text that went alone)."""

    vector: Vector
    usage: Usage


@dataclass(slots=True, eq=False)
class _Waiting:
    """A text, and everyone who waits for its vector."""

    text: str
    size: int
    futures: list[asyncio.Future[Embedded]]


@dataclass(slots=True, eq=False)
class _Lane:
    """One model's queue, and what is known of the model. It is served as long as somebody waits in it."""

    model: str
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    started_at: deque[float] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    served: bool = False
    usual_s: float = 0.0
    refusals: int = 0
    pauses: int = 0
    paused_until: float = 0.0
    trouble: str | None = None


class MicroBatcher:
    """Joins the texts that tasks bring into model calls; ``run`` must be running for them to leave.

    ``call`` is one model call with all its patience; ``hold_s`` says for how long none may start.
    """

    def __init__(
        self, call: Call, *, hold_s: Callable[[], float], intake: Intake, clock: Clock, metrics: Metrics
    ) -> None:
        self.hold_s = hold_s
        self._call = call
        self._intake = intake
        self._clock = clock
        self._metrics = metrics
        self._lanes: dict[str, _Lane] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """The parent of every lane and every call; runs until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            await asyncio.Event().wait()

    async def embed(self, text: str, model: str) -> Embedded:
        """The vector of one text. Equal texts that wait together share one input.

        Raises ``InputRefused`` when the model refuses this very text, a ``NeighbourError`` otherwise.
        """
        assert self._group is not None, "run() is not running"  # noqa: S101 - a mistake in the composition root
        lane = self._lane(model)
        paused_s = lane.paused_until - self._clock.monotonic()
        if paused_s > 0:
            raise CircuitOpen(f"this model is paused: {lane.trouble}", retry_after_s=paused_s)
        if not lane.served:
            lane.served = True
            self._group.create_task(self._serve(lane), name="batch-lane")
        future: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
        waiting = lane.waiting.get(text)
        if waiting is None:
            waiting = lane.waiting[text] = _Waiting(text, len(text.encode()), [])
        waiting.futures.append(future)
        lane.changed.set()
        return await future

    def troubles(self) -> dict[str, str]:
        """Why which model is paused, for ``/status``."""
        return {lane.model[:64]: lane.trouble for lane in self._lanes.values() if lane.trouble}

    def _lane(self, model: str) -> _Lane:
        lane = self._lanes.get(model)
        if lane is None:
            if len(self._lanes) >= MAX_LANES:
                self._lanes = {name: other for name, other in self._lanes.items() if other.served}
            lane = self._lanes[model] = _Lane(model)
        return lane

    async def _serve(self, lane: _Lane) -> None:
        """Send the lane's batches, one after the other, until nobody waits and nothing is under way."""
        assert self._group is not None  # noqa: S101 - embed() has checked
        while lane.waiting or lane.started_at:
            if not lane.waiting or not self._may_start(lane):
                await self._change(lane)
                continue
            await self._gather()
            batch = _take(lane)
            if batch:
                started_at = self._clock.monotonic()
                lane.started_at.append(started_at)
                self._group.create_task(self._send(lane, batch, started_at), name="model-call")
        lane.served = False

    def _may_start(self, lane: _Lane) -> bool:
        if len(lane.started_at) >= MAX_CALLS_PER_MODEL:
            return False
        return not lane.started_at or self._slow_in(lane) <= 0

    def _slow_in(self, lane: _Lane) -> float:
        """Seconds until the youngest running call counts as abnormally slow."""
        slow_s = max(SLOW_AT_LEAST_S, SLOW_FACTOR * lane.usual_s)
        return lane.started_at[-1] + slow_s - self._clock.monotonic()

    async def _change(self, lane: _Lane) -> None:
        """Wait until something arrives or returns, or until the running call has become slow."""
        lane.changed.clear()
        slow_in = self._slow_in(lane) if lane.waiting and lane.started_at else 0.0
        try:
            async with asyncio.timeout(slow_in if slow_in > 0 else None):
                await lane.changed.wait()
        except TimeoutError:
            return

    async def _gather(self) -> None:
        """Give a refill that is on its way the chance to come along."""
        await asyncio.sleep(0)
        ends_at = self._clock.monotonic() + LONGEST_GATHERING_S
        while self._intake.refilling() and self._clock.monotonic() < ends_at:
            await self._clock.sleep(0.001)

    async def _send(self, lane: _Lane, batch: list[_Waiting], started_at: float) -> None:
        error: Exception = Transient("the model call was given up")
        try:
            await self._isolate(lane, batch)
        except ModelRefused as refusal:
            error = self._pause(lane, refusal)
        except NeighbourError as fault:
            error = fault
        except Exception as bug:
            log.error("model.crashed", model=lane.model, exc_info=bug)
            error = Transient(f"the model call failed: {type(bug).__name__}")
        finally:
            for waiting in batch:
                _fail(waiting, error)
            lane.started_at.remove(started_at)
            took_s = self._clock.monotonic() - started_at
            lane.usual_s = took_s if lane.usual_s == 0.0 else 0.8 * lane.usual_s + 0.2 * took_s
            lane.changed.set()

    def _pause(self, lane: _Lane, refusal: ModelRefused) -> CircuitOpen:
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(lane.pauses, 16), LONGEST_PAUSE_S)
        lane.pauses += 1
        lane.paused_until = self._clock.monotonic() + pause_s
        lane.trouble = str(refusal)
        log.warning("model.paused", model=lane.model, reason=lane.trouble, seconds=pause_s)
        return CircuitOpen(f"this model is paused: {lane.trouble}", retry_after_s=pause_s)

    async def _isolate(self, lane: _Lane, batch: list[_Waiting]) -> None:
        """Embed a batch; when it is refused, halve it until only the culprits are refused."""
        refused: list[tuple[_Waiting, InputRefused]] = []
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                self._settle(part, await self._embed(lane.model, part))
            except InputRefused as error:
                if len(part) == 1:
                    refused.append((part[0], error))
                else:
                    self._metrics.batch_isolated()
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        if len(refused) < len(batch):
            lane.refusals, lane.pauses, lane.trouble = 0, 0, None
        else:
            lane.refusals += len(refused)
            if len(batch) > 1 or lane.refusals >= REFUSALS_IN_A_ROW:
                raise ModelRefused("every text is refused: the request is at fault, not the texts", status=400)
        for waiting, refusal in refused:
            _fail(waiting, refusal)

    async def _embed(self, model: str, part: list[_Waiting]) -> Embeddings:
        self._metrics.batch(model=model, size=len(part))
        return await self._call([waiting.text for waiting in part], model)

    def _settle(self, part: list[_Waiting], answer: Embeddings) -> None:
        total = sum(waiting.size for waiting in part) or 1
        for waiting, vector in zip(part, answer.vectors, strict=True):
            if vector is None:
                _fail(waiting, InvalidAnswer("the model answered an unusable vector"))
                continue
            share = round(answer.usage.prompt_tokens * waiting.size / total)
            for future in waiting.futures:
                if not future.done():
                    future.set_result(Embedded(vector, Usage(share)))


def _take(lane: _Lane) -> list[_Waiting]:
    """The next batch, oldest first, within the limits of one call. Texts nobody waits for any more are dropped."""
    batch: list[_Waiting] = []
    size = 0
    for text, waiting in list(lane.waiting.items()):
        if all(future.done() for future in waiting.futures):
            del lane.waiting[text]
            continue
        size += waiting.size
        if batch and (len(batch) == MAX_INPUTS or size > MAX_TOKENS):
            break
        batch.append(lane.waiting.pop(text))
    return batch


def _fail(waiting: _Waiting, error: Exception) -> None:
    for future in waiting.futures:
        if not future.done():
            future.set_exception(error)
