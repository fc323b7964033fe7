"""Micro-batches across tasks: many tasks' texts in few model calls, with no task waiting for a full house.

A batch leaves when a call may start and no refill is on its way (waiting at most 50 ms, or a tenth of
what a call usually takes): a lone task leaves at once, a refilled house leaves full. One call per model
at a time; another, up to four, only while the running one is abnormally slow, so that a hung call
holds its own batch and nobody else's.
A refusal is bisected until the culprit stands alone; when there is nothing but culprits, the fault
is not theirs, and that model pauses.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
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
#: how long a batch waits for a refill: so many seconds, or this share of the usual call if that is more
GATHERING_S, GATHERING_SHARE = 0.05, 0.1
MAX_CALLS_PER_MODEL = 4
#: a call is abnormally slow when it takes this many times the usual, and at least a second
SLOW_FACTOR = 3.0
SLOW_AT_LEAST_S = 1.0
#: this many refusals in a row, with no success between them, are no longer the texts' fault
REFUSALS_IN_A_ROW = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
#: model names come from tasks: no more than so many lanes exist
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
    futures: list[asyncio.Future[Embedded]] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Does anybody still wait for it?"""
        return not all(future.done() for future in self.futures)


@dataclass(slots=True, eq=False)
class _Running:
    """A batch on its way, and when its call counts as abnormally slow."""

    batch: list[_Waiting]
    slow_at: float


@dataclass(slots=True, eq=False)
class _Lane:
    """One model's queue, and what is known of the model. It is served as long as somebody waits in it.

    ``running``: the youngest call last. ``returning``: tasks that were answered at ``answered_at`` and
    whose slots have not brought a text since.
    """

    model: str
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    running: list[_Running] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    served: bool = False
    usual_s: float = 0.0
    returning: int = 0
    answered_at: float = 0.0
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
        """The parent of every lane and every call; runs until cancelled. Who still waits then is sent away."""
        try:
            async with asyncio.TaskGroup() as self._group:
                await asyncio.Event().wait()
        finally:
            self._group = None
            for lane in self._lanes.values():
                _send_away([*lane.waiting.values(), *(one for call in lane.running for one in call.batch)], _stopped())
            self._lanes.clear()

    async def embed(self, text: str, model: str) -> Embedded:
        """The vector of one text. Equal texts that wait together share one input.

        Raises ``InputRefused`` when the model refuses this very text, a ``NeighbourError`` otherwise.
        """
        if self._group is None:
            raise _stopped()
        lane = self._lane(model)
        paused_s = lane.paused_until - self._clock.monotonic()
        if paused_s > 0:
            raise CircuitOpen(f"this model is paused: {lane.trouble}", retry_after_s=paused_s)
        waiting = lane.waiting.get(text) or _Waiting(text, _size(text))
        future: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
        waiting.futures.append(future)
        lane.waiting[text] = waiting
        lane.returning = max(0, lane.returning - 1)
        lane.changed.set()
        if not lane.served:
            lane.served = True
            # A context of its own: the task that happens to be first must not sign what is logged for all.
            self._group.create_task(self._serve(lane, self._group), name="batch-lane", context=Context())
        return await future

    def troubles(self) -> dict[str, str]:
        """Why which model is paused, for ``/status``."""
        return {lane.model[:64]: lane.trouble for lane in self._lanes.values() if lane.trouble}

    def _lane(self, model: str) -> _Lane:
        """The lane of a model. The one that was idle for longest makes room for a new one."""
        lane = self._lanes.pop(model, None) or _Lane(model)
        if len(self._lanes) >= MAX_LANES:
            idle = next((name for name, other in self._lanes.items() if not other.served), None)
            if idle is None:
                raise CircuitOpen("too many models are asked for at once", retry_after_s=1.0)
            del self._lanes[idle]
        self._lanes[model] = lane
        return lane

    async def _serve(self, lane: _Lane, group: asyncio.TaskGroup) -> None:
        """Send the lane's batches, one after the other, until nobody waits and nothing is under way."""
        while lane.waiting or lane.running:
            if not lane.waiting or not self._may_start(lane):
                lane.changed.clear()
                await lane.changed.wait()
                continue
            await self._gather(lane)
            batch = _take(lane)
            if batch:
                slow_s = max(SLOW_AT_LEAST_S, SLOW_FACTOR * lane.usual_s)
                call = _Running(batch, self._clock.monotonic() + slow_s)
                lane.running.append(call)
                group.create_task(self._send(lane, call, group), name="model-call")
        lane.served = False

    def _may_start(self, lane: _Lane) -> bool:
        """Only the youngest call is looked at: it could start because the older ones were slow already."""
        if len(lane.running) >= MAX_CALLS_PER_MODEL:
            return False
        return not lane.running or lane.running[-1].slow_at <= self._clock.monotonic()

    async def _gather(self, lane: _Lane) -> None:
        """Give a refill that is on its way the chance to come along."""
        await asyncio.sleep(0)
        longest_s = max(GATHERING_S, GATHERING_SHARE * lane.usual_s)
        ends_at = self._clock.monotonic() + longest_s
        while len(lane.waiting) < MAX_INPUTS and (now := self._clock.monotonic()) < ends_at:
            returning = lane.returning > 0 and now < lane.answered_at + longest_s
            if not returning and not self._intake.refilling():
                return
            await self._clock.sleep(0.001)

    async def _send(self, lane: _Lane, call: _Running, group: asyncio.TaskGroup) -> None:
        alarm = group.create_task(self._ring(lane, call.slow_at), name="slow-call-alarm")
        error: Exception = _stopped()
        try:
            await self._isolate(lane, call.batch)
        except ModelRefused as refusal:
            error = self._pause(lane, refusal)
        except NeighbourError as fault:
            error = fault
        except Exception as bug:
            log.error("model.crashed", model=lane.model[:64], exc_info=bug)
            error = Transient(f"the model call failed: {type(bug).__name__}")
        finally:
            alarm.cancel()
            _send_away(call.batch, error)
            lane.running.remove(call)
            lane.returning = sum(len(waiting.futures) for waiting in call.batch)
            lane.answered_at = self._clock.monotonic()
            lane.changed.set()

    async def _ring(self, lane: _Lane, at: float) -> None:
        """Wake the lane when its call has become slow."""
        while (left_s := at - self._clock.monotonic()) > 0:
            await self._clock.sleep(left_s)
        lane.changed.set()

    def _pause(self, lane: _Lane, refusal: ModelRefused) -> CircuitOpen:
        """Nobody asks this model for a while; who already waits for it is sent away, too."""
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(lane.pauses, 16), LONGEST_PAUSE_S)
        (log.debug if lane.trouble else log.warning)(
            "neighbour.paused", service="model", model=lane.model[:64], reason=str(refusal), seconds=pause_s
        )
        lane.pauses += 1
        lane.paused_until = self._clock.monotonic() + pause_s
        lane.trouble = str(refusal)
        error = CircuitOpen(f"this model is paused: {lane.trouble}", retry_after_s=pause_s)
        _send_away(lane.waiting.values(), error)
        lane.waiting.clear()
        return error

    async def _isolate(self, lane: _Lane, batch: list[_Waiting]) -> None:
        """Embed a batch; when it is refused, halve it until only the culprits are refused."""
        refused: list[tuple[_Waiting, InputRefused]] = []
        served = False
        parts = [batch]
        while parts:
            part = [waiting for waiting in parts.pop() if waiting.wanted]
            if not part:
                continue
            try:
                _settle(part, await self._embed(lane, part))
                served = True
            except InputRefused as error:
                if len(part) == 1:
                    refused.append((part[0], error))
                else:
                    self._metrics.batch_isolated()
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
            if served:
                # The model serves others: these are culprits, whatever becomes of the rest.
                _refuse(refused)
        if refused:
            lane.refusals += len(refused)
            if len(batch) > 1 or lane.refusals >= REFUSALS_IN_A_ROW:
                raise ModelRefused("every text is refused: the request is at fault, not the texts", status=400)
        _refuse(refused)

    async def _embed(self, lane: _Lane, part: list[_Waiting]) -> Embeddings:
        """One call. Its success is good news about the model, whatever becomes of the rest of the batch."""
        self._metrics.batch(model=lane.model, size=len(part))
        started_at = self._clock.monotonic()
        answer = await self._call([waiting.text for waiting in part], lane.model)
        took_s = self._clock.monotonic() - started_at
        lane.usual_s = took_s if lane.usual_s == 0.0 else 0.8 * lane.usual_s + 0.2 * took_s
        if lane.trouble:
            log.info("neighbour.resumed", service="model", model=lane.model[:64], after=lane.trouble)
        lane.refusals, lane.pauses, lane.paused_until, lane.trouble = 0, 0, 0.0, None
        return answer


def _stopped() -> Transient:
    return Transient("the model calls have been stopped")


def _size(text: str) -> int:
    """Bytes of UTF-8. Raises ``InputRefused`` for what cannot be sent: it would spoil its neighbours' call."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InputRefused("invalid_text", "the text is not valid Unicode") from error


def _settle(part: list[_Waiting], answer: Embeddings) -> None:
    total = sum(waiting.size for waiting in part) or 1
    for waiting, vector in zip(part, answer.vectors, strict=True):
        if vector is None:
            _send_away([waiting], InvalidAnswer("the model answered an unusable vector"))
            continue
        share = round(answer.usage.prompt_tokens * waiting.size / total)
        for future in waiting.futures:
            if not future.done():
                future.set_result(Embedded(vector, Usage(share)))


def _take(lane: _Lane) -> list[_Waiting]:
    """The next batch, oldest first, within the limits of one call. Texts nobody waits for any more are dropped."""
    batch: list[_Waiting] = []
    abandoned: list[_Waiting] = []
    size = 0
    for waiting in lane.waiting.values():
        if not waiting.wanted:
            abandoned.append(waiting)
            continue
        size += waiting.size
        if batch and (len(batch) == MAX_INPUTS or size > MAX_TOKENS):
            break
        batch.append(waiting)
    for waiting in (*batch, *abandoned):
        del lane.waiting[waiting.text]
    return batch


def _refuse(culprits: list[tuple[_Waiting, InputRefused]]) -> None:
    """Tell them, once."""
    while culprits:
        waiting, refusal = culprits.pop()
        _send_away([waiting], refusal)


def _send_away(group: Iterable[_Waiting], error: Exception) -> None:
    for waiting in group:
        for future in waiting.futures:
            if not future.done():
                future.set_exception(error)
