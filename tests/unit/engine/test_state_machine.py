"""Any order of work, faults, full disks, kills and operators: the core loses nothing, and pays and tells once.

The scheduler, the runner, the outbox's promises, the journal, recovery, gates and delivery as they are;
the upstream, the model and the disk are a world in memory whose answers hypothesis chooses. Time is virtual.
"""

import asyncio
import copy
import random
from collections import Counter
from collections.abc import Coroutine, Mapping, MutableMapping, Sequence
from typing import Any

import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ai_task_processor.core import errors
from ai_task_processor.core.ports import Held, Want
from ai_task_processor.engine.admission import EngineAdmission, RunningTasks
from ai_task_processor.engine.delivery import Delivery
from ai_task_processor.engine.faults import Faults
from ai_task_processor.engine.recovery import Recovery
from ai_task_processor.engine.runner import TaskRunner
from ai_task_processor.engine.scheduler import TaskScheduler
from ai_task_processor.engine.slots import Slots
from ai_task_processor.engine.steps import TaskSteps
from ai_task_processor.models.task import Claim, Completed, Failure, Outcome, Receipt, Record, Task, TaskResult
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops import logs
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.testing.memory import MemoryJournal
from tests.helpers import StubSource
from tests.unit.conftest import FakeClock
from tests.unit.engine.parts import UnwritableOutbox, claim

SLOTS = 3
COMMIT_S = 0.02
API: dict[str, Exception | None] = {
    "well": None,
    "closed": errors.Unsent("connection refused"),
    "503": errors.Transient("answered 503"),
    "429": errors.Throttled("answered 429", retry_after_s=5.0),
    "401": errors.Misconfigured("answered 404 by something else"),
    "lost": errors.Ambiguous("the answer was lost"),
}
MODEL: dict[str, Exception | None] = {
    "well": None,
    "down": errors.Transient("answered 500"),
    "lost": errors.Ambiguous("no answer within 60 s"),
    "broke": errors.QuotaExhausted("insufficient_quota"),
}
KINDS = ("good", "good", "good", "bad", "crashing", "poison", "refused", "unknown")


class World:
    """What is outside of the process, and everything that was said to it."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.pending: dict[str, None] = {}
        self.states: dict[str, str] = {}
        self.applied: Counter[str] = Counter()
        self.unclear: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.lost_answers: Counter[str] = Counter()
        self.api = self.model = "well"
        self.disk_full = False
        self.kills = 0
        self.killed_with: Counter[str] = Counter()
        #: written down, because the core rightly survives exceptions of its remotes
        self.violations: list[str] = []

    def apply(self, task_id: str, state: str) -> None:
        """A PATCH arrives. A lost answer means: applied all the same."""
        error = API[self.api]
        if self.api == "lost":
            self.unclear[task_id] += 1
        elif error is not None:
            raise error
        if self.kinds[task_id] == "refused" and state == "succeeded":
            raise errors.Rejected("refused", 400)
        self.applied[task_id] += 1
        self.states[task_id] = state
        self.pending.pop(task_id, None)
        if error is not None:
            raise error


class Disk(UnwritableOutbox):
    """Commits take a moment and fail while the world's disk is full; ``stored`` survives the process."""

    def __init__(self, clock: FakeClock, world: World, stored: list[dict[str, Record]]) -> None:
        super().__init__(2**30, clock)
        self._waiting, self._dead, self._quarantined = copy.deepcopy(stored)
        self._world = world
        self._arriving: Counter[str] = Counter()
        self.writable = True

    @property
    def stored(self) -> list[dict[str, Record]]:
        return [self._waiting, self._dead, self._quarantined]

    async def held(self, task_ids: Sequence[str]) -> Mapping[str, Held]:
        arriving = {task_id: Held("in_outbox", "") for task_id in task_ids if self._arriving[task_id]}
        return {**await super().held(task_ids), **arriving}

    def put(self, record: Record) -> asyncio.Future[None]:
        self._arriving[record.task_id] += 1
        return asyncio.ensure_future(self._commit(record))

    async def _commit(self, record: Record) -> None:
        try:
            await self._clock.sleep(COMMIT_S)
            self.check()
            super().put(record)
        finally:
            self._arriving[record.task_id] -= 1

    async def delivered(self, task_id: str) -> None:
        await self._clock.sleep(COMMIT_S)
        await super().delivered(task_id)

    def check(self) -> None:
        self.unwritable = self._world.disk_full
        self.writable = not self.unwritable
        super().check()


class Process(StubSource):
    """One life of the daemon; it is also its own source and processor."""

    def __init__(self, clock: FakeClock, world: World, stored: list[dict[str, Record]], lines: list[bytes]) -> None:
        self.clock, self.world = clock, world
        self.metrics = Metrics(version="0", provider="mock")
        self.outbox = Disk(clock, world, stored)
        self.journal = MemoryJournal(lines, monotonic=clock.monotonic)
        self.running = RunningTasks()
        self.corpse: tuple[list[dict[str, Record]], list[bytes]] | None = None
        rng = random.Random(1)
        gates = ("api_poll", "model", "api_delivery")
        self.gates = [Gate(name, threshold=3, clock=clock, metrics=self.metrics) for name in gates]
        self.recovery = Recovery(self.journal, self.outbox, source="aletheia", clock=clock)
        self.admission = EngineAdmission(self.running, self.outbox, self._find, self.recovery)
        common: dict[str, Any] = {"faults": Faults(), "clock": clock, "metrics": self.metrics, "rng": rng}
        self.delivery = Delivery(
            self.outbox, self, steps=self.outbox.steps, gate=self.gates[2], concurrency=SLOTS, **common
        )
        parts: dict[str, Any] = {"source": self, "journal": self.journal}
        steps = TaskSteps(self.outbox.steps, self.metrics)
        runner = TaskRunner(
            reporter=self.delivery.reporter,
            outbox=self.outbox,
            steps=steps,
            find=self._find,
            persisted=self.delivery.offer,
            timeout_s=1e6,
            **parts,
            **common,
        )
        deciding: dict[str, Any] = {"admission": self.admission, "recovery": self.recovery}
        parts |= {"clock": clock, "faults": common["faults"]}
        slots = Slots(SLOTS, runner=runner, running=self.running, **parts, **deciding)
        self.scheduler = TaskScheduler(self, slots, interval_s=10.0, hold_s=self._claiming_hold_s, **deciding, **common)
        self.released: dict[str, float] = {}

    async def live(self) -> None:
        self.outbox.writable = True
        await self.recovery.begin()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.delivery.run())
            group.create_task(self.scheduler.run())

    def die(self) -> None:
        """From now on nothing that happens inside counts: what was written is what is left."""
        if self.corpse is None:
            self.corpse = copy.deepcopy(self.outbox.stored), list(self.journal.lines)
            self.world.killed_with.update(list(self.running))

    # --- the source

    def _claiming_hold_s(self) -> float:
        return self.gates[0].wait_s() if self.outbox.writable and self.journal.usable() else 0.5

    async def claim(self, want: Want) -> Sequence[Claim]:
        async def listing() -> Sequence[Claim]:
            await self.clock.sleep(0.01)
            if (error := API[self.world.api]) is not None:
                raise error
            now, kinds = self.clock.monotonic(), self.world.kinds
            listed = [claim(task_id, type=kinds[task_id], content=task_id) for task_id in self.world.pending]
            reasons = await want.admission.refuse([each.task for each in listed])
            free = [
                each
                for each, reason in zip(listed, reasons, strict=True)
                if reason is None and self.released.get(each.task.id, 0) <= now
            ]
            return free[: want.limit]

        return await self.gates[0].call(listing)

    async def wait(self, timeout_s: float) -> bool:
        await self.clock.sleep(timeout_s)
        return False

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        if isinstance(outcome, Completed) and outcome.result.output != f"answer to {receipt.id}":
            self.world.violations.append(f"{receipt.id} is told {outcome.result.output}")
        await self._tell(receipt.id, "succeeded" if isinstance(outcome, Completed) else "failed")

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        self.released[receipt.id] = self.clock.monotonic() + delay_s

    async def _tell(self, task_id: str, state: str) -> None:
        async def patch() -> None:
            if self.outbox.writable and task_id not in self.outbox.stored[0] and self.corpse is None:
                self.world.violations.append(f"{task_id} was told before it was kept")
            await self.clock.sleep(0.01)
            if self.corpse is None:
                self.world.apply(task_id, state)

        await self.gates[2].call(patch, about=task_id)

    # --- the processor

    def _find(self, task: Task) -> Any:
        return None if task.type == "unknown" else self

    def hold_s(self) -> float:
        return self.gates[1].wait_s()

    def lane(self, task: Task) -> None:
        """Its gate is one for all tasks."""

    def lane_hold_s(self, lane: str, running: int) -> float:
        raise NotImplementedError

    async def process(self, task: Task) -> TaskResult:
        if self.journal.isolated is not None and len(self.running) > 1:
            self.world.violations.append(f"{self.journal.isolated} is not alone: {sorted(self.running)}")
        await self.clock.sleep(0.05)
        match task.type:
            case "bad":
                raise errors.TaskError("bad")
            case "crashing":
                raise ValueError
            case "poison":
                self.die()
                await asyncio.Event().wait()
        await self.gates[1].call(lambda: self._ask(task.id))
        return TaskResult(f"answer to {task.id}")

    async def _ask(self, task_id: str) -> None:
        await self.clock.sleep(0.1)
        if self.corpse is not None:
            return
        if any(task_id in place for place in self.outbox.stored):
            self.world.violations.append(f"{task_id} was paid again, and its result is stored")
        self.world.paid[task_id] += 1
        if (error := MODEL[self.world.model]) is not None:
            self.world.lost_answers[task_id] += 1
            raise error


class Machine(RuleBasedStateMachine):
    """Kills are at any moment that a rule ends at; a poison kills by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock, self.world = FakeClock(), World()
        self.stored: list[dict[str, Record]] = [{}, {}, {}]
        self.lines: list[bytes] = []
        self.crashes: list[str] = []

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        structlog.configure(processors=[self._note])
        self.do(self._start())

    def _note(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        """A violated promise inside the core comes out as its crash."""
        if event["event"].endswith(".crashed"):
            self.crashes.append(repr(event))
        raise structlog.DropEvent

    async def _start(self) -> None:
        self.process = Process(self.clock, self.world, self.stored, self.lines)
        self.life = asyncio.ensure_future(self.process.live())

    async def _bury(self) -> None:
        self.process.die()
        assert self.process.corpse is not None
        self.stored, self.lines = self.process.corpse
        self.life.cancel()
        await asyncio.wait([self.life])
        await self._start()

    async def _pass(self, seconds: float) -> None:
        ends_at = self.clock.monotonic() + seconds
        while (left := ends_at - self.clock.monotonic()) > 0:
            await self.clock.sleep(min(left, 0.5))
            if self.process.corpse is not None:
                await self._bury()

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    def list_tasks(self, kinds: list[str]) -> None:
        for kind in kinds:
            task_id = f"{kind}-{len(self.world.kinds)}"
            self.world.kinds[task_id] = kind
            self.world.pending[task_id] = None

    @rule(mode=st.sampled_from(sorted(API)))
    def task_api(self, mode: str) -> None:
        self.world.api = mode

    @rule(mode=st.sampled_from(sorted(MODEL)))
    def model_api(self, mode: str) -> None:
        self.world.model = mode

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.world.disk_full = full

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.11, 0.13, 0.16, 0.3, 1.0, 5.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self._pass(seconds))

    @rule()
    def kill(self) -> None:
        self.world.kills += 1
        self.do(self._bury())

    @rule()
    def operator_retries_dead_letters(self) -> None:
        self.process.outbox.leave_request("retry", list(self.process.outbox.stored[1]))
        self.do(self.process.outbox.apply_requests())
        self.process.delivery.wake()

    @invariant()
    def nothing_is_falsely_failed(self) -> None:
        for task_id, state in self.world.states.items():
            assert state == "succeeded" or self.world.kinds[task_id] in ("bad", "crashing"), task_id

    @invariant()
    def repetitions_have_a_reason(self) -> None:
        """A callback runs again, and a text is paid again, only after a lost answer or a kill."""
        world = self.world
        for task_id, times in world.applied.items():
            kills = world.kills + 9 * sum(map(self._poisonous, world.kinds))
            assert times <= 1 + world.unclear[task_id] + kills, task_id
        for task_id, times in world.paid.items():
            assert times <= 1 + world.lost_answers[task_id] + world.killed_with[task_id], task_id

    def _poisonous(self, task_id: str) -> bool:
        return self.world.kinds[task_id] == "poison"

    @invariant()
    def only_killers_are_quarantined(self) -> None:
        if self.world.kills < 3:
            assert all(map(self._poisonous, self.stored[2])), self.stored[2]

    @invariant()
    def the_process_is_sound(self) -> None:
        if hasattr(self, "process"):
            assert not self.world.violations, self.world.violations
            assert self.process.metrics.value("results_lost_total") == 0
            assert not self.crashes, self.crashes
            assert len(self.process.running) <= SLOTS
            assert not self.life.done(), self.life

    def teardown(self) -> None:
        """When all is well again, everything comes to its end."""
        self.world.api = self.world.model = "well"
        self.world.disk_full = False
        try:
            for _ in range(40):
                self.do(self._pass(60.0))
                if self._settled():
                    break
            assert self._settled(), (self.world.states, list(self.world.pending), self.process.outbox.stored)
            self.nothing_is_falsely_failed()
            self.repetitions_have_a_reason()
        finally:
            self.life.cancel()
            self.do(asyncio.wait([self.life]))
            self.loop.close()
            logs.reset()

    def _settled(self) -> bool:
        ends = {"good": "succeeded", "bad": "failed", "crashing": "failed"}
        waiting, dead, quarantined = self.process.outbox.stored
        return not waiting and all(
            self.world.states.get(task_id) == ends[kind] if kind in ends else self._rests(task_id, dead, quarantined)
            for task_id, kind in self.world.kinds.items()
        )

    def _rests(self, task_id: str, dead: dict[str, Record], quarantined: dict[str, Record]) -> bool:
        place = {"poison": quarantined, "refused": dead}.get(self.world.kinds[task_id])
        return place is None or task_id in place


TestStateMachine = Machine.TestCase
TestStateMachine.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    report_multiple_bugs=False,
    phases=[Phase.generate],  # an example takes half a second: shrink by hand, with fewer steps
)
