# ruff: noqa: T201 - a script that prints its figures
"""The figures behind the promise: ``python -m tests.bench.promise [NAME ...]``, all of them in 15 minutes.

Each one runs the real command against the sandbox over real sockets, and says whether its bound holds.
Kills and mixed faults are ``make chaos``; what is no measurement (secrets, labels) is in the tests.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ai_task_processor.core.clock import SystemClock
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox
from tests.bench.machine import LoopLag, memory_mb
from tests.bench.outbox import record
from tests.bench.report import Bound
from tests.e2e.conftest import DaemonProcess, _eventually, install_wheel

FAST = {"POLLING_INTERVAL_SECONDS": "1", "CONCURRENCY_LIMIT": "32"}
until = partial(_eventually, timeout=120.0)


@dataclass(slots=True)
class Room:
    """A sandbox, and daemons that share one data directory."""

    sandbox: Sandbox
    directory: Path
    started: list[DaemonProcess]

    async def daemon(self, **settings: object) -> DaemonProcess:
        directory = self.directory / str(len(self.started))
        directory.mkdir()
        given = {"DATA_DIR": str(self.directory / "data"), **FAST, **self.sandbox.environment()}
        given |= {name: str(value) for name, value in settings.items()}
        process = DaemonProcess(directory, given)
        self.started.append(process)
        return await process.start()

    def add(self, count: int) -> list[str]:
        made = len(self.sandbox.tasks)
        return [self.sandbox.tasks.add(text=f"text {made + number}") for number in range(count)]

    def acknowledged(self) -> int:
        return sum(task.acknowledged_at is not None for task in self.sandbox.tasks)

    async def usual(self) -> float:
        """Tasks a second, over ten seconds."""
        began, count = time.monotonic(), self.acknowledged()
        await asyncio.sleep(10)
        return (self.acknowledged() - count) / (time.monotonic() - began)


@asynccontextmanager
async def room(**options: float) -> AsyncIterator[Room]:
    with tempfile.TemporaryDirectory() as directory:
        async with Sandbox(**options) as sandbox:  # type: ignore[arg-type]  # latencies
            here = Room(sandbox, Path(directory), [])
            try:
                yield here
            finally:
                for process in here.started:
                    await process.kill()


async def circuit_open(worker: DaemonProcess, *services: str) -> bool:
    circuits = (await worker.status())["circuits"]
    return all(circuits[service]["state"] == "open" for service in services)


async def quiet() -> Bound:
    """10,000 tasks and no fault."""
    async with room() as here:
        ids = here.add(10_000)
        began = time.monotonic()
        await here.daemon(CONCURRENCY_LIMIT=64)
        await here.sandbox.tasks.settled(ids, timeout=600)
        took_s = time.monotonic() - began
        repeated = sum(task.callbacks - 1 for task in here.sandbox.tasks)
        paid = sum(here.sandbox.model.times_charged(f"text {number}") - 1 for number in range(10_000))
        tokens = here.sandbox.stats.token_requests
    measured = f"{repeated}, {paid}, {tokens} ({10_000 / took_s:.0f} tasks/s)"
    what = "10,000 tasks without faults: repeated callbacks, repeated paid texts, token requests"
    return Bound(what, measured, "0, 0, 1", (repeated, paid, tokens) == (0, 0, 1))


async def outage() -> Bound:
    """The task API answers nothing but 503 while 500 results wait and 500 tasks are pending."""
    async with room(model_latency_s=0.05) as here:
        here.add(500)
        bad = here.sandbox.faults.add("patch", status=503)
        worker = await here.daemon()
        await until(lambda: here.sandbox.stats.model_inputs >= 500)
        here.sandbox.faults.clear()
        here.sandbox.faults.add("patch", status=503)
        here.sandbox.faults.add("pending", status=503)
        here.add(500)
        await until(lambda: circuit_open(worker, "api_poll", "api_delivery"))
        counts = []
        for _ in range(2):
            before = here.sandbox.stats
            await asyncio.sleep(60)
            after = here.sandbox.stats
            counts.append((after.polls - before.polls, after.patches - before.patches))
        assert bad.hits
    (polls, patches), (later_polls, later_patches) = counts
    measured = f"polls {polls}, PATCHes {patches}; then {later_polls} and {later_patches} a minute"
    what = "full outage, 500 results waiting: requests in the first minute"
    holds = max(polls, patches) <= 4 and max(later_polls, later_patches) <= 2
    return Bound(what, measured, "4; then 2 a minute", holds)


async def model_outage() -> Bound:
    """The model answers nothing but 503 while 500 tasks are pending."""
    async with room() as here:
        here.add(500)
        here.sandbox.faults.add("model", status=503)
        worker = await here.daemon()
        await until(lambda: circuit_open(worker, "model"))
        before = here.sandbox.stats.model_requests
        await asyncio.sleep(60)
        calls = here.sandbox.stats.model_requests - before
        failed = sum(task.state == "failed" for task in here.sandbox.tasks)
    what, holds = "the model is away, 500 tasks pending: calls in a minute", calls <= 4 and not failed
    return Bound(what, f"{calls} calls, {failed} tasks failed", "4; 0", holds)


async def amplification(p: float = 0.3, tasks: int = 2_000) -> Bound:
    """Every PATCH fails with probability p."""
    async with room() as here:
        ids = here.add(tasks)
        here.sandbox.faults.add("patch", status=503, probability=p)
        await here.daemon(CIRCUIT_BREAKER_THRESHOLD=1000)
        await here.sandbox.tasks.settled(ids, timeout=300)
        ratio = here.sandbox.stats.patches / tasks
    bound = 1 / (1 - p) + 0.05
    return Bound(f"requests per delivery when {p:.0%} fail", f"{ratio:.3f}", f"{bound:.3f}", ratio <= bound)


async def storm() -> Bound:
    """All tokens are revoked while 32 PATCHes are on their way."""
    async with room(api_latency_s=0.5) as here:
        ids = here.add(64)
        await here.daemon(DELIVERY_CONCURRENCY=32)
        await until(lambda: here.acknowledged() >= 4)
        await asyncio.sleep(0.2)
        before = here.sandbox.stats.token_requests
        here.sandbox.tokens.revoke()
        await here.sandbox.tasks.settled(ids, timeout=60)
        requests = here.sandbox.stats.token_requests - before
    return Bound("every token revoked under load: token requests", str(requests), "1", requests == 1)


async def restart() -> Bound:
    """From the start of the process to the first PATCH of a result that an earlier one left."""
    async with room() as here:
        here.sandbox.faults.add("patch", hang=True)
        ids = here.add(20)
        worker = await here.daemon()
        await until(lambda: here.sandbox.stats.patches >= 1 and here.sandbox.stats.model_inputs >= 20)
        await asyncio.sleep(0.5)
        await worker.kill()
        here.sandbox.faults.clear()
        before, began = here.sandbox.stats.patches, time.monotonic()
        starting = asyncio.ensure_future(here.daemon())
        await until(lambda: here.sandbox.stats.patches > before)
        took_s = time.monotonic() - began
        await starting
        await here.sandbox.tasks.settled(ids, timeout=30)
        paid = here.sandbox.model.inputs - 20
    what = "SIGKILL to resend: start of the process to the first stored result"
    return Bound(what, f"{took_s:.2f} s, {paid} paid again", "2 s, 0", took_s <= 2 and not paid)


async def crash(call_s: float = 1.0, window_s: float = 4.0) -> Bound:
    """SIGKILL with 16 slots and model calls of 1 s: from the next start to 90 % of the former throughput."""
    async with room(model_latency_s=call_s) as here:
        here.add(2_000)
        began = time.monotonic()
        worker = await here.daemon(CONCURRENCY_LIMIT=16)
        await until(lambda: here.acknowledged() >= 1)
        first_s = time.monotonic() - began
        await until(lambda: here.acknowledged() >= 48)
        usual = await here.usual()
        await asyncio.sleep(0.5 * call_s)
        await worker.kill()
        count, began = here.acknowledged(), time.monotonic()
        starting, acknowledged_at = asyncio.ensure_future(here.daemon(CONCURRENCY_LIMIT=16)), list[float]()
        took_s = None
        while took_s is None and time.monotonic() - began < 200:
            await asyncio.sleep(0.01)
            now = time.monotonic() - began
            acknowledged_at += [now] * (here.acknowledged() - count - len(acknowledged_at))
            took_s = _sustained_from(acknowledged_at, now, 0.9 * usual * window_s, window_s)
        await starting
    measured = "not in 200 s"
    if took_s is not None:
        measured = f"{took_s:.1f} s (of {usual:.1f} tasks/s; {first_s:.1f} s without a crash)"
    what = "SIGKILL with 16 slots and model calls of 1 s: start of the process to 90 % of the former throughput"
    return Bound(what, measured, "2 s and a call: 3 s", took_s is not None and took_s <= 2.0 + call_s)


SLEEPER = """
import asyncio
import os

from ai_task_processor.engine import recovery
from ai_task_processor.processors.base import BaseProcessor, Task, TaskResult

if os.environ.get("RESTARTS_ONLY"):
    recovery.ISOLATE_AT = 10**9


class Sleeper(BaseProcessor):
    task_types = frozenset({"sleep"})

    def can_process(self, task: Task) -> bool:
        return task.type == "sleep"

    async def process(self, task: Task) -> TaskResult:
        await asyncio.sleep(task.content)
        return TaskResult({"slept": task.content})
"""


async def kills(count: int = 20) -> Bound:
    """SIGKILL every 2 to 10 s under tasks of 0.1 to 10 s, beside a daemon to which the same happens and that isolates
    nothing."""

    async def lives(seed: int, *, restarts_only: bool) -> tuple[int, int, int]:
        rng = random.Random(seed)
        async with room() as here:
            for _ in range(2_000):
                here.sandbox.tasks.add(type="sleep", content=rng.uniform(0.1, 10.0))
            site = install_wheel(here.directory, "bench_sleep", SLEEPER, sleep="bench_sleep:Sleeper")
            own = {"PYTHONPATH": site, "CONCURRENCY_LIMIT": 16, "RESTARTS_ONLY": "1" if restarts_only else ""}
            for _ in range(count):
                worker = await here.daemon(**own)
                await asyncio.sleep(rng.uniform(2.0, 10.0))
                await worker.kill()
            worker = await here.daemon(**own)
            quarantined = (await worker.status())["outbox"]["quarantined"]
            isolated = sum(len(worker.events("task.isolated")) for worker in here.started)
            return here.acknowledged(), quarantined, isolated

    (done, quarantined, isolated), (without, *_) = await asyncio.gather(
        lives(1, restarts_only=False), lives(1, restarts_only=True)
    )
    what = "20 SIGKILLs, one per 2 to 10 s, tasks of 0.1 to 10 s: quarantined, share of what a bare restart does"
    measured = f"{quarantined}, {done / without:.2f} ({done} and {without} tasks; isolated runs: {isolated})"
    return Bound(what, measured, "0, 0.80", not quarantined and done >= 0.8 * without)


def _sustained_from(times: list[float], now: float, wanted: float, window_s: float) -> float | None:
    """The first of these moments at which a window begins that holds as many as wanted; None as long as none does."""
    whole = (at for at in times if at <= now - window_s)
    return next((at for at in whole if sum(at <= other <= at + window_s for other in times) >= wanted), None)


async def comeback() -> Bound:
    """From the first good answer after an outage of 40 s to 90 % of the former throughput."""
    async with room(api_latency_s=0.02, model_latency_s=0.3) as here:
        here.add(20_000)
        await here.daemon()
        await until(lambda: here.acknowledged() >= 500)
        usual = await here.usual()
        for endpoint in ("patch", "pending", "model"):
            here.sandbox.faults.add(endpoint, status=503)
        await asyncio.sleep(40)
        here.sandbox.faults.clear()
        count = here.acknowledged()
        await until(lambda: here.acknowledged() > count)
        first, seen = time.monotonic(), [(time.monotonic(), here.acknowledged())]
        while time.monotonic() - first < 60:
            await asyncio.sleep(0.25)
            seen.append((time.monotonic(), here.acknowledged()))
            recent = [at for at in seen if at[0] >= seen[-1][0] - 2.0]
            rate = (recent[-1][1] - recent[0][1]) / max(recent[-1][0] - recent[0][0], 0.5)
            if rate >= 0.9 * usual and len(seen) > 8:
                break
        took_s = max(0.0, seen[-1][0] - first - 2.0)
    what = "first good answer after an outage to 90 % of the former throughput"
    return Bound(what, f"{took_s:.1f} s (of {usual:.0f} tasks/s)", "10 s", took_s <= 10)


async def drain() -> Bound:
    """SIGTERM in the middle of the work, and a second signal in another run."""
    took = []
    for signals in (1, 2):
        async with room(model_latency_s=3.0 if signals == 1 else 60.0) as here:
            # A model that was never served takes a quarter of the slots only.
            here.sandbox.model_latency_s, latency_s = 0.0, here.sandbox.model_latency_s
            first = here.add(8)
            worker = await here.daemon(OPENAI_TIMEOUT=120)
            await here.sandbox.tasks.settled(first, timeout=30)
            here.sandbox.model_latency_s = latency_s
            ids = here.add(32)
            calls = here.sandbox.stats.model_requests
            await until(lambda: here.sandbox.stats.model_requests > calls)  # noqa: B023 - awaited here
            began = time.monotonic()
            worker.send(signal.SIGTERM)
            if signals == 2:
                await asyncio.sleep(0.5)
                began = time.monotonic()
                worker.send(signal.SIGTERM)
            await worker.exit_code(60)
            took.append(time.monotonic() - began)
            if signals == 1:
                done = here.acknowledged() - len(first)
                held = done == len(ids)
    measured = f"{took[0]:.1f} s with {done} of {len(ids)} delivered; {took[1]:.2f} s"
    holds = held and took[0] <= 25 and took[1] <= 1
    return Bound("SIGTERM during a model call of 3 s; a second signal", measured, "25 s, all; 1 s", holds)


async def million() -> Bound:
    """1,000,000 pending tasks of 220 characters, ``limit`` ignored."""
    async with room() as here:
        warm = here.add(64)
        worker = await here.daemon(POLLING_INTERVAL_SECONDS=0.5)
        await here.sandbox.tasks.settled(warm, timeout=30)
        idle_mb = memory_mb(worker.pid, "VmRSS")
        here.sandbox.api.limit = "ignored"
        text = "x" * 200
        ids = [here.sandbox.tasks.add(text=f"{text} {number}") for number in range(1_000_000)]
        lag = LoopLag(worker.port)
        # Several lists, and enough samples that the 99th percentile is not the largest.
        await here.sandbox.tasks.settled(ids[:15_000], timeout=300)
        lag_ms, grown = lag.p99_ms(), memory_mb(worker.pid, "VmHWM") - idle_mb
    measured = f"+{grown:.0f} MB, {lag_ms:.0f} ms"
    what = "1,000,000 pending tasks: peak RSS over the idle process; event-loop lag p99"
    return Bound(what, measured, "+64 MB, 50 ms", grown <= 64 and lag_ms <= 50)


async def backlog() -> Bound:
    """100,000 results with 1,536 floats wait while the task API is away."""
    async with room() as here:
        kept_in = partial(SqliteOutbox, source="aletheia", max_bytes=1 << 40, clock=SystemClock())
        async with kept_in(here.directory / "empty"):
            pass
        here.sandbox.faults.add("patch", status=503)
        idle = await here.daemon(DATA_DIR=here.directory / "empty", OUTBOX_MAX_BYTES=1 << 40)
        await asyncio.sleep(5)
        idle_mb = memory_mb(idle.pid, "VmRSS")
        await idle.kill()
        async with kept_in(here.directory / "data") as outbox:
            for number in range(100_000):
                kept = outbox.put(record(number))
                if number % 1000 == 0:
                    await kept
        worker = await here.daemon(OUTBOX_MAX_BYTES=1 << 40)
        await asyncio.sleep(30)
        assert (await worker.status())["outbox"]["waiting"] == 100_000
        grown = memory_mb(worker.pid, "VmHWM") - idle_mb
    what = "100,000 results waiting through an outage: peak RSS over the idle process"
    return Bound(what, f"+{grown:.0f} MB", "+50 MB", grown <= 50)


FIGURES: dict[str, Callable[[], Awaitable[Bound]]] = {
    make.__name__: make
    for make in (
        *(quiet, outage, model_outage, amplification, storm, restart),
        *(crash, kills, comeback, drain, million, backlog),
    )
}


async def measure(names: list[str]) -> int:
    """Print the table; 0 when every bound holds."""
    print("| what | measured | bound | |\n|---|---|---|---|", flush=True)
    held = True
    for name, make in FIGURES.items():
        if not names or name in names:
            figure = await make()
            held &= figure.holds
            print(f"| {figure.what} | {figure.measured} | {figure.bound} | {figure.verdict} |", flush=True)
    return 0 if held else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(FIGURES)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - FIGURES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return asyncio.run(measure(arguments.names))


if __name__ == "__main__":
    sys.exit(main())
