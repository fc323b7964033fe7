"""What the machine does to the daemon: no descriptors, no disk, a clock that jumps, a processor that misbehaves.

What the remotes do to it is in test_bad_input.py.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import MOCK, MODEL, Another, Start, eventually, side_by_side

#: runs before everything else in the daemon's process
FIRST = "sitecustomize.py"


async def test_forty_descriptors_slow_it_down_and_lose_nothing(sandbox: Sandbox, daemon: Start, tmp_path: Path) -> None:
    """More connections than descriptors: it says what is missing, and does everything with those that there are."""
    (tmp_path / FIRST).write_text("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n")
    sandbox.model_latency_s, sandbox.api_latency_s = 0.5, 0.05
    models = [MODEL, "text-embedding-3-large", "text-embedding-ada-002"]
    ids = [sandbox.tasks.add(text=f"text {number}", model=models[number % 3]) for number in range(200)]
    worker = await daemon(PYTHONPATH=tmp_path, CONCURRENCY_LIMIT=64, POLLING_INTERVAL_SECONDS=0.3)
    await eventually(lambda: "may have 40 files open (ulimit -n)" in worker.log.read_text(), timeout=30)
    await sandbox.tasks.settled(ids, timeout=90)
    assert {(sandbox.tasks[task_id].state, sandbox.tasks[task_id].callbacks) for task_id in ids} == {("succeeded", 1)}
    assert not worker.events("task.failed")
    assert await worker.stop() == 0


# --- the clock

#: the wall clock of the daemon's process is off by what stands in a file; its monotonic clock is true
JUMPING = """
import pathlib, time
from datetime import timedelta
from ai_task_processor.core.clock import SystemClock

def offset_s():
    return float(pathlib.Path(__file__).with_name("offset").read_text())

true_time, true_now = time.time, SystemClock.now
time.time = lambda: true_time() + offset_s()
SystemClock.now = lambda self: true_now(self) + timedelta(seconds=offset_s())
"""


async def test_a_clock_jump_strands_neither_results_nor_tokens(
    daemon: Start, another_sandbox: Another, tmp_path: Path
) -> None:
    """A day forward or back while a result is deferred: it leaves as soon as it is taken, under the same token."""

    async def jump(name: str, seconds: float) -> None:
        sandbox, site = await another_sandbox(), tmp_path / name
        site.mkdir()
        (site / FIRST).write_text(JUMPING)
        (site / "offset").write_text("0")
        refused = sandbox.faults.add("patch", status=500)
        before = sandbox.tasks.add(text="before the jump")
        patient = {"POLLING_INTERVAL_SECONDS": 0.3, "CIRCUIT_BREAKER_THRESHOLD": 1000}
        worker = await daemon(to=sandbox, PYTHONPATH=site, **patient, **MOCK)
        await eventually(lambda: refused.hits >= 3, timeout=30)
        (site / "offset").write_text(str(seconds))
        sandbox.faults.clear()
        after = sandbox.tasks.add(text="after the jump")
        await sandbox.tasks.settled([before, after], timeout=10)
        assert sandbox.stats.token_requests == 1
        assert (await worker.get("/ready")).status_code == 200
        assert (await worker.status())["token"]["expires_in_seconds"] > 3000
        assert not worker.events("delivery.refused")
        assert await worker.stop() == 0
        days = [
            event["timestamp"][:10] for name in ("daemon.started", "drain.started") for event in worker.events(name)
        ]
        assert len(set(days)) == 2

    await side_by_side(jump("forward", 86_400.0), jump("back", -86_400.0))


# --- processors

STUBBORN = """
import asyncio, time
from ai_task_processor.processors.base import BaseProcessor, TaskResult

class Stubborn(BaseProcessor):
    task_types = frozenset({"stubborn"})

    def can_process(self, task):
        return task.type == "stubborn"

    async def process(self, task):
        if task.content == "blocks":
            time.sleep(4)
        while task.content == "stays":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
        return TaskResult({"done": task.content})
"""


@pytest.fixture
def stubborn(install: Callable[..., Path]) -> Path:
    return install("acme_stubborn", STUBBORN, stubborn="acme_stubborn:Stubborn")


async def test_a_processor_that_blocks_the_loop_is_seen_from_outside(
    sandbox: Sandbox, daemon: Start, stubborn: Path
) -> None:
    """For as long as it blocks no probe is answered; afterwards the lag tells of it, and nothing is lost."""
    worker = await daemon(PYTHONPATH=stubborn, POLLING_INTERVAL_SECONDS=0.3, **MOCK)
    await eventually(lambda: sandbox.stats.polls >= 1)
    others = [sandbox.tasks.add(text=f"text {number}") for number in range(5)]
    blocker = sandbox.tasks.add(type="stubborn", content="blocks")
    unanswered = 0
    while sandbox.tasks[blocker].state == "pending":
        try:
            async with asyncio.timeout(1.0):
                assert (await worker.get("/health")).status_code == 200
        except TimeoutError:
            unanswered += 1
        await asyncio.sleep(0.05)
    assert unanswered >= 2
    await sandbox.tasks.settled([blocker, *others], timeout=15)
    assert (await worker.get("/health")).status_code == 200

    async def lagged() -> bool:
        within = await worker.metric('event_loop_lag_seconds_bucket{le="1.0"}')
        return bool(await worker.metric("event_loop_lag_seconds_count") > within)

    await eventually(lagged, timeout=3)
    assert {sandbox.tasks[task_id].callbacks for task_id in (blocker, *others)} == {1}


async def test_a_processor_that_swallows_its_cancellation_does_not_hold_the_exit(
    sandbox: Sandbox, daemon: Start, stubborn: Path
) -> None:
    """After the grace period the process ends, names the task, and what was finished has been delivered."""
    stays = sandbox.tasks.add(type="stubborn", content="stays")
    worker = await daemon(PYTHONPATH=stubborn, POLLING_INTERVAL_SECONDS=0.3, SHUTDOWN_GRACE_SECONDS=2, **MOCK)
    await worker.status_when(lambda status: status["slots"]["running"] == 1)
    done = sandbox.tasks.add(type="stubborn", content="is done")
    await sandbox.tasks.settled([done], timeout=10)
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    assert await worker.exit_code(timeout=10) == 70
    assert 2 <= time.monotonic() - began < 5
    (forced,) = worker.events("drain.forced")
    assert f"task {stays}" in forced["tasks"]
    assert sandbox.tasks[stays].state == "pending"
