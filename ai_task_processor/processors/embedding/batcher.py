"""``MicroBatcher``: takes one text at a time (``embed``) and puts it into the lane of its model."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import Any, Protocol

from ai_task_processor.core.component import Component, Problem
from ai_task_processor.core.errors import CircuitOpen, InputRefused, SetAside
from ai_task_processor.core.ports import Clock, Embeddings
from ai_task_processor.models.task import Embedded, Vector
from ai_task_processor.net.resilience import Retries
from ai_task_processor.ops import tracing
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.ops.status import ModelStatus
from ai_task_processor.processors.embedding.cache import VectorCache
from ai_task_processor.processors.embedding.calls import Tools, usage_of
from ai_task_processor.processors.embedding.failed_texts import text_key
from ai_task_processor.processors.embedding.lane import Intake, Lane
from ai_task_processor.processors.embedding.vector_length import VectorLength
from ai_task_processor.processors.embedding.waiting import Texts, Waiting
from ai_task_processor.providers.call_size import CallSize
from ai_task_processor.providers.circuits import ModelCircuits

#: the most lanes: model names come from tasks
MAX_LANES = 256
#: until a lane that has its share of the slots is asked again, seconds
SHARE_LOOK_S = 0.25
#: a model counts as wanted this long after one of its tasks was listed, seconds
WANTED_S = 60.0
#: interval of the search for hung calls and of saving what was learnt, seconds
REMEMBER_S = 1.0
#: the most models that are saved
MAX_REMEMBERED = 64


class Memory(Protocol):
    """Persists a JSON object by model name over restarts; what is lost is learnt again."""

    def load(self) -> dict[str, Any]:
        """What was saved last; empty when that cannot be read."""

    def save(self, learnt: dict[str, Any]) -> None:
        """Persist it, if it has changed."""


class MicroBatcher(Component):
    """Joins the texts of tasks into model calls, while ``run`` runs.

    ``call`` makes one model call of ``provider``. ``length_of(model)``: the dimension that its vectors must have (None:
    not known), and the one that is usual for its name. ``memory`` persists what was learnt about models.
    """

    name = "embedding"

    def __init__(
        self,
        call: Callable[[Sequence[str], str], Awaitable[Embeddings]],
        *,
        provider: str = "unknown",
        circuits: ModelCircuits,
        threshold: int,
        retries: Retries,
        intake: Intake,
        clock: Clock,
        metrics: Metrics,
        cache: VectorCache | None = None,
        length_of: Callable[[str], tuple[int | None, int | None]] = lambda _: (None, None),
        memory: Memory | None = None,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        self._tools = Tools(
            call=call,
            provider=provider,
            circuits=circuits,
            threshold=threshold,
            retries=retries,
            cache=cache,
            clock=clock,
            metrics=metrics,
            opened=opened,
        )
        self._cache = cache
        self._intake = intake
        self._clock = clock
        self._metrics = metrics
        self._length_of = length_of
        self._memory = memory
        self._remembered: dict[str, Any] = {}
        self._lanes: dict[str, Lane] = {}
        self._wanted_at: dict[str, float] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self, ready: asyncio.Event) -> None:
        """The parent of every lane and every call; runs until cancelled, and fails the texts that still wait then."""
        self._loop = asyncio.get_running_loop()
        if self._memory is not None:
            self._remembered = self._memory.load()
        try:
            async with asyncio.TaskGroup() as self._group:
                ready.set()
                while True:
                    before = self._clock.monotonic()
                    await self._clock.sleep(REMEMBER_S)
                    if self._clock.monotonic() - before < 2 * REMEMBER_S:  # else we hung, and answers may lie unread
                        for lane in self._lanes.values():
                            lane.look(self._group)
                    self._save()
        finally:
            self._group = None
            for lane in self._lanes.values():
                lane.stop()
            self._save()
            self._lanes.clear()

    async def embed(self, text: str, model: str) -> Embedded:
        """The vector of one text, from the cache or from a call; a call under way with an equal text is joined.

        Raises ``InputRefused`` when the model refuses this text, a ``RemoteError`` otherwise.
        """
        if self._group is None:
            raise Texts.stopped()
        encoded, key = _encoded(text), b""
        if self._cache is not None:
            key = self._cache.key(model, encoded)
            if (remembered := self._cache.get(key)) is not None:
                data, tokens = remembered
                self._metrics.vector_remembered(tokens)
                return Embedded(Vector(data), usage_of(0))
        lane = self._lanes.get(model)
        if lane is None or not lane.served:
            lane = self._lane(model)
        try:
            return await self._bring(lane, text, len(encoded), key, self._group)
        except SetAside:
            lane.calls.failed_texts.set_aside.name(text_key(text), _task_name())
            raise

    async def _bring(self, lane: Lane, text: str, size: int, key: bytes, group: asyncio.TaskGroup) -> Embedded:
        waiting = lane.texts.get(text)
        if waiting is None:
            if (hold_s := lane.hold_s()) > 0:
                raise CircuitOpen(lane.held_because(), retry_after_s=hold_s)
            waiting = Waiting(text, size, key)
            lane.add(waiting, group)
        future: asyncio.Future[Embedded] = self._loop.create_future()
        waiting.futures.append(future)
        if tracing.on():
            waiting.spans = (*waiting.spans, *tracing.waiting())
        lane.arrived(group)
        return await future

    def hold_s(self) -> float:
        """Seconds until a call of any model may start; 0 when one may now."""
        return self._tools.circuits.wait_s()

    def lane_hold_s(self, model: str, running: int) -> float:
        """Seconds until one more task of this model may start while ``running`` run; 0 when one may now."""
        now = self._clock.monotonic()
        self._want(model, now)
        lane = self._lanes.get(model)
        slots = self._intake.slots
        if lane is None:
            may_start = model in self._remembered or running < max(1, slots // 4)
            return max(self._tools.circuits.wait_s(model), 0.0 if may_start else SHARE_LOOK_S)
        if (hold_s := lane.hold_s()) > 0:
            return hold_s
        share = lane.share(slots, others=len(self._wanted_at) > 1)
        if running < share or share >= slots:
            lane.limited_to = 0
            return 0.0  # some of those that run may have their answer, and be about to free their slots
        lane.calls.refused_share = True
        lane.limited_to = share
        return SHARE_LOOK_S

    def resumes_in_s(self) -> float:
        """Seconds until a paused model may be tried again; infinite when none is paused."""
        return min((hold_s for lane in self._lanes.values() if (hold_s := lane.hold_s()) > 0), default=inf)

    def count(self) -> None:
        """Set the gauges of the lanes."""
        for lane in self._lanes.values():
            self._metrics.model_waiting(lane.model, 0 if lane.pace() is None else lane.waiting)
            self._metrics.model_batch_cap(lane.model, lane.calls.size.most_inputs)

    def problems(self) -> Sequence[Problem]:
        """What tasks in slots wait for, and why no more of them start."""
        waits = "tasks in slots wait for the model"
        found = [
            Problem("paced", f"{waits} {model}: {reason}", ready=True, when="running")
            for model, reason in self.paces().items()
        ]
        for lane in self._lanes.values():
            if text := lane.gathered():
                found.append(Problem("gathering", text, ready=True, when="running"))
            if text := lane.limit(self._intake.slots):
                found.append(Problem("limited", text, ready=True, when="paused"))
        return found

    def paces(self) -> dict[str, str]:
        """By model: why its calls wait."""
        return {lane.model[:64]: reason for lane in self._lanes.values() if (reason := lane.pace())}

    def paused(self) -> dict[str, str]:
        """By model: why it is paused."""
        return dict(self._tools.circuits.held())

    def offenders(self) -> dict[str, str]:
        """By model: how many texts are set aside, of which tasks, and how the last one failed."""
        reasons = {lane.model[:64]: lane.calls.failed_texts.set_aside.reason() for lane in self._lanes.values()}
        return {model: reason for model, reason in reasons.items() if reason}

    def status(self) -> Mapping[str, object]:
        return {"paused_models": self.paused(), "paced_models": self.paces(), "texts_set_aside": self.offenders()}

    def models(self) -> Sequence[ModelStatus]:
        """For ``/status``: the calls of each model."""
        paused = self.paused()
        return [
            lane.calls.limiter.status(
                lane.model[:64],
                "embedding",
                running=len(lane.calls.running),
                waiting=lane.waiting,
                waits_because=lane.pace(),
                paused_because=paused.get(lane.model[:64]),
            )
            for lane in self._lanes.values()
        ]

    def _save(self) -> None:
        for lane in self._lanes.values():
            self._remember(lane)
        if self._memory is not None:
            self._memory.save(self._remembered)

    def _remember(self, lane: Lane) -> None:
        size, length = lane.calls.size.state(), lane.calls.length.length
        if not lane.calls.served.ever:
            return
        self._remembered.pop(lane.model, None)
        self._remembered[lane.model] = {"size": size, "length": length}
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _want(self, model: str, now: float) -> None:
        if model not in self._wanted_at and len(self._wanted_at) >= MAX_LANES:
            return
        self._wanted_at[model] = now
        if len(self._wanted_at) > 1:
            self._wanted_at = {name: at for name, at in self._wanted_at.items() if now - at < WANTED_S}

    def _lane(self, model: str) -> Lane:
        """The lane of a model, made when it is first needed. At ``MAX_LANES`` the one longest idle is removed."""
        lane = self._lanes.pop(model, None) or self._new_lane(model)
        if len(self._lanes) >= MAX_LANES:
            idle = next((name for name, other in self._lanes.items() if not other.served), None)
            if idle is None:
                raise CircuitOpen("too many models are asked for at once", retry_after_s=1.0)
            self._remember(self._lanes.pop(idle))
            self._tools.circuits.forget(idle)
        self._lanes[model] = lane
        return lane

    def _new_lane(self, model: str) -> Lane:
        known, likely = self._length_of(model)
        remembered = self._remembered.get(model)
        remembered = remembered if isinstance(remembered, dict) else {}
        length = remembered.get("length")
        if known is None and isinstance(length, int) and not isinstance(length, bool) and length > 0:
            known = length
        size = remembered.get("size")
        restored = CallSize.restored(size if isinstance(size, dict) else {})
        vector_length = VectorLength(known, likely)
        return Lane(model, self._tools, self._intake, size=restored, length=vector_length, known=bool(remembered))


def _encoded(text: str) -> bytes:
    """UTF-8. Raises ``InputRefused`` for what has none: in a batch it would fail the texts of other tasks."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputRefused("invalid_text", "the text is not valid Unicode") from error


def _task_name() -> str:
    """``task 6a…``, the name that the scheduler gives to the asyncio task of a task; empty for others."""
    task = asyncio.current_task()
    name = "" if task is None else task.get_name()
    return name[:64] if name.startswith("task ") else ""
