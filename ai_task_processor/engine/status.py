"""What the running process knows of itself: for ``/health``, ``/ready``, ``/status``, the page and the metrics."""

import asyncio
from collections.abc import Mapping
from heapq import nlargest, nsmallest

from ai_task_processor import __version__
from ai_task_processor.core import codec
from ai_task_processor.core.component import Problem
from ai_task_processor.core.deadline import Stalls, stalls_of
from ai_task_processor.core.ports import Backlog
from ai_task_processor.engine.faults import Nonsense, all_of
from ai_task_processor.engine.throughput import Meter
from ai_task_processor.engine.wiring import Parts
from ai_task_processor.ops import health, logs
from ai_task_processor.ops.status import (
    FIELDS,
    BacklogStatus,
    Circuit,
    Isolation,
    ModelStatus,
    OutboxStatus,
    Poll,
    RunningTask,
    SlotCount,
    Status,
    document,
)

#: the poll loop ticks every few seconds, whatever it waits for; without a tick for this long it hangs
LONGEST_TICK_S = 60.0
#: running tasks, and models, that are shown
SHOWN = 20


class StatusReader:
    """Reads the state of the parts, from memory. ``draining``: nothing more is claimed."""

    def __init__(self, parts: Parts) -> None:
        self.draining = False
        self._parts = parts
        self._faults = parts.faults
        self._clock = parts.clock
        self._started_at = parts.clock.monotonic()
        self._stalls: Stalls | None = None
        self.meter = Meter(lambda: (parts.metrics.acknowledged, parts.metrics.failed), parts.clock)

    def begin(self) -> None:
        """The event loop runs: its stalls are measured from now on."""
        self._stalls = stalls_of(asyncio.get_running_loop())

    @property
    def mode(self) -> str:
        """The provider's name: ``openai``, ``mock``, ``none``."""
        return "none" if self._parts.provider is None else self._parts.provider.name

    def document(self) -> Mapping[str, object]:
        """The answer of ``/status``, as JSON."""
        more = self.components()
        return document(self.status(), more)

    def components(self) -> Mapping[str, object]:
        """The fields that components add to ``/status``, as JSON."""
        more = dict[str, object]()
        for component in self._parts.components:
            with self._faults.of(component, "status"):
                found: object = component.status()
                if not isinstance(found, Mapping) or not found.keys().isdisjoint({*FIELDS, *more}):
                    raise Nonsense("it returned no mapping, or a field that there is already")
                codec.dumps(found)
                more |= found
        return more

    def snapshot(self) -> health.Snapshot:
        parts, scheduler, backlog = self._parts, self._parts.scheduler, self.backlog() or Backlog()
        following = scheduler.next_poll_at
        return health.Snapshot(
            draining=self.draining,
            polled=scheduler.polled_at is not None,
            tick_age_s=self._tick_age_s(),
            longest_tick_s=LONGEST_TICK_S,
            problems=self._problems(),
            running=len(parts.slots.running),
            slots=parts.slots.total,
            isolation=parts.recovery.isolation,
            paused=None if parts.pause.state is None else str(parts.pause.state),
            skipped={str(reason): count for reason, count in backlog.skipped.items()},
            read_ahead=backlog.read_ahead,
            released=parts.slots.released,
            holding=scheduler.holding,
            next_poll_s=None if following is None else max(0.0, following - self._clock.monotonic()),
        )

    def backlog(self) -> Backlog | None:
        """The backlog of the source; None when it cannot tell."""
        source = self._parts.source
        with self._faults.of(source, "backlog"):
            (backlog,) = all_of(Backlog, [source.backlog])
            all_of(int, [backlog.seen, backlog.read_ahead, *backlog.skipped.values()])
            return backlog
        return None

    def status(self) -> Status:
        parts, snapshot, backlog = self._parts, self.snapshot(), self.backlog() or Backlog()
        return Status(
            version=__version__,
            state=health.state(snapshot),
            mode=self.mode,
            source=parts.services.source,
            uptime_seconds=round(self._clock.monotonic() - self._started_at, 1),
            why_idle=health.why_idle(snapshot),
            not_ready_because=health.unready(snapshot),
            notes=health.notes(snapshot),
            paused=parts.pause.state,
            log_level=logs.level(),
            slots=SlotCount(total=snapshot.slots, running=snapshot.running),
            running_tasks=self._running_tasks(),
            throughput=self.meter.throughput(),
            poll=self._poll(),
            backlog=BacklogStatus(
                seen=backlog.seen,
                complete=backlog.complete,
                read_ahead=backlog.read_ahead,
                skipped=snapshot.skipped,
            ),
            outbox=self._outbox(),
            isolation=Isolation(
                waiting=len(parts.store.journal.in_flight_at_crash), running=parts.store.journal.isolated
            ),
            circuits={
                gate.service: Circuit(state=gate.state, reason=gate.reason, wait_seconds=round(gate.wait_s(), 1))
                for gate in parts.gates
            },
            models=self._models(),
            last_errors=logs.recent_errors(),
        )

    def _running_tasks(self) -> list[RunningTask]:
        now, running = self._clock.monotonic(), self._parts.slots.running.values()
        return [
            RunningTask(id=task.claim.task.id, type=task.claim.task.type, age_seconds=round(now - task.started_at, 1))
            for task in nsmallest(SHOWN, running, key=lambda task: task.started_at)
        ]

    def _poll(self) -> Poll:
        scheduler, now = self._parts.scheduler, self._clock.monotonic()
        last = scheduler.polled_at
        following = None if self._parts.pause.state else scheduler.next_poll_at
        return Poll(
            under_way=scheduler.polling,
            last_seconds_ago=None if last is None else round(now - last, 1),
            next_in_seconds=None if following is None else round(max(0.0, following - now), 1),
        )

    def _outbox(self) -> OutboxStatus:
        depth, now = self._parts.store.outbox.depth(), self._clock.now().timestamp()
        oldest, due = depth.oldest_finished_at, depth.next_due_at
        return OutboxStatus(
            waiting=depth.waiting,
            oldest_age_seconds=None if oldest is None else round(max(0.0, now - oldest), 1),
            next_due_in_seconds=None if due is None else round(max(0.0, due - now), 1),
            dead_letters=depth.dead,
            quarantined=depth.quarantined,
            bytes=depth.bytes,
            of_other_sources=dict(depth.foreign),
        )

    def _models(self) -> list[ModelStatus]:
        parts = self._parts
        callers = [caller for caller in (parts.embedder, parts.chat) if caller is not None]
        busy = [model for caller in callers for model in caller.models() if model.noteworthy]
        return nlargest(SHOWN, busy, key=lambda model: (model.waiting_calls, model.running_calls))

    def _problems(self) -> list[Problem]:
        """Problems of the components, of the last poll, and of paused remotes."""
        parts, problems = self._parts, self._faults.ask(Problem, self._parts.source, "problems")
        if parts.scheduler.problem is not None:
            problems.append(Problem(health.POLL_FAILED, parts.scheduler.problem))
        for component in parts.components:
            if component is not parts.source:
                problems += self._faults.ask(Problem, component, "problems")
        problems += self._faults.problems
        if parts.admission.limitation is not None:
            problems.append(Problem("type_limited", parts.admission.limitation, ready=True, when="paused"))
        problems += parts.delivery.problems()
        problems += [
            Problem("paused", f"{gate.service} is paused: {gate.reason}{_again(gate.wait_s())}", ready=True)
            for gate in parts.gates
            if gate.reason is not None
        ]
        return problems

    def _tick_age_s(self) -> float:
        """Seconds since the poll loop's last tick, or since the end of a long stall, in which nothing could run."""
        age_s, stalls = self._clock.monotonic() - self._parts.scheduler.ticked_at, self._stalls
        if stalls is None or stalls.lasted_s < LONGEST_TICK_S / 2:
            return age_s
        return min(age_s, asyncio.get_running_loop().time() - stalls.ended_at)


def _again(wait_s: float) -> str:
    return f"; next try in {wait_s:.0f} s" if wait_s >= 1 else ""
