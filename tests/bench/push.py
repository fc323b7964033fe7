"""The profile agents-playground: from the creation of a task to its start, with its WebSocket and without it."""

import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from ai_task_processor.core.profiles import FOLDER
from ai_task_processor.sandbox.app import Sandbox, Work
from ai_task_processor.sandbox.faults import Endpoint
from tests.bench.alone import percentile
from tests.bench.contest import Plan, tell
from tests.bench.machine import WORKER_CORE, memory_mb
from tests.bench.report import Section, at_most
from tests.e2e.conftest import DaemonProcess

PROFILE = "agents-playground"
#: tasks that are created one at a time while the daemon is idle; the longest pause before each, seconds
PUSHED, LISTED, LISTED_INTERVAL_S, PAUSE_S = 1_000, 20, 2, 0.05
#: messages with the results of others, and their size
LARGE, LARGE_BYTES = 10, 2**26


class Timed(Sandbox):
    """Notes when the model is asked about a task, whose text is its number."""

    def __init__(self) -> None:
        super().__init__(profile=PROFILE)
        self.asked: dict[str, float] = {}

    async def _play(
        self, endpoint: Endpoint, request: web.BaseRequest, body: bytes, work: Work, task_id: str | None = None
    ) -> web.StreamResponse:
        if endpoint == "model":
            self.asked.setdefault(json.loads(body)["messages"][-1]["content"], time.perf_counter())
        return await super()._play(endpoint, request, body, work, task_id)

    async def started_s(self, number: int) -> float:
        """Create a task; from then to the call of the model. Returns when it is done."""
        created_at = time.perf_counter()
        task_id = self.playground.add(str(number))
        await self.playground.broadcast()
        await self.playground.settled([task_id], timeout=60)
        return self.asked[str(number)] - created_at


@asynccontextmanager
async def idle_daemon(**settings: object) -> AsyncIterator[tuple[Timed, DaemonProcess]]:
    """A daemon that has done a task, and has no other."""
    with tempfile.TemporaryDirectory() as name:
        sandbox, directory = Timed(), Path(name)
        async with sandbox:
            given = {**sandbox.environment(), "DATA_DIR": str(directory / "data")}
            worker = DaemonProcess(directory, given | {key: str(value) for key, value in settings.items()})
            try:
                await worker.start()
                os.sched_setaffinity(worker.pid, WORKER_CORE)
                await sandbox.started_s(-1)
                yield sandbox, worker
            finally:
                await worker.kill()


async def created(sandbox: Timed, tasks: int, pause_s: float) -> list[float]:
    """The seconds to the start of each."""
    rng, found = random.Random(7), []
    for number in range(tasks):
        await asyncio.sleep(rng.uniform(0.0, pause_s))
        found.append(await sandbox.started_s(number))
    return found


async def pushed(tasks: int) -> list[float]:
    async with idle_daemon() as (sandbox, worker):
        await worker.status_when(lambda status: status["push"]["connected"])
        return await created(sandbox, tasks, PAUSE_S)


async def listed(tasks: int, directory: Path) -> list[float]:
    """The same profile without its WebSocket. Created at any moment of a pause of full length."""
    file = directory / "listed.toml"
    file.write_text((FOLDER / f"{PROFILE}.toml").read_text().partition("[push]")[0])
    async with idle_daemon(TASK_SOURCE=file, POLLING_INTERVAL_SECONDS=LISTED_INTERVAL_S) as (sandbox, _):
        found, rng = [], random.Random(7)
        for number in range(tasks):
            await asyncio.sleep(2 * LISTED_INTERVAL_S + rng.uniform(0.0, LISTED_INTERVAL_S))
            found.append(await sandbox.started_s(number))
        return found


async def grown_mb() -> float:
    """The peak memory while large messages come, over that before."""
    async with idle_daemon() as (sandbox, worker):
        await created(sandbox, 20, PAUSE_S)
        before = memory_mb(worker.pid, "VmHWM")
        other = sandbox.playground.add("", type="other")
        sandbox.playground.set(other, output={"large": "x" * LARGE_BYTES})
        for _ in range(LARGE):
            await sandbox.playground.broadcast()
            sandbox.playground.set(other, status="done")
        await sandbox.started_s(1_000)
        return memory_mb(worker.pid, "VmHWM") - before


def push(plan: Plan) -> list[Section]:
    """One task at a time, created while the daemon is idle: from its creation to the call of the model."""
    section = Section("push", "agents-playground, one task at a time while idle: creation to the call of the model, ms")
    tell(f"push: {plan.tasks(PUSHED)} tasks with the WebSocket")
    woken = asyncio.run(pushed(plan.tasks(PUSHED)))
    with tempfile.TemporaryDirectory() as name:
        tell(f"push: {plan.tasks(LISTED)} tasks without it, POLLING_INTERVAL_SECONDS={LISTED_INTERVAL_S}")
        unwoken = asyncio.run(listed(plan.tasks(LISTED), Path(name)))
    tell(f"push: {LARGE} messages of {LARGE_BYTES >> 20} MiB")
    grown = asyncio.run(grown_mb())
    section.rows = [("daemon", "tasks", "p50", "p99", "longest")]
    for what, found in (
        ("WebSocket, POLLING_INTERVAL_SECONDS=30", woken),
        (f"no WebSocket, POLLING_INTERVAL_SECONDS={LISTED_INTERVAL_S}", unwoken),
    ):
        figures = (percentile(found, 0.5), percentile(found, 0.99), max(found))
        section.rows.append((what, str(len(found)), *(f"{figure * 1000:,.1f}" for figure in figures)))
    section.figures = {"pushed_s": woken, "listed_s": unwoken, "grown_mb": grown}
    section.bounds = [
        at_most("p99 with the WebSocket, ms", percentile(woken, 0.99) * 1000, 50, "{:,.1f}"),
        at_most(f"peak memory over that before, messages of {LARGE_BYTES >> 20} MiB, MB", grown, 16, "{:,.0f}"),
    ]
    return [section]
