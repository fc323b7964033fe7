"""A lane: the queue of calls for one model. It decides when the next call starts and which texts it carries.

One call runs at a time. Up to three more start only while it is abnormally slow, so that a hung call delays its own
batch only. A large batch is sent in two halves: while one is at the model, the results of the other are stored and
its slots refilled. ``calls.py`` handles the end of a call.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from math import inf
from typing import Protocol

from ai_task_processor.core.errors import CircuitOpen, SetAside
from ai_task_processor.processors.embedding.calls import Calls, Running, Tools
from ai_task_processor.processors.embedding.vector_length import VectorLength
from ai_task_processor.processors.embedding.waiting import Line, Part, TextQueue, Texts, Waiting
from ai_task_processor.providers.call_size import CallSize

#: how long a batch waits for slots to be refilled: seconds, or this share of the usual call if that is more
GATHERING_S, GATHERING_SHARE = 0.05, 0.1
#: interval of looking whether a refill still goes on, seconds; that it is complete is seen at once
LOOK_AGAIN_S = 0.005
#: concurrent calls while the running ones are slow, and isolated texts or parts beside them
MAX_CALLS, MAX_ISOLATED_CALLS = 4, 8
#: concurrent calls of the largest size: to wait would not make them larger
MAX_FULL_CALLS = 16
#: More texts in one call than this save next to nothing: of twice as many, half are sent while the others are under
#: way, unless the usual call takes less than this, seconds.
FULL_BATCH, HALVED_FROM_S = 128, 0.05
#: a slow call is reported by ``pace`` after this, seconds
REPORTED_FROM_S = 3.0
#: tasks that would wait longer than this for their model's pace are released, seconds
LONGEST_WAIT_S = 20.0
#: the daemon's own text (one token), sent when no other text can show whether a model is well
WITNESS = "ok"


class Intake(Protocol):
    """What batching needs to know of the scheduler."""

    @property
    def slots(self) -> int:
        """How many tasks may run concurrently."""

    def refilling(self) -> bool:
        """Are tasks being started in free slots right now?"""


class Lane(Line):
    """The texts that wait for one model; ``serve`` runs as long as there are any.

    ``texts``: those in the queue and those in calls, so that an equal text can join.
    """

    def __init__(
        self, model: str, tools: Tools, intake: Intake, *, size: CallSize, length: VectorLength, known: bool = False
    ) -> None:
        self.model = model
        self.served = False
        self.texts = Texts()
        self.calls = Calls(model, tools, self.texts, self, size=size, length=length, known=known)
        self._tools = tools
        self._intake = intake
        self._queue = TextQueue()
        self._parts: deque[Part] = deque()
        self._changed = asyncio.Event()
        self._gathering = False
        #: slots for its tasks, when some were refused because of that; 0 when none were lately
        self.limited_to = 0
        self._gathered_by = 0.0
        #: tasks that were answered last and whose slots have not sent a text since
        self._returned = 0

    # --- state, for admission and status

    @property
    def waiting(self) -> int:
        """Calls that are ready and wait for the model's pace, a probe or a pause."""
        return len(self._parts) + bool(self._queue)

    def hold_s(self) -> float:
        """Seconds for which no task of this model should start; 0 when one may now."""
        hold_s = self._tools.circuits.wait_s(self.model)
        paced_s = self.calls.limiter.wait_s(self._tools.clock.monotonic(), 1)
        return max(hold_s, paced_s if LONGEST_WAIT_S < paced_s < inf else 0.0)

    def share(self, slots: int, *, others: bool) -> int:
        """The most slots for its tasks: not all while the model is not well, or is rate-limited and others wait."""
        if not self.calls.well():
            return max(1, slots // 4)
        return slots - max(1, slots // 8) if others and slots > 1 and self.calls.limiter.rate < inf else slots

    def pace(self) -> str | None:
        """Why calls that are ready do not start, or one does not end; None when neither is so."""
        now = self._tools.clock.monotonic()
        oldest = min([call for call in self.calls.running if call.slow_at <= now], key=_began_at, default=None)
        if oldest is not None and now - oldest.began_at >= REPORTED_FROM_S:
            return f"no answer to a call for {now - oldest.began_at:.0f} s"
        if not self.waiting:
            return None
        if (hold_s := self._tools.circuits.wait_s(self.model)) > 0:
            return f"{self._paused_because()}, next try in {hold_s:.0f} s"
        if reason := self.calls.limiter.reason(now, self._next_tokens()):
            return reason
        left_s = self.calls.not_before - now
        return f"the next attempt in {left_s:.1f} s" if left_s > 0 else None

    def gathered(self) -> str:
        """That a batch waits for more texts; empty when none does."""
        if not self._gathering:
            return ""
        return f"a batch for the model {self.model[:64]} is being filled: {len(self._queue)} texts so far"

    def limit(self, slots: int) -> str:
        """Why no more of its tasks start beside those that run; empty when nothing speaks against it."""
        if self.hold_s() > 0:
            return f"tasks of the model {self.model[:64]} wait: {self.held_because()}"
        if not self.limited_to:
            return ""
        why = "it is rate-limited and tasks of other models wait" if self.calls.well() else "it answers no calls yet"
        return f"at most {self.limited_to} of {slots} slots are for the model {self.model[:64]}: {why}"

    def held_because(self) -> str:
        """Why no task should start: the message of ``CircuitOpen``."""
        paced = self.calls.limiter.reason(self._tools.clock.monotonic(), 1)
        return f"this model is paused: {self._paused_because() or paced or 'it asked for a pause'}"

    def _paused_because(self) -> str:
        return self._tools.circuits.held().get(self.model[:64]) or self._tools.circuits.reason or ""

    # --- texts come and go

    def add(self, waiting: Waiting, group: asyncio.TaskGroup) -> None:
        """Queue a text. Raises ``SetAside`` while it is set aside."""
        known = self.calls.failed_texts.known_failures(waiting)
        if known is not None and (left_s := known.until - self._tools.clock.monotonic()) > 0:
            raise SetAside(f"set aside: {known.reason}", retry_after_s=left_s)
        self.texts.add(waiting)
        if self.calls.failed_texts.must_isolate(waiting):
            self._parts.append(Part([waiting], isolated=True))
            self.wake(group, at_once=True)
        else:
            self._queue.append(waiting)

    def arrived(self, group: asyncio.TaskGroup) -> None:
        """One more task waits, for a text in the queue or in a call."""
        if self.calls.answered_tasks:
            self.calls.answered_tasks -= 1
        if not self.served or self._gathering or len(self._queue) == 1 or self._fills_a_call(len(self.calls.running)):
            self.wake(group)

    def wake(self, group: asyncio.TaskGroup, *, at_once: bool = False) -> None:
        """Start ``serve`` or let it look again; while a batch gathers, only when no other text is expected."""
        if not self.served:
            self.served = True
            # A context of its own: log lines of the lane must not carry the id of the task that came first.
            group.create_task(self.serve(group), name="batch-lane", context=Context())
        elif at_once or not self._gathering or not self._expects():
            self._changed.set()

    def put_back(self, part: Part) -> None:
        """Texts of the queue may be batched anew. The daemon's own text is dropped: it is made again when needed."""
        if part.texts[0].witness:
            return
        if part.split is not None or part.isolated:
            self._parts.appendleft(part)
        else:
            self._queue.put_back(part.texts)

    def add_parts(self, parts: Iterable[Part]) -> None:
        self._parts.extend(parts)

    def fail_all(self, error: Exception) -> None:
        parts = [*self._parts, *(part for part, _ in self.calls.held)]
        self.texts.fail([*self._queue.clear(), *self.calls.failed_texts.waiting], error)
        self._parts.clear()
        self.calls.failed_texts.waiting.clear()
        self.calls.held.clear()
        for part in parts:
            self.texts.fail(part.texts, error)

    def stop(self) -> None:
        """Batching ends: fail all texts."""
        self.fail_all(Texts.stopped())
        for call in self.calls.running:
            self.texts.fail(call.part.texts, Texts.stopped())

    # --- the loop

    async def serve(self, group: asyncio.TaskGroup) -> None:
        """Start the calls of this model until no text waits and no call is under way."""
        calls = self.calls
        while self._queue or self._parts or calls.running or calls.failed_texts.waiting or calls.held:
            wait_s = self._wait_s()
            if wait_s > 0:
                await self._pause(group, wait_s)
            elif (part := self._next_part()) is not None:
                await self._start(group, part)
            elif self._queue:
                await self._gather(group)
                if batch := self._queue.take(self._most_inputs(), self.calls.size.most_bytes, self.texts):
                    await self._start(group, Part(batch))
        self.served = False

    async def _start(self, group: asyncio.TaskGroup, part: Part) -> None:
        """Returns when the circuits have admitted or rejected the call."""
        self._begin(group, part)
        await asyncio.sleep(0)

    def _begin(self, group: asyncio.TaskGroup, part: Part) -> None:
        call = self.calls.begin(part)
        call.task = group.create_task(self._call(call), name="model-call")

    def look(self, group: asyncio.TaskGroup) -> None:
        """Call this about once a second: it cancels a call that hangs while a later one was served.

        When no later one is under way, the daemon's own text is sent to see whether the model is well.
        """
        calls, now = self.calls, self._tools.clock.monotonic()
        for call in [call for call in calls.running if calls.hangs(call)]:
            if calls.served.overtook(call.began_at):
                calls.give_up(call)
            elif not (
                call.witnessed
                or self._probing()
                or calls.limiter.wait_s(now, 1) > 0
                or any(other.began_at > call.began_at for other in calls.running)
            ):
                call.witnessed = True
                self._begin(group, _witness())

    async def _call(self, call: Running) -> None:
        try:
            await self.calls.run(call)
        finally:
            self._changed.set()

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
        if not self._queue and not self._parts and not self._ask_witness():
            return inf if self.calls.running else 0.0
        now = self._tools.clock.monotonic()
        busy_s = self._busy_s(now)
        if busy_s > 0:
            return busy_s
        hold_s = max(self._tools.circuits.wait_s(self.model), self.calls.not_before - now)
        if hold_s <= 0 and not self._probing():
            hold_s = self.calls.limiter.wait_s(now, self._next_tokens())
        if LONGEST_WAIT_S < hold_s < inf:
            self.fail_all(CircuitOpen(self.held_because(), retry_after_s=hold_s))
            return inf if self.calls.running else 0.0
        return hold_s

    def _ask_witness(self) -> bool:
        """Queue the daemon's own text when texts wait for a served call and no other call is left."""
        calls = self.calls
        calls.failed_texts.waiting = self.texts.wanted(calls.failed_texts.waiting)
        calls.held = [held for held in calls.held if any(one.futures and one.wanted for one in held[0].texts)]
        if calls.running or not (calls.failed_texts.waiting or calls.held):
            return False
        self._parts.append(_witness())
        return True

    def _probing(self) -> bool:
        return self._tools.circuits.probing(self.model)

    def _busy_s(self, now: float) -> float:
        """Seconds until the calls under way allow another one."""
        running, findings = self.calls.running, self.calls.findings
        if any(call.probe for call in running):
            return inf
        if self._parts and not self._queues_turn():
            if not self._part_fits():
                return inf
            if findings.concurrent:
                return 0.0
        counted = findings.failures > 0
        known = findings.passes(texts=min(len(self._queue), self._most_inputs()))
        joined = [call for call in running if counted or not (call.part.isolated or (known and call.part.split))]
        if not joined or (not counted and self._fills_a_call(len(joined))):
            return 0.0
        if len(joined) >= MAX_CALLS:
            return inf
        # The youngest call is enough: it could start because the older ones were slow already.
        return max(0.0, joined[-1].slow_at - now)

    def _queues_turn(self) -> bool:
        """Is the next call made from the queue? Parts go first, as many as may be under way."""
        if not self._parts:
            return True
        return bool(self._queue) and self.calls.findings.concurrent and not self._part_fits()

    def _part_fits(self) -> bool:
        """May the next part start, besides the parts that are under way?"""
        beside = [call.part.isolated for call in self.calls.running if call.part.isolated or call.part.split]
        if self._parts[0].isolated:
            return sum(beside) < MAX_ISOLATED_CALLS
        return len(beside) < MAX_ISOLATED_CALLS

    def _next_tokens(self) -> int:
        size = min(self._queue.size, self.calls.size.most_bytes) if self._queues_turn() else self._parts[0].size
        return self.calls.size.tokens(size)

    def _next_part(self) -> Part | None:
        """The next part of a failed call, or an isolated text; None when it is the queue's turn."""
        probing = self._probing()
        if probing and self.calls.witness_is_next and (self._parts or self._queue):
            return _witness()
        if probing and self._parts and not self._has_probe():
            return None if self._queue else _witness()
        if not probing and self._queues_turn():
            return None
        while self._parts:
            part = self._parts.popleft()
            part.texts = self.texts.wanted(part.texts)
            if not part.texts:
                self.calls.findings.end_part(part, served=False)
                continue
            count = 1 if probing else self.calls.findings.most_of(part)
            if count < len(part.texts):
                self._parts.appendleft(part.after(count))
            return part
        return None

    def _has_probe(self) -> bool:
        """Is there a part that can be the probe? It is put first. A text that is known to fail cannot."""
        for _ in range(len(self._parts)):
            if self.calls.failed_texts.known_failures(self._parts[0].texts[0]) is None:
                return True
            self._parts.rotate(-1)
        return False

    # --- gathering

    async def _gather(self, group: asyncio.TaskGroup) -> None:
        """Wait for the texts of slots that are being refilled, for ``_longest_s`` at most."""
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
        """Wake the lane when no text is expected any more; until cancelled.

        The lane may expect one again by the time it looks: so this goes on.
        """
        while True:
            left_s = self._gathered_by - self._tools.clock.monotonic()
            await self._tools.clock.sleep(min(LOOK_AGAIN_S, max(0.0, left_s)))
            if not self._expects():
                self._changed.set()

    @property
    def _longest_s(self) -> float:
        """The most seconds that a batch waits for slots to be refilled."""
        return max(GATHERING_S, GATHERING_SHARE * self.calls.served.usual_s)

    def _expects(self) -> bool:
        """Is a text expected that the batch should wait for?"""
        now = self._tools.clock.monotonic()
        if now >= self._gathered_by or len(self._queue) >= self._most_inputs():
            return False
        returning = self.calls.answered_tasks > 0 and now < self.calls.answered_at + self._longest_s
        return returning or self._intake.refilling()

    def _halves(self) -> bool:
        large = self._intake.slots >= 2 * FULL_BATCH and self.calls.served.usual_s >= HALVED_FROM_S
        return large and self.calls.limiter.rate == inf

    def _most_inputs(self) -> int:
        """The most texts for one call."""
        if self._probing():
            return 1
        most = int(min(self.calls.size.most_inputs, self.calls.findings.most_inputs))
        return min(most, -(-self._intake.slots // 2)) if self._halves() else most

    def _fills_a_call(self, beside: int) -> bool:
        """May a call start beside ``beside`` others because it has the largest size, and such calls are served?"""
        most = self._most_inputs()
        if self._halves() and most >= self._intake.slots // 2:
            return beside <= 1 and len(self._queue) >= self._intake.slots // 2
        findings, most_bytes = self.calls.findings, self.calls.size.most_bytes
        full = (len(self._queue) >= most and findings.passes(texts=most)) or (
            self._queue.size >= most_bytes and findings.passes(size=most_bytes)
        )
        return full and beside < MAX_FULL_CALLS and findings.concurrent


def _witness() -> Part:
    """The daemon's own text, isolated: texts that come meanwhile need not wait for it."""
    return Part([Waiting(WITNESS, len(WITNESS), witness=True)], isolated=True)


def _began_at(call: Running) -> float:
    return call.began_at
