"""The life of the process: start, work, drain, exit.

Shutdown order is nesting order. The scheduler stops first, then delivery, the other components (processors,
embedder, provider, sinks, source), the ops server, and last the store.
"""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Literal

from ai_task_processor import __version__
from ai_task_processor.core import process
from ai_task_processor.core.component import Component
from ai_task_processor.core.deadline import stalls_of
from ai_task_processor.core.errors import ConfigurationError, DataDirectoryError, OutboxUnwritable
from ai_task_processor.core.settings import OpsSettings
from ai_task_processor.engine.control import Control
from ai_task_processor.engine.faults import Faults
from ai_task_processor.engine.grace import GracePeriod
from ai_task_processor.engine.guard import contained
from ai_task_processor.engine.status import StatusReader
from ai_task_processor.engine.wiring import Parts
from ai_task_processor.ops import crash_hooks, health, logs, tracing
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.endpoints import Action, Answered, MetricsServer
from ai_task_processor.ops.listener import unusable
from ai_task_processor.ops.logs import get_logger

#: part of the grace period that running tasks may use; the rest is for delivery
TASKS_SHARE = 0.8
#: A drain ends when nothing was delivered for this long; the rest stays in the outbox. It bridges a short outage of
#: the task API without delaying a restart. The ``drain`` command waits for two probes of an open circuit.
FLUSH_TIMEOUT_S = 5.0
DRAIN_TIMEOUT_S = 60.0
#: the process exits this long after the grace period, whatever still runs
FORCE_EXIT_AFTER_S = 1.0
HOUSEKEEPING_S = 0.5
#: how often in a row operators' requests are carried out, as long as there are any: the store does some at a time
REQUEST_ROUNDS = 20
#: how long the end of the process waits for the last spans to be sent, if the grace period leaves as much
TRACES_S = 2.0
#: delay of the preparation when an earlier process left results, which are delivered first
PREPARED_AFTER_S = 1.0
#: thresholds of the garbage collector: tasks create many objects, and few of them are in reference cycles
COLLECTED_AT = (20_000, 20, 100)
LAG_SAMPLE_S = 0.1
STUCK_AFTER_S = 30.0
EX_OK, EX_SOFTWARE, EX_TEMPFAIL = 0, 70, 75

log = get_logger(__name__)


class Daemon:
    """Runs the parts: ``run`` for the worker, ``deliver`` for the ``drain`` command."""

    def __init__(self, parts: Parts) -> None:
        self.port: int | None = None
        self._parts = parts
        self._settings = parts.settings
        self._faults = parts.faults
        self._clock = parts.clock
        self._reader = StatusReader(parts)
        self._sighup = asyncio.Event()
        self._requests = Condition("outbox.failed", "outbox.restored", logging.ERROR)
        self._grace = GracePeriod(parts.settings.worker.shutdown_grace_s)
        self._control = Control(parts.pause, level=parts.settings.log.level, changed=self._resume)
        actions = self._control.actions.items()
        self._ops = MetricsServer(
            unhealthy=lambda: health.unhealthy(self._reader.snapshot()),
            unready=lambda: health.unready(self._reader.snapshot()),
            notes=lambda: health.notes(self._reader.snapshot()),
            status=self._reader.document,
            exposition=parts.metrics.exposition,
            page=self._page if parts.settings.ops.status_page else None,
            actions={
                "/wake": Action(lambda: self._token("wake_token"), self._called),
                **{path: Action(lambda: self._token("control_token"), call) for path, call in actions},
            },
        )

    async def run(self, *, until_empty: bool = False) -> int:
        """Poll, process and deliver until a signal; returns the exit code.

        ``until_empty``: exit when nothing that can be processed is pending and everything is delivered.
        Raises ``DataDirectoryError``, ``OutboxLocked``, ``ConfigurationError`` (port taken).
        """
        async with AsyncExitStack() as stack:
            if await self._opened(stack):
                await self._parts.recovery.begin()
                async with asyncio.TaskGroup() as companions:
                    tasks = [companions.create_task(work, name=name) for name, work in self._companions(until_empty)]
                    await self._work()
                    await self._flush(FLUSH_TIMEOUT_S)
                    await self._release()
                    for task in tasks:
                        task.cancel()
        log.info("daemon.stopped", waiting=self._parts.store.outbox.depth().waiting)
        return EX_OK

    async def deliver(self) -> int:
        """Deliver the records of the outbox and claim nothing; returns 75 when some are left."""
        self.drain()
        async with AsyncExitStack() as stack:
            if not await self._opened(stack):
                return EX_TEMPFAIL
            async with asyncio.TaskGroup() as companions:
                await self._apply_requests()
                tasks = [companions.create_task(work, name=name) for name, work in self._companions(False)]
                await self._flush(DRAIN_TIMEOUT_S)
                for task in tasks:
                    task.cancel()
        return EX_TEMPFAIL if self._parts.store.outbox.depth().waiting else EX_OK

    async def _opened(self, stack: AsyncExitStack) -> bool:
        """Start the components. False when a signal came while another daemon held the store."""
        parts = self._parts
        loop = asyncio.get_running_loop()
        self._reader.begin()
        stack.push_async_callback(self._end_traces)
        loop.set_exception_handler(crash_hooks.install())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._sighup.set)
        for early in process.early_signals():
            self._signalled(early)
        store, *others = parts.components
        try:
            async with self._grace.share(0.0):
                await stack.enter_async_context(alive(store, self._faults))
        except TimeoutError:
            return False
        if parts.store.recovered:
            parts.metrics.results_recovered(parts.store.recovered)
            log.info("outbox.recovered", results=parts.store.recovered)
        self._control.load()
        self.port = await self._listen()
        stack.push_async_callback(self._ops.aclose)
        for component in others:
            await stack.enter_async_context(alive(component, self._faults))
        log.info("daemon.started", version=__version__, mode=self._reader.mode, port=self.port)
        return True

    async def _end_traces(self) -> None:
        if tracing.on():
            await asyncio.to_thread(tracing.stop, min(TRACES_S, self._grace.left_s()))

    def _page(self) -> tuple[bytes, Mapping[str, str]]:
        from ai_task_processor.ops.page import render

        more = self._reader.components()
        return render(self._reader.status(), more, self._clock.now())

    async def _listen(self) -> int:
        ops = self._settings.ops
        try:
            return await self._ops.start(ops.metrics_host, ops.metrics_port)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(unusable(error, ops.metrics_host, ops.metrics_port)) from error

    def _companions(self, until_empty: bool) -> list[tuple[str, Coroutine[None, None, None]]]:
        """Names and coroutines of the background tasks, which end after the scheduler."""
        companions = [
            ("delivery", self._parts.delivery.run()),
            ("heartbeat", self._parts.heartbeat.run()),
            ("housekeeping", self._run_housekeeping()),
            ("loop-lag", self._watch_loop()),
            ("hang-ups", self._reload_on_sighup()),
        ]
        if not self._reader.draining:
            companions.append(("preparation", self._prepare()))
        if until_empty:
            companions.append(("until-empty", self._leave_when_empty()))
        return companions

    async def _prepare(self) -> None:
        """Import heavy libraries before the first task needs them, but after an earlier process's results are sent."""
        if self._parts.store.recovered:
            await self._clock.sleep(PREPARED_AFTER_S)
        for provider in (self._parts.provider, self._parts.chat_provider):
            if provider is not None:
                with self._faults.of(provider, "prepare"):
                    await provider.prepare()
        # These objects live as long as the process. Collecting them again and again took a fifth of the time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTED_AT)

    async def _work(self) -> None:
        try:
            async with self._grace.share(TASKS_SHARE):
                await self._parts.scheduler.run()
        except TimeoutError:
            log.warning("drain.cut", tasks=sorted(receipt.id for receipt in self._parts.slots.cut))

    async def _release(self) -> None:
        """Release the tasks that the drain cut off."""
        with suppress(TimeoutError):
            async with self._grace.share(1.0), asyncio.TaskGroup() as group:
                for receipt in self._parts.slots.cut:
                    release = self._faults.release(self._parts.source, receipt, 0.0)
                    group.create_task(release, name=f"release {receipt.id}")

    async def _flush(self, timeout_s: float) -> None:
        try:
            async with self._grace.share(1.0):
                await self._parts.delivery.flushed(timeout_s)
        except TimeoutError:
            pass
        depth = self._parts.store.outbox.depth()
        log.info("drain.finished", waiting=depth.waiting, dead_letters=depth.dead)

    def _signalled(self, number: int) -> None:
        """The first signal drains; the second exits at once. Finished results are in the outbox."""
        name = signal.Signals(number).name
        self._parts.store.journal.stopping()
        if self._grace.begun:
            log.warning("drain.forced", signal=name)
            logs.flush()
            os._exit(128 + number)
        log.info("drain.started", signal=name, running=len(self._parts.slots.running))
        self._grace.begin()
        self._schedule_forced_exit()
        self.drain()

    def drain(self) -> None:
        """Claim nothing more, and exit when all running tasks have ended."""
        self._reader.draining = True
        self._parts.scheduler.drain()

    def _schedule_forced_exit(self) -> None:
        loop = asyncio.get_running_loop()
        due_at = loop.time() + self._grace.left_s() + FORCE_EXIT_AFTER_S
        loop.call_at(due_at, self._force_exit, due_at)

    def _force_exit(self, due_at: float) -> None:
        """Exit although a task ignores its cancellation: ``asyncio`` would wait for it forever."""
        loop = asyncio.get_running_loop()
        stalls_of(loop).note(due_at, loop.time())
        if self._grace.left_s() + FORCE_EXIT_AFTER_S > LAG_SAMPLE_S:
            # The process was stopped (SIGSTOP) meanwhile, which does not count: wait for the rest of the time.
            self._schedule_forced_exit()
            return
        tasks = sorted(task.get_name() for task in asyncio.all_tasks())
        log.error("drain.forced", reason="a task ignores its cancellation", tasks=tasks)
        logs.flush()
        os._exit(EX_SOFTWARE)

    async def _leave_when_empty(self) -> None:
        """A pause by an operator delays the end, too: pending tasks are not looked at meanwhile."""
        parts = self._parts
        while True:
            await self._clock.sleep(0.05)
            backlog = self._reader.backlog()
            if backlog is None or parts.pause.state is not None or not parts.scheduler.idle:
                continue
            skipped = backlog.skipped
            if parts.store.outbox.depth().waiting + skipped.get("deferred", 0) + skipped.get("paused", 0):
                continue
            if parts.scheduler.asked_at >= parts.delivery.acknowledged_at:
                self.drain()
                return
            self._resume()  # what was acknowledged since may be followed by another task

    async def _run_housekeeping(self) -> None:
        """Apply operators' requests and set gauges, every ``HOUSEKEEPING_S``."""
        while True:
            await self._apply_requests()
            self._set_gauges()
            await self._clock.sleep(HOUSEKEEPING_S)

    async def _apply_requests(self) -> None:
        outbox = self._parts.store.outbox
        with self._faults.of(self._parts.store, "apply_requests"):
            try:
                for _ in range(REQUEST_ROUNDS):
                    requests = await outbox.apply_requests()
                    for task_id, action in requests.items():
                        log.info("outbox.requested", task_id=task_id, action=action)
                    if not requests:
                        break
                    self._parts.delivery.wake()
            except OutboxUnwritable as error:
                self._requests.note(str(error))
            else:
                self._requests.note(None)

    def _set_gauges(self) -> None:
        parts, depth, now = self._parts, self._parts.store.outbox.depth(), self._clock.monotonic()
        oldest = depth.oldest_finished_at
        parts.metrics.outbox(
            records=depth.waiting,
            dead_letters=depth.dead,
            quarantined=depth.quarantined,
            bytes_used=depth.bytes,
            oldest_age_s=None if oldest is None else max(0.0, self._clock.now().timestamp() - oldest),
        )
        if parts.embedder is not None:
            parts.embedder.count()
        limit_s = self._settings.worker.task_timeout_s + STUCK_AFTER_S
        parts.metrics.stuck(sum(now - task.started_at > limit_s for task in parts.slots.running.values()))
        self._reader.meter.sample()
        snapshot = self._reader.snapshot()
        parts.metrics.log_lines_dropped(logs.dropped())
        parts.metrics.paused(snapshot.paused is not None)
        parts.metrics.ready(not health.unready(snapshot))
        parts.metrics.state(health.state(snapshot))

    async def _reload_on_sighup(self) -> None:
        """After SIGHUP: read the secrets again, and retry at once what was paused."""
        parts = self._parts
        while True:
            await self._sighup.wait()
            self._sighup.clear()
            log.info("daemon.hung_up")
            await parts.secrets.reread()
            for component in parts.components:
                with self._faults.of(component, "reload"):
                    await component.reload()
            for gate in parts.gates:  # after the reloads: until then a call fails with the old secrets
                gate.due()
            self._wake()
            parts.delivery.wake()

    def _token(self, name: Literal["wake_token", "control_token"]) -> str | None:
        """A token of the ops port, as it was read last."""
        ops = self._parts.secrets[OpsSettings]
        token = ops.wake_token if name == "wake_token" else ops.control_token
        return None if token is None else token.get_secret_value()

    def _called(self, _query: Mapping[str, str]) -> Answered:
        """``POST /wake``. 202: it only brings the next poll forward."""
        self._wake()
        return 202, {"status": "accepted"}

    def _resume(self) -> None:
        with self._faults.of(self._parts.source, "resume"):
            self._parts.source.resume()

    def _wake(self) -> None:
        with self._faults.of(self._parts.source, "wake"):
            self._parts.source.wake()

    async def _watch_loop(self) -> None:
        """Measure the loop's lag: how late a timer fires because the loop was busy or the process was stopped.

        A timer and not a task: a stall must be noted before any task runs again, because deadlines depend on it.
        """
        loop, stalls = asyncio.get_running_loop(), stalls_of(asyncio.get_running_loop())
        timers: list[asyncio.TimerHandle] = []

        def wait() -> None:
            timers[:] = [loop.call_later(LAG_SAMPLE_S, sample, self._clock.monotonic() + LAG_SAMPLE_S)]

        def sample(due_at: float) -> None:
            lag_s = max(0.0, self._clock.monotonic() - due_at)
            self._parts.metrics.loop_lag(lag_s)
            stalls.note(loop.time() - lag_s, loop.time())
            wait()

        wait()
        try:
            await loop.create_future()
        finally:
            timers[0].cancel()


@asynccontextmanager
async def alive(component: Component, faults: Faults) -> AsyncIterator[None]:
    """Run a component while the body runs. Raises its own error when it fails, at the start or in between."""
    ready, body = asyncio.Event(), asyncio.current_task()
    life = asyncio.create_task(contained(lambda: component.run(ready)), name=component.name or type(component).__name__)
    begun = asyncio.create_task(ready.wait())

    def ended(_: object) -> None:
        if ready.is_set() and body is not None and not life.cancelled():
            body.cancel()

    def failure(how: str) -> BaseException:
        error = life.exception() or RuntimeError(f"{life.get_name()} ended {how}")
        if not isinstance(error, ConfigurationError | DataDirectoryError):
            log.critical("component.crashed", **faults.about(component), reason=type(error).__name__)
        return error

    try:
        await asyncio.wait([life, begun], return_when=asyncio.FIRST_COMPLETED)
        if life.done() and not ready.is_set():
            raise failure("before it was ready")
        life.add_done_callback(ended)
        yield
    except asyncio.CancelledError:
        if body is not None and life.done() and not life.cancelled():
            body.uncancel()
            raise failure("while it was needed") from None
        raise
    finally:
        life.remove_done_callback(ended)
        begun.cancel()
        if not life.done():
            life.cancel()
            await asyncio.wait([life])
            if not life.cancelled() and life.exception() is not None:
                raise failure("")
