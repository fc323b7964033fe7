"""Micro-batches across tasks: many tasks' texts in few model calls, with no task waiting for a full house.

A batch leaves when a call may start and no refill is on its way (waiting at most 50 ms, or a tenth of
what a call usually takes): a lone task leaves at once, a refilled house leaves full. One call per model
at a time; another, up to four, only while the running one is abnormally slow, so that a hung call
holds its own batch and nobody else's. A large house goes in two halves: while one is at the model, the
other's results are written down and its slots refilled. A model that answers 429, or tells how little it
still allows, is asked at its pace (``pacing.py``); meanwhile the batch grows.
Equal texts are paid for once: whoever brings one that waits or is on its way shares its answer, and
vectors are remembered (``vector_cache.py``).
A refusal is bisected until the culprit stands alone; when there is nothing but culprits, the fault
is not theirs, and that model pauses.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Protocol

from ai_task_processor.errors import (
    CircuitOpen,
    InputRefused,
    InvalidAnswer,
    ModelRefused,
    NeighbourError,
    Throttled,
    Transient,
)
from ai_task_processor.logs import get_logger
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Usage, Vector
from ai_task_processor.pacing import LONGEST_WAIT_S, Pacer
from ai_task_processor.ports import Clock, Embeddings
from ai_task_processor.vector_cache import VectorCache

#: OpenAI's published limits for one embeddings call. A token is at least one byte of UTF-8, so bytes
#: bound tokens from above without a tokenizer; only the provider judges whether one text is too long.
MAX_INPUTS = 2_048
MAX_TOKENS = 300_000
#: how long a batch waits for a refill: so many seconds, or this share of the usual call if that is more
GATHERING_S, GATHERING_SHARE = 0.05, 0.1
#: that a refill comes to nothing is seen this late at most; that it is complete is seen at once
LOOK_AGAIN_S = 0.005
MAX_CALLS_PER_MODEL = 4
#: to join more texts than this saves next to nothing: of twice as many, half go while the others are under way,
#: unless the model answers so soon that there is nothing to do meanwhile
FULL_BATCH, HALVED_FROM_S = 128, 0.05
#: a call is abnormally slow when it takes this many times the usual, and at least a second
SLOW_FACTOR = 3.0
SLOW_AT_LEAST_S = 1.0
#: this many refusals in a row, with no success between them, are no longer the texts' fault
REFUSALS_IN_A_ROW = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
#: model names come from tasks: no more than so many lanes exist
MAX_LANES = 256

log = get_logger(__name__)

#: a frozen object takes longer to build than to find
_usage = lru_cache(maxsize=1024)(Usage)

Call = Callable[[Sequence[str], str], Awaitable[Embeddings]]
Attempt = Callable[[], Awaitable[Embeddings]]


class Intake(Protocol):
    """What batching asks of the scheduler."""

    @property
    def slots(self) -> int:
        """How many tasks may run at once."""

    def refilling(self) -> bool:
        """Are more tasks on their way into free slots right now?"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One text's vector. ``usage`` is its share of the call, by bytes (exact for a text that went alone).

    It is nothing when the vector was remembered.
    """

    vector: Vector
    usage: Usage


@dataclass(slots=True, eq=False)
class _Waiting:
    """A text, and everyone who waits for its vector. ``key``: its place in the cache."""

    text: str
    size: int
    key: bytes
    futures: list[asyncio.Future[Embedded]]

    @property
    def wanted(self) -> bool:
        """Does anybody still wait for it?"""
        for future in self.futures:  # noqa: SIM110 - a generator costs four times as much, and this is asked often
            if not future.done():
                return True
        return False


@dataclass(slots=True, eq=False)
class _Running:
    """A batch on its way, when its call counts as abnormally slow, and what tells those who wait for that."""

    batch: list[_Waiting]
    slow_at: float
    alarm: asyncio.Task[None] | None = None


@dataclass(slots=True, eq=False)
class _Lane:
    """One model's queue, and what is known of the model. It is served as long as somebody waits in it.

    ``texts``: those in the queue and those on their way, for whoever brings the same. ``running``: the
    youngest call last. ``gathering``: the queue waits for a refill. ``returning``: tasks that were answered
    at ``answered_at`` and whose slots have not brought a text since.
    """

    model: str
    pacer: Pacer
    texts: dict[str, _Waiting] = field(default_factory=dict)
    queue: deque[_Waiting] = field(default_factory=deque)
    running: list[_Running] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    served: bool = False
    gathering: bool = False
    gathered_by: float = 0.0
    usual_s: float = 0.0
    returning: int = 0
    answered_at: float = 0.0
    refusals: int = 0
    pauses: int = 0
    paused_until: float = 0.0
    trouble: str | None = None

    @property
    def longest_s(self) -> float:
        """For how long a batch waits for a refill."""
        return max(GATHERING_S, GATHERING_SHARE * self.usual_s)

    def send_away(self, group: Iterable[_Waiting], error: Exception) -> None:
        """Tell everyone who waits for these texts."""
        for waiting in group:
            self.forget(waiting)
            for future in waiting.futures:
                if not future.done():
                    future.set_exception(error)

    def forget(self, waiting: _Waiting) -> None:
        """Nobody can join it any more."""
        if self.texts.get(waiting.text) is waiting:
            del self.texts[waiting.text]


async def _once(attempt: Attempt) -> Embeddings:
    return await attempt()


class MicroBatcher:
    """Joins the texts that tasks bring into model calls; ``run`` must be running for them to leave.

    ``call`` is one model call, ``patience`` repeats it as long as that is worth while; ``hold_s`` says for
    how long none may start. Without a ``cache`` nothing is remembered.
    """

    def __init__(
        self,
        call: Call,
        *,
        patience: Callable[[Attempt], Awaitable[Embeddings]] = _once,
        cache: VectorCache | None = None,
        hold_s: Callable[[], float],
        intake: Intake,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.hold_s = hold_s
        self._call = call
        self._patience = patience
        self._cache = cache
        self._intake = intake
        self._clock = clock
        self._metrics = metrics
        self._lanes: dict[str, _Lane] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """The parent of every lane and every call; runs until cancelled. Who still waits then is sent away."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._group:
                await asyncio.Event().wait()
        finally:
            self._group = None
            for lane in self._lanes.values():
                lane.send_away([*lane.queue, *(one for call in lane.running for one in call.batch)], _stopped())
            self._lanes.clear()

    async def embed(self, text: str, model: str) -> Embedded:
        """The vector of one text: remembered, or of a call that equal texts share, even when it is under way.

        Raises ``InputRefused`` when the model refuses this very text, a ``NeighbourError`` otherwise.
        """
        if self._group is None:
            raise _stopped()
        encoded, key = _encoded(text), b""
        if self._cache is not None:
            key = self._cache.key(model, encoded)
            if (remembered := self._cache.get(key)) is not None:
                data, tokens = remembered
                self._metrics.vector_remembered(tokens)
                return Embedded(Vector(data), _usage(0))
        lane = self._lanes.get(model)
        if lane is None or not lane.served:
            lane = self._lane(model)
        if lane.paused_until and (paused_s := lane.paused_until - self._clock.monotonic()) > 0:
            raise CircuitOpen(f"this model is paused: {lane.trouble}", retry_after_s=paused_s)
        future: asyncio.Future[Embedded] = self._loop.create_future()
        if (waiting := lane.texts.get(text)) is not None:
            waiting.futures.append(future)
        else:
            lane.texts[text] = waiting = _Waiting(text, len(encoded), key, [future])
            lane.queue.append(waiting)
        if lane.returning:
            lane.returning -= 1
        if not lane.served or lane.gathering or len(lane.queue) == 1 or self._half_is_full(lane):
            self._wake(lane, self._group)
        return await future

    def _wake(self, lane: _Lane, group: asyncio.TaskGroup) -> None:
        """Somebody has come. A lane that gathers is left alone until there is nobody else to wait for."""
        if not lane.served:
            lane.served = True
            # A context of its own: the task that happens to be first must not sign what is logged for all.
            group.create_task(self._serve(lane, group), name="batch-lane", context=Context())
        elif not lane.gathering or not self._expects(lane):
            lane.changed.set()

    def _halves(self, lane: _Lane) -> bool:
        large = self._intake.slots >= 2 * FULL_BATCH and lane.usual_s >= HALVED_FROM_S
        return large and not lane.pacer.scarce

    def _share(self, lane: _Lane) -> int:
        """The most texts for one call."""
        return min(MAX_INPUTS, -(-self._intake.slots // 2)) if self._halves(lane) else MAX_INPUTS

    def _half_is_full(self, lane: _Lane) -> bool:
        return self._halves(lane) and len(lane.queue) >= self._intake.slots // 2

    def troubles(self) -> dict[str, str]:
        """Why which model is paused, for ``/status``."""
        return {lane.model[:64]: lane.trouble for lane in self._lanes.values() if lane.trouble}

    def paces(self) -> dict[str, str]:
        """Why which model is asked slowly, for ``/status``."""
        return {lane.model[:64]: reason for lane in self._lanes.values() if (reason := lane.pacer.reason)}

    def _lane(self, model: str) -> _Lane:
        """The lane of a model. The one that was idle for longest makes room for a new one."""
        lane = self._lanes.pop(model, None) or _Lane(model, Pacer(self._clock))
        if len(self._lanes) >= MAX_LANES:
            idle = next((name for name, other in self._lanes.items() if not other.served), None)
            if idle is None:
                raise CircuitOpen("too many models are asked for at once", retry_after_s=1.0)
            del self._lanes[idle]
        self._lanes[model] = lane
        return lane

    async def _serve(self, lane: _Lane, group: asyncio.TaskGroup) -> None:
        """Send the lane's batches, one after the other, until nobody waits and nothing is under way."""
        while lane.queue or lane.running:
            if not lane.queue or not self._may_start(lane):
                lane.changed.clear()
                if lane.queue and (youngest := lane.running[-1]).alarm is None:
                    youngest.alarm = group.create_task(self._ring(lane, youngest.slow_at), name="slow-call-alarm")
                await lane.changed.wait()
                continue
            if lane.pacer.limited:
                await self._turn(lane, lane.queue[0].size)
            await self._gather(lane, group)
            batch = _take(lane, self._share(lane))
            if batch:
                slow_s = max(SLOW_AT_LEAST_S, SLOW_FACTOR * lane.usual_s)
                call = _Running(batch, self._clock.monotonic() + slow_s)
                lane.running.append(call)
                group.create_task(self._send(lane, call), name="model-call")
        lane.served = False

    def _may_start(self, lane: _Lane) -> bool:
        """Only the youngest call is looked at: it could start because the older ones were slow already."""
        if len(lane.running) >= MAX_CALLS_PER_MODEL:
            return False
        if not lane.running or (len(lane.running) == 1 and self._half_is_full(lane)):
            return True
        return lane.running[-1].slow_at <= self._clock.monotonic()

    async def _turn(self, lane: _Lane, size: int) -> None:
        """Wait until the model's pace lets a call of this size start, but not for ever."""
        ends_at = self._clock.monotonic() + LONGEST_WAIT_S
        while (wait_s := lane.pacer.wait_s(size)) > 0:
            left_s = ends_at - self._clock.monotonic()
            if left_s <= 0:
                lane.pacer.doubt()
                return
            await self._clock.sleep(min(wait_s, left_s))

    async def _gather(self, lane: _Lane, group: asyncio.TaskGroup) -> None:
        """Give a refill that is on its way the chance to come along."""
        await asyncio.sleep(0)
        lane.gathered_by = self._clock.monotonic() + lane.longest_s
        if not self._expects(lane):
            return
        lane.gathering = True
        end = group.create_task(self._end_gathering(lane), name="gathering-end")
        while self._expects(lane):
            lane.changed.clear()
            await lane.changed.wait()
        lane.gathering = False
        end.cancel()

    def _expects(self, lane: _Lane) -> bool:
        """Is a text on its way that the batch should wait for?"""
        now = self._clock.monotonic()
        if now >= lane.gathered_by or len(lane.queue) >= MAX_INPUTS or self._half_is_full(lane):
            return False
        return (lane.returning > 0 and now < lane.answered_at + lane.longest_s) or self._intake.refilling()

    async def _end_gathering(self, lane: _Lane) -> None:
        """Wake the lane when nothing is on its way any more, though nothing has come."""
        while self._expects(lane):
            await self._clock.sleep(min(LOOK_AGAIN_S, max(0.0, lane.gathered_by - self._clock.monotonic())))
        lane.changed.set()

    async def _send(self, lane: _Lane, call: _Running) -> None:
        error: Exception | None = _stopped()
        try:
            await self._isolate(lane, call.batch)
            error = None
        except ModelRefused as refusal:
            error = self._pause(lane, refusal)
        except NeighbourError as fault:
            error = fault
        except Exception as bug:
            log.error("model.crashed", model=lane.model[:64], exc_info=bug)
            error = Transient(f"the model call failed: {type(bug).__name__}")
        finally:
            if call.alarm is not None:
                call.alarm.cancel()
            if error is not None:
                lane.send_away(call.batch, error)
            lane.running.remove(call)
            lane.returning = sum([len(waiting.futures) for waiting in call.batch])
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
        lane.send_away(lane.queue, error)
        lane.queue.clear()
        return error

    async def _isolate(self, lane: _Lane, batch: list[_Waiting]) -> None:
        """Embed a batch; when it is refused, halve it until only the culprits are refused."""
        refused: list[tuple[_Waiting, InputRefused]] = []
        served = halved = False
        parts = [batch]
        while parts:
            part = parts.pop()
            if halved and not (part := _wanted(lane, part)):
                continue
            size = sum([waiting.size for waiting in part])
            if halved and lane.pacer.limited:
                await self._turn(lane, size)
            try:
                self._settle(lane, part, size, await self._embed(lane, part, size))
                served = True
            except InputRefused as error:
                if len(part) == 1:
                    refused.append((part[0], error))
                else:
                    self._metrics.batch_isolated()
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    halved = True
            if served:
                # The model serves others: these are culprits, whatever becomes of the rest.
                _refuse(lane, refused)
        if refused:
            lane.refusals += len(refused)
            if len(batch) > 1 or lane.refusals >= REFUSALS_IN_A_ROW:
                raise ModelRefused("every text is refused: the request is at fault, not the texts", status=400)
        _refuse(lane, refused)

    async def _embed(self, lane: _Lane, part: list[_Waiting], size: int) -> Embeddings:
        """One call. Its success is good news about the model, whatever becomes of the rest of the batch."""
        self._metrics.batch(model=lane.model, size=len(part))
        texts = [waiting.text for waiting in part]
        started_at = self._clock.monotonic()
        answer = await self._patience(partial(self._attempt, lane, texts, size))
        took_s = self._clock.monotonic() - started_at
        lane.usual_s = took_s if lane.usual_s == 0.0 else 0.8 * lane.usual_s + 0.2 * took_s
        if lane.trouble:
            log.info("neighbour.resumed", service="model", model=lane.model[:64], after=lane.trouble)
        lane.refusals, lane.pauses, lane.paused_until, lane.trouble = 0, 0, 0.0, None
        return answer

    async def _attempt(self, lane: _Lane, texts: Sequence[str], size: int) -> Embeddings:
        """One request, from which the pace of the next is learned. An outage is no reason to be slow."""
        pacer = lane.pacer
        rate, began_at = pacer.rate, pacer.started(size)
        try:
            answer = await self._call(texts, lane.model)
            pacer.served(size, answer.usage.prompt_tokens, answer.limits)
            return answer
        except Throttled as error:
            if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                pacer.throttled(size, began_at)
            raise
        finally:
            pacer.ended(size)
            if pacer.rate != rate:
                self._metrics.model_pace(lane.model, pacer.rate)

    def _settle(self, lane: _Lane, part: list[_Waiting], size: int, answer: Embeddings) -> None:
        tokens, cache, texts = answer.usage.prompt_tokens, self._cache, lane.texts
        for waiting, vector in zip(part, answer.vectors, strict=True):
            if vector is None:
                lane.send_away([waiting], InvalidAnswer("the model answered an unusable vector"))
                continue
            share = round(tokens * waiting.size / (size or 1))
            if cache is not None:
                cache.put(waiting.key, vector.data, share)
            texts.pop(waiting.text, None)
            embedded = Embedded(vector, _usage(share))
            for future in waiting.futures:
                if not future.done():
                    future.set_result(embedded)


def _stopped() -> Transient:
    return Transient("the model calls have been stopped")


def _encoded(text: str) -> bytes:
    """UTF-8. Raises ``InputRefused`` for what cannot be sent: it would spoil its neighbours' call."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputRefused("invalid_text", "the text is not valid Unicode") from error


def _take(lane: _Lane, share: int) -> list[_Waiting]:
    """The next batch, oldest first, within the limits of one call. Texts nobody waits for any more are dropped."""
    batch: list[_Waiting] = []
    queue, size = lane.queue, 0
    most = min(MAX_TOKENS, lane.pacer.room) if lane.pacer.limited else MAX_TOKENS
    while queue and len(batch) < share:
        waiting = queue[0]
        if waiting.wanted:
            size += waiting.size
            if batch and size > most:
                break
            batch.append(waiting)
        else:
            lane.forget(waiting)
        queue.popleft()
    return batch


def _wanted(lane: _Lane, part: list[_Waiting]) -> list[_Waiting]:
    """Without the texts that nobody waits for any more."""
    wanted = []
    for waiting in part:
        if waiting.wanted:
            wanted.append(waiting)
        else:
            lane.forget(waiting)
    return wanted


def _refuse(lane: _Lane, culprits: list[tuple[_Waiting, InputRefused]]) -> None:
    """Tell them, once."""
    while culprits:
        waiting, refusal = culprits.pop()
        lane.send_away([waiting], refusal)
