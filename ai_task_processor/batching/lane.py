"""One model's queue and its calls: when the next one starts, what it carries, and what follows from its answer.

One call at a time; another, up to four, only while the running one is abnormally slow, so that a hung call holds
its own batch and nobody else's. A large batch goes in two halves: while one is at the model, the other's results
are written down and its slots refilled.

A call that fails for what may be its texts or its size is cut into parts (``Split``). The first part that is served
shows that the model is well; from then on the parts go out side by side until the texts at fault are alone. When
nothing is served down to a single text, it is the model: its circuit opens. So an outage is clear after about
log₂ n calls, and texts that fail never stop the others.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from http import HTTPStatus
from math import inf
from typing import Protocol

from ai_task_processor.batching.circuits import ModelCircuits, Passage
from ai_task_processor.batching.offenders import Offenders
from ai_task_processor.batching.vector_length import VectorLength
from ai_task_processor.batching.waiting import Embedded, Part, Split, Waiting
from ai_task_processor.errors import (
    Ambiguous,
    CallRefused,
    CircuitOpen,
    InputRefused,
    InvalidAnswer,
    Misconfigured,
    NeighbourError,
    QuotaExhausted,
    SetAside,
    Throttled,
    Transient,
    Unauthorized,
)
from ai_task_processor.logs import get_logger
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Usage
from ai_task_processor.ports import Clock, Embeddings
from ai_task_processor.providers.call_size import CallSize
from ai_task_processor.providers.limiter import Limiter
from ai_task_processor.providers.refusals import TOO_SLOW
from ai_task_processor.resilience import Retries
from ai_task_processor.vector_cache import VectorCache

#: how long a batch waits for a refill: so many seconds, or this share of the usual call if that is more
GATHERING_S, GATHERING_SHARE = 0.05, 0.1
#: that a refill comes to nothing is seen this late at most; that it is complete is seen at once
LOOK_AGAIN_S = 0.005
#: calls at once while the running ones are slow, and calls of single texts beside them
MAX_CALLS, MAX_LONE_CALLS = 4, 4
#: to join more texts than this saves next to nothing: of twice as many, half go while the others are under way,
#: unless the model answers so soon that there is nothing to do meanwhile
FULL_BATCH, HALVED_FROM_S = 128, 0.05
#: a call is abnormally slow when it takes this many times the usual, and at least a second
SLOW_FACTOR, SLOW_AT_LEAST_S = 3.0, 1.0
#: a model that answers nothing but 429s for so long gives its tasks back; so does a wait that is longer than this
ONLY_429S_S, LONGEST_WAIT_S = 60.0, 20.0
#: a model with nothing but 429s for so long does not count as well
THROTTLED_S = 2.0
#: a text that failed so often, the last time alone, is set aside when others were served meanwhile
OFFENCES = 3
#: between calls that fail one after the other: this times two to the power of their number, seconds
BETWEEN_FAILURES_S = 0.05
#: a refusal must be followed by a served call within this, seconds, or thrice the usual call, to count against its text
WITNESSED_S = 2.0
#: first and longest pause after a throttle that is named quota and follows calls that were served
QUOTA_S, SERVED_LATELY_S = (2.0, 300.0), 60.0
#: texts this close to the shortest that was refused as too long go alone
NEARLY_TOO_LONG = 0.8
#: tokens a byte are taken to be this many times what was seen; the densest call fades by a tenth with each other
MARGIN, MEMORY = 1.2, 0.9
#: what is sent when nothing else is there to show whether a model is well: a token
WITNESS = "ok"

log = get_logger(__name__)

#: a frozen object takes longer to build than to find
usage_of = lru_cache(maxsize=1024)(Usage)


class Intake(Protocol):
    """What batching asks of the scheduler."""

    @property
    def slots(self) -> int:
        """How many tasks may run at once."""

    def refilling(self) -> bool:
        """Are more tasks on their way into free slots right now?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all lanes share. ``call`` is one model call; ``opened``: a model is well that was not."""

    call: Callable[[Sequence[str], str], Awaitable[Embeddings]]
    circuits: ModelCircuits
    threshold: int
    retries: Retries
    cache: VectorCache | None
    intake: Intake
    clock: Clock
    metrics: Metrics
    opened: Callable[[], None] = lambda: None


@dataclass(slots=True, eq=False)
class Running:
    """A call under way; ``slow_at``: from when it counts as abnormally slow."""

    part: Part
    began_at: float
    slow_at: float


def stopped() -> Transient:
    """What those are told who still wait when batching ends."""
    return Transient("the model calls have been stopped")


def offence_key(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Lane:
    """One model. It is served by ``serve`` as long as somebody waits in it.

    ``texts``: those in the queue and those on their way, for whoever brings the same.
    """

    def __init__(self, model: str, tools: Tools, size: CallSize, length: VectorLength) -> None:
        self.model = model
        self.served = False
        self.texts: dict[str, Waiting] = {}
        self.limiter = Limiter()
        self.size = size
        self.length = length
        self.offenders = Offenders()
        self.refused_share = False
        self._tools = tools
        self._queue: deque[Waiting] = deque()
        self._queued = 0
        self._parts: deque[Part] = deque()
        self._calls: list[Running] = []
        #: refused alone, in words that do not say why: until the model has been seen to serve others
        self._doubted: list[Waiting] = []
        #: answers that wait until the length of the model's vectors is known
        self._held: list[tuple[Part, Embeddings]] = []
        self._changed = asyncio.Event()
        self._gathering = False
        self._gathered_by = 0.0
        self._usual_s = 0.0
        self._returning = 0
        self._answered_at = 0.0
        self._served_calls = 0
        self._served_at = -inf
        #: calls in a row that failed, and how many texts the last one carried
        self._failures, self._failed_texts = 0, 0
        self._not_before = 0.0
        #: the parts under way are those of a call that took too long: more at once might take longer still
        self._cautious = False
        self._shortest_too_long = inf
        self._tokens_a_byte = 1.0

    # --- what others ask

    @property
    def waiting(self) -> int:
        """Calls that are ready and wait for the model's pace, a probe or a pause."""
        return len(self._parts) + bool(self._queue)

    def hold_s(self) -> float:
        """Seconds for which nothing of this model should be started; 0 when a task may start now."""
        hold_s = self._tools.circuits.wait_s(self.model)
        paced_s = self.limiter.wait_s(self._tools.clock.monotonic(), 1)
        return max(hold_s, paced_s if LONGEST_WAIT_S < paced_s < inf else 0.0)

    def well(self) -> bool:
        """Was the model served last, and is it not hanging?"""
        now = self._tools.clock.monotonic()
        if not self._served_calls or self._failures or self._tools.circuits.probing(self.model):
            return False
        hung = any(call.slow_at <= now and self._served_at < call.began_at for call in self._calls)
        return not hung and self.limiter.refused_for_s(now) < THROTTLED_S

    def share(self, slots: int, *, others: bool) -> int:
        """How many slots its tasks may take: not all while the model is not well, or is paced and others wait."""
        if not self.well():
            return max(1, slots // 4)
        return slots - max(1, slots // 8) if others and slots > 1 and self.limiter.rate < inf else slots

    def pace(self) -> str | None:
        """Why the calls that are ready do not start; None when they do."""
        if not self.waiting:
            return None
        now = self._tools.clock.monotonic()
        if reason := self.limiter.reason(now, self._next_tokens()):
            return reason
        return f"the next attempt in {self._not_before - now:.1f} s" if self._not_before > now else None

    def add(self, waiting: Waiting, group: asyncio.TaskGroup) -> None:
        """A text has come. Raises ``SetAside`` when it is left alone for now."""
        offence = self.offenders.get(offence_key(waiting.text)) if len(self.offenders) else None
        if offence is not None:
            left_s = offence.until - self._tools.clock.monotonic()
            if left_s > 0 or self._tools.circuits.probing(self.model):
                raise SetAside(f"set aside: {offence.reason}", retry_after_s=max(left_s, 1.0))
        self.texts[waiting.text] = waiting
        if offence is not None or waiting.size >= NEARLY_TOO_LONG * self._shortest_too_long:
            self._parts.append(Part([waiting], lone=True))
            self.wake(group, at_once=True)
        else:
            self._queue.append(waiting)
            self._queued += waiting.size

    def arrived(self, group: asyncio.TaskGroup) -> None:
        """One more waits, in the queue or with a text that is on its way."""
        if self._returning:
            self._returning -= 1
        if not self.served or self._gathering or len(self._queue) == 1 or self._half_is_full():
            self.wake(group)

    def wake(self, group: asyncio.TaskGroup, *, at_once: bool = False) -> None:
        """A lane that gathers is left alone until there is nobody else to wait for."""
        if not self.served:
            self.served = True
            # A context of its own: the task that happens to be first must not sign what is logged for all.
            group.create_task(self.serve(group), name="batch-lane", context=Context())
        elif at_once or not self._gathering or not self._expects():
            self._changed.set()

    def send_away(self, texts: Iterable[Waiting], error: Exception) -> None:
        """Tell everyone who waits for these texts."""
        for waiting in texts:
            self._forget(waiting)
            for future in waiting.futures:
                if not future.done():
                    future.set_exception(error)

    def send_all_away(self, error: Exception) -> None:
        """Everyone who waits and is not in a call under way."""
        self.send_away([*self._queue, *self._doubted], error)
        self._queue.clear()
        self._doubted.clear()
        self._queued = 0
        parts, self._parts = [*self._parts, *(part for part, _ in self._held)], deque()
        self._held.clear()
        for part in parts:
            self.send_away(part.texts, error)

    def stop(self) -> None:
        """Batching ends."""
        self.send_all_away(stopped())
        for call in self._calls:
            self.send_away(call.part.texts, stopped())

    # --- the loop

    async def serve(self, group: asyncio.TaskGroup) -> None:
        """Start the calls of this model until nobody waits and nothing is under way."""
        while self._queue or self._parts or self._calls or self._doubted or self._held:
            wait_s = self._wait_s()
            if wait_s > 0:
                await self._pause(group, wait_s)
            elif (part := self._next_part()) is not None:
                self._start(group, part)
            elif self._queue:
                await self._gather(group)
                if batch := self._take():
                    self._start(group, Part(batch))
        self.served = False

    async def _pause(self, group: asyncio.TaskGroup, seconds: float) -> None:
        """Until something has changed, or the time is over."""
        self._changed.clear()
        alarm = None if seconds == inf else group.create_task(self._ring(seconds), name="batch-alarm")
        await self._changed.wait()
        if alarm is not None:
            alarm.cancel()

    async def _ring(self, seconds: float) -> None:
        await self._tools.clock.sleep(seconds)
        self._changed.set()

    def _wait_s(self) -> float:
        """Seconds until the next call may start; infinite: not before something changes."""
        if not self._queue and not self._parts:
            self._doubted = self._wanted(self._doubted)
            self._held = [
                (part, answer) for part, answer in self._held if any(one.futures and one.wanted for one in part.texts)
            ]
            if self._calls or not (self._doubted or self._held):
                return inf if self._calls else 0.0
            # Nothing is left that could show whether the model is well.
            self._parts.append(Part([Waiting(WITNESS, len(WITNESS), witness=True)]))
        now = self._tools.clock.monotonic()
        busy_s = self._busy_s(now)
        if busy_s > 0:
            return busy_s
        hold_s = self._tools.circuits.wait_s(self.model)
        if hold_s <= 0 and not self._probing():
            hold_s = max(self._not_before - now, self.limiter.wait_s(now, self._next_tokens()))
        if LONGEST_WAIT_S < hold_s < inf:
            reason = self._tools.circuits.reason or self.limiter.reason(now, 1) or "it asks for patience"
            self.send_all_away(CircuitOpen(f"this model is paused: {reason}", retry_after_s=hold_s))
            return inf
        return hold_s

    def _probing(self) -> bool:
        return self._tools.circuits.probing(self.model)

    def _busy_s(self, now: float) -> float:
        """Seconds until the calls under way allow another one."""
        lone = sum(call.part.lone for call in self._calls)
        if self._parts and not self._failures and not self._cautious:
            limit = MAX_LONE_CALLS if self._parts[0].lone else MAX_CALLS + MAX_LONE_CALLS
            if (lone if self._parts[0].lone else len(self._calls)) < limit:
                return 0.0
            if not self._queue:
                return inf
        joined = [call for call in self._calls if not call.part.lone or self._failures]
        if len(joined) >= MAX_CALLS:
            return inf
        if not joined or (len(joined) == 1 and self._half_is_full() and not self._failures):
            return 0.0
        # Only the youngest call is looked at: it could start because the older ones were slow already.
        return max(0.0, joined[-1].slow_at - now)

    def _next_tokens(self) -> int:
        size = self._parts[0].size if self._parts else min(self._queued, self.size.most_bytes)
        return int(size * self._tokens_a_byte)

    def _next_part(self) -> Part | None:
        """The next part of a call that failed, or a text that goes alone; None when it is the queue's turn."""
        while self._parts:
            part = self._parts.popleft()
            part.texts = self._wanted(part.texts)
            if not part.texts:
                self._end_part(part, served=False)
                continue
            if len(part.texts) > 1 and (
                self._probing() or (self._failures and len(part.texts) > self._failed_texts // 2)
            ):
                # As long as nothing is served, each part is smaller than the one before, and from another place.
                part = self._halved(part)
            return part
        return None

    def _halved(self, part: Part) -> Part:
        """The first texts of a part, as many as show whether the model is well; the others stay first in line."""
        count = 1 if self._probing() else max(1, self._failed_texts // 2)
        if part.split is not None:
            part.split.parts += 1
        self._parts.appendleft(Part(part.texts[count:], part.split, part.lone))
        return Part(part.texts[:count], part.split, part.lone)

    def _start(self, group: asyncio.TaskGroup, part: Part) -> None:
        now = self._tools.clock.monotonic()
        call = Running(part, now, now + max(SLOW_AT_LEAST_S, SLOW_FACTOR * self._usual_s))
        self._calls.append(call)
        group.create_task(self._run(call), name="model-call")

    # --- gathering

    async def _gather(self, group: asyncio.TaskGroup) -> None:
        """Give a refill that is on its way the chance to come along."""
        await asyncio.sleep(0)
        self._gathered_by = self._tools.clock.monotonic() + self._longest_s
        if not self._expects():
            return
        self._gathering = True
        watch = group.create_task(self._watch(), name="gathering-watch")
        while self._expects():
            self._changed.clear()
            await self._changed.wait()
        self._gathering = False
        watch.cancel()

    async def _watch(self) -> None:
        """Wake the lane whenever nothing is on its way any more, though nothing has come; until cancelled.

        What it sees once may have changed when the lane looks: it looks again.
        """
        while True:
            left_s = self._gathered_by - self._tools.clock.monotonic()
            await self._tools.clock.sleep(min(LOOK_AGAIN_S, max(0.0, left_s)))
            if not self._expects():
                self._changed.set()

    @property
    def _longest_s(self) -> float:
        """For how long a batch waits for a refill."""
        return max(GATHERING_S, GATHERING_SHARE * self._usual_s)

    def _expects(self) -> bool:
        """Is a text on its way that the batch should wait for?"""
        now = self._tools.clock.monotonic()
        if now >= self._gathered_by or len(self._queue) >= self._share_of_one() or self._probing():
            return False
        return (self._returning > 0 and now < self._answered_at + self._longest_s) or self._tools.intake.refilling()

    def _halves(self) -> bool:
        large = self._tools.intake.slots >= 2 * FULL_BATCH and self._usual_s >= HALVED_FROM_S
        return large and self.limiter.rate == inf

    def _share_of_one(self) -> int:
        """The most texts for one call."""
        if self._probing():
            return 1
        most = self.size.most_inputs
        return min(most, -(-self._tools.intake.slots // 2)) if self._halves() else most

    def _half_is_full(self) -> bool:
        return self._halves() and len(self._queue) >= self._share_of_one()

    def _take(self) -> list[Waiting]:
        """The next batch, oldest first, within the size of one call. Texts nobody waits for any more are dropped."""
        batch: list[Waiting] = []
        queue, size, share, most = self._queue, 0, self._share_of_one(), self.size.most_bytes
        while queue and len(batch) < share:
            waiting = queue[0]
            if waiting.wanted:
                size += waiting.size
                if batch and size > most:
                    break
                batch.append(waiting)
            else:
                self._forget(waiting)
            self._queued -= waiting.size
            queue.popleft()
        return batch

    def _wanted(self, texts: list[Waiting]) -> list[Waiting]:
        """Without the texts that nobody waits for any more."""
        wanted = []
        for waiting in texts:
            if waiting.wanted:
                wanted.append(waiting)
            else:
                self._forget(waiting)
        return wanted

    def _forget(self, waiting: Waiting) -> None:
        """Nobody can join it any more."""
        if self.texts.get(waiting.text) is waiting:
            del self.texts[waiting.text]

    # --- one call

    async def _run(self, call: Running) -> None:
        """One call, and what follows from its end; a bug in it harms its own texts only."""
        error: Exception | None = stopped()
        try:
            await self._attempt(call)
            error = None
        except Exception as bug:  # the boundary of one call
            log.error("model.crashed", model=self.model[:64], exc_info=bug)
            error = Transient(f"the model call failed: {type(bug).__name__}")
        finally:
            self._calls.remove(call)
            if error is not None:
                self.send_away(call.part.texts, error)
                self._end_part(call.part, served=False)
            self._changed.set()

    async def _attempt(self, call: Running) -> None:
        tools, part = self._tools, call.part
        try:
            passage = tools.circuits.enter(self.model)
        except CircuitOpen as held:
            self._put_back(part)
            self._not_before = tools.clock.monotonic() + min(held.retry_after_s or 0.0, 1.0)
            return
        now, size = tools.clock.monotonic(), part.size
        throttled = any(waiting.throttled for waiting in part.texts)
        ticket = self.limiter.begin(now, int(size * self._tokens_a_byte), repeated=throttled)
        learnt = False
        rate = self.limiter.rate
        tools.metrics.batch(model=self.model, size=len(part.texts))
        try:
            try:
                answer = await tools.call([waiting.text for waiting in part.texts], self.model)
                learnt = True
                self.limiter.served(tools.clock.monotonic(), ticket, answer.limits)
                self._check_length(answer)
            except Throttled as error:
                if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                    learnt = True
                    self.limiter.refused(tools.clock.monotonic(), ticket, error.retry_after_s)
                raise
            self._answered(call, passage, answer, size)
        except InputRefused as error:
            # A provider that is sure: a plug-in's, or one of ours that looks at texts itself.
            self._failed(part, passage, CallRefused(str(error), final=error, explained=True))
        except NeighbourError as error:
            self._failed(part, passage, error)
        finally:
            if not learnt:
                self.limiter.failed(ticket)
            tools.circuits.leave(passage)
            if self.limiter.rate != rate:
                tools.metrics.model_pace(self.model, self.limiter.rate)

    # --- it was served

    def _answered(self, call: Running, passage: Passage, answer: Embeddings, size: int) -> None:
        now, part, was_well = self._tools.clock.monotonic(), call.part, self.well()
        took_s = now - call.began_at
        self._usual_s = took_s if self._usual_s == 0.0 else 0.8 * self._usual_s + 0.2 * took_s
        tokens = answer.usage.prompt_tokens
        if size and tokens:
            self._tokens_a_byte = min(1.0, max(MARGIN * tokens / size, MEMORY * self._tokens_a_byte))
        self._failures = self._failed_texts = 0
        self._not_before = 0.0
        self._served_calls += 1
        self._served_at = now
        self._tools.circuits.answered(passage)
        self._tools.retries.earn()
        self.size.passed(len(part.texts), size, tokens)
        if part.size >= self._shortest_too_long and len(part.texts) == 1:
            self._shortest_too_long = inf
        self.length.seen(answer.vectors)
        if self.length.length is None:
            self._held.append((part, answer))
        else:
            for held, earlier in self._held:
                self._settle(held, earlier)
            self._held.clear()
            self._settle(part, answer)
        self._clear_doubts(call.began_at, now)
        self._returning = sum([len(waiting.futures) for waiting in part.texts])
        self._answered_at = now
        if self.refused_share and not was_well and self.well():
            self.refused_share = False
            self._tools.opened()

    def _check_length(self, answer: Embeddings) -> None:
        """Raises ``InvalidAnswer`` when no vector has the length that the vectors of this model have."""
        length = self.length.length
        if length is not None and all(vector is None or vector.dimensions != length for vector in answer.vectors):
            raise InvalidAnswer(
                f"the model answered vectors of another length than {length} (EMBEDDING_DIMENSIONS says what is right)"
            )

    def _settle(self, part: Part, answer: Embeddings) -> None:
        tokens, cache, texts, size = answer.usage.prompt_tokens, self._tools.cache, self.texts, part.size
        unusable: list[Waiting] = []
        for waiting, vector in zip(part.texts, answer.vectors, strict=True):
            if vector is None or vector.dimensions != self.length.length:
                unusable.append(waiting)
                continue
            if waiting.witness:
                continue
            share = round(tokens * waiting.size / (size or 1))
            if cache is not None:
                cache.put(waiting.key, vector.data, share)
            texts.pop(waiting.text, None)
            if len(self.offenders):
                self.offenders.clear(offence_key(waiting.text))
            embedded = Embedded(vector, usage_of(share))
            for future in waiting.futures:
                if not future.done():
                    future.set_result(embedded)
        self._end_part(part, served=not unusable)
        for waiting in unusable:
            self._note_failure(waiting)
            self._failed_beside_others(waiting, "the model answered an unusable vector", alone=len(part.texts) == 1)

    def _end_part(self, part: Part, *, served: bool) -> None:
        """What a failed call was cut into teaches how large a call may be, once all of it was served."""
        if part.split is None:
            return
        for whole in part.split.ended(served=served):
            if whole.refused:
                self.size.too_large(whole.inputs, whole.size, whole.limit)
        part.split = None

    def _clear_doubts(self, began_at: float, now: float) -> None:
        """The model serves others: those that were refused alone are asked once more, and then they were at fault."""
        longest_s = max(WITNESSED_S, SLOW_FACTOR * self._usual_s)
        doubted, self._doubted = self._doubted, []
        for waiting in doubted:
            if waiting.refused_at > began_at:
                self._doubted.append(waiting)
            elif waiting.refused_alone > 1 and now - waiting.refused_at <= longest_s:
                self._refuse(waiting)
            else:
                waiting.refused_alone = 1
                self._parts.append(Part([waiting], lone=True))

    def _refuse(self, waiting: Waiting, final: InputRefused | None = None) -> None:
        if len(self.offenders):
            self.offenders.clear(offence_key(waiting.text))
        self.send_away([waiting], final or InputRefused("input_refused", "the model refuses this text"))

    # --- it failed

    def _failed(self, part: Part, passage: Passage, error: NeighbourError) -> None:
        if isinstance(error, Throttled) and error.status != HTTPStatus.SERVICE_UNAVAILABLE:
            self._throttled(part, passage, error)
        elif isinstance(error, QuotaExhausted):
            lately = self._tools.clock.monotonic() - self._served_at < SERVED_LATELY_S
            self._hold(part, passage, error, bounds=QUOTA_S if lately or self._probing() else None)
        elif not self._may_be_the_texts(error):
            self._failures += 1
            self._failed_texts = len(part.texts)
            self._again_or_hold(part, passage, error)
        else:
            self._failed_for_content(part, passage, error)

    def _may_be_the_texts(self, error: NeighbourError) -> bool:
        """Could the same model serve other texts? What else a refusal may mean is asked only of a model that is well."""
        if isinstance(error, CallRefused | Transient | Ambiguous):
            return True
        if isinstance(error, Unauthorized):
            return error.status == HTTPStatus.FORBIDDEN and self._served_calls > 0
        return isinstance(error, Misconfigured) and self._served_calls > 0

    def _throttled(self, part: Part, passage: Passage, error: Throttled) -> None:
        """429: the limiter knows how long to wait. Tasks are given back only when nothing else is answered any more."""
        self._tools.metrics.model_throttled(self.model)
        now = self._tools.clock.monotonic()
        if passage.own.probe or self.limiter.refused_for_s(now) >= ONLY_429S_S:
            self._hold(part, passage, error)
            return
        for waiting in part.texts:
            waiting.throttled = True
        self._put_back(part)

    def _put_back(self, part: Part) -> None:
        """To be sent again, before anything else; texts of the queue may travel with others then."""
        if part.split is not None or part.lone or any(waiting.witness for waiting in part.texts):
            self._parts.appendleft(part)
        else:
            self._queue.extendleft(reversed(part.texts))
            self._queued += part.size

    def _again_or_hold(self, part: Part, passage: Passage, error: NeighbourError) -> None:
        """Nothing was reached, or what was says that it cannot now: again in a while, or it is an outage."""
        again_s = None
        if error.retryable and not passage.own.probe and self._failures < self._tools.threshold:
            again_s = self._tools.retries.again_in_s(self._failures)
        if error.pause_s is not None or passage.own.probe or self._failures >= self._tools.threshold:
            self._hold(part, passage, error)
        elif again_s is None:
            self.send_away(part.texts, error)
            self._end_part(part, served=False)
        else:
            self._not_before = self._tools.clock.monotonic() + again_s
            self._put_back(part)

    def _hold(
        self, part: Part, passage: Passage, error: NeighbourError, *, bounds: tuple[float, float] | None = None
    ) -> None:
        """Nobody asks this model for a while: whoever waits for it is sent away, to come back when the pause is over."""
        circuits = self._tools.circuits
        if passage.own.probe and bounds is None:
            circuits.failed(passage, error)
        else:
            circuits.hold(passage, error, bounds=bounds)
        wait_s = circuits.wait_s(self.model)
        paused = CircuitOpen(f"this model is paused: {error}", retry_after_s=max(wait_s, 0.1))
        if passage.own.probe and len(part.texts) == 1 and not part.texts[0].witness and self._may_be_the_texts(error):
            # It must not be the next probe, too.
            self.offenders.again(offence_key(part.texts[0].text), self._tools.clock.monotonic(), str(error))
        self.send_away(part.texts, paused)
        self._end_part(part, served=False)
        self.send_all_away(paused)
        self._failures = self._failed_texts = 0

    def _failed_for_content(self, part: Part, passage: Passage, error: NeighbourError) -> None:
        """The texts, their size or the model: what is served of the rest will show."""
        slow = error.status in TOO_SLOW or isinstance(error, Ambiguous)
        if slow and len(part.texts) > 1:
            self.size.timed_out(len(part.texts), part.size)
        part.texts = self._wanted(part.texts)
        if passage.own.probe:
            self._hold(part, passage, error)
            return
        if not (isinstance(error, CallRefused) and error.explained and len(part.texts) == 1):
            self._failures += 1
        self._failed_texts = len(part.texts)
        self._cautious = slow
        if self._failures > 1 and not slow:
            # What fails everywhere may pass in a second: an outage is not concluded sooner.
            self._not_before = self._tools.clock.monotonic() + BETWEEN_FAILURES_S * 2.0 ** min(self._failures, 6)
        for waiting in part.texts:
            self._note_failure(waiting)
        if len(part.texts) > 1:
            self._cut(part, error, slow=slow)
        elif part.texts:
            self._failed_alone(part, passage, error)
        else:
            self._end_part(part, served=False)

    def _note_failure(self, waiting: Waiting) -> None:
        if not waiting.failures:
            waiting.served_before = self._served_calls
        waiting.failures += 1

    def _cut(self, part: Part, error: NeighbourError, *, slow: bool) -> None:
        """Into halves; into quarters when it took too long, and into what the refusal itself says can be sent."""
        self._tools.metrics.batch_isolated()
        texts, count = part.texts, -(-len(part.texts) // (4 if slow else 2))
        limit = error.limit if isinstance(error, CallRefused) else None
        if limit is not None and 0 < limit < len(texts):
            count = limit
        cut = [texts[start : start + count] for start in range(0, len(texts), count)]
        split = Split(len(texts), part.size, len(cut), isinstance(error, CallRefused), limit, part.split)
        self._parts.extend(Part(piece, split) for piece in cut)

    def _failed_alone(self, part: Part, passage: Passage, error: NeighbourError) -> None:
        waiting = part.texts[0]
        self._end_part(part, served=False)
        if waiting.witness:
            # A text of ours is at no fault.
            self._hold(part, passage, self._nothing_is_served(error))
        elif isinstance(error, CallRefused) and error.explained and error.final is not None:
            if error.too_large:
                self._shortest_too_long = min(self._shortest_too_long, waiting.size)
            self._refuse(waiting, error.final)
        elif self._failures > self._tools.threshold and self._served_calls == waiting.served_before:
            self._hold(part, passage, self._nothing_is_served(error))
        elif isinstance(error, CallRefused) and error.final is not None:
            waiting.refused_alone += 1
            waiting.refused_at = self._tools.clock.monotonic()
            self._doubted.append(waiting)
        elif self._served_calls > waiting.served_before or self.offenders.get(offence_key(waiting.text)):
            self._failed_beside_others(waiting, str(error), alone=True)
        else:
            self._again_or_hold(part, passage, error)

    def _nothing_is_served(self, error: NeighbourError) -> NeighbourError:
        if isinstance(error, CallRefused):
            return CallRefused("every text is refused: the request is at fault, not the texts", status=error.status)
        return error

    def _failed_beside_others(self, waiting: Waiting, reason: str, *, alone: bool) -> None:
        """The model is well and fails for this text: once more, alone, and then it is set aside for a while."""
        if (alone and waiting.failures >= OFFENCES) or self.offenders.get(offence_key(waiting.text)):
            delay_s = self.offenders.again(offence_key(waiting.text), self._tools.clock.monotonic(), reason)
            log.warning("text.set_aside", model=self.model[:64], reason=reason, seconds=delay_s)
            self._failures = self._failed_texts = 0
            self.send_away([waiting], SetAside(f"set aside: {reason}", retry_after_s=delay_s))
        else:
            self._parts.append(Part([waiting], lone=True))
