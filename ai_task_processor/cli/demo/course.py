"""Runs the demo: fills the sandbox, starts the daemon, waits, checks the results, prints them."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from ai_task_processor.cli.demo import daemon
from ai_task_processor.cli.demo.figures import broken, expectation, figures, table
from ai_task_processor.cli.demo.screen import Show, complain, print_table, progress
from ai_task_processor.cli.demo.words import EX_INTERRUPTED, EX_OK, DemoFailed, Figures, Rows
from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.process import early_signals
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.corpus import demo_tasks

API_LATENCY_S, MODEL_LATENCY_S = 0.02, 0.15
TICK_S, STALL_S = 0.1, 20.0
LOG_LINES = 15


def main() -> int:
    """Run the demo; returns the exit code."""
    return run(Sandbox(api_latency_s=API_LATENCY_S, model_latency_s=MODEL_LATENCY_S))


def run(sandbox: Sandbox, *, stall_s: float = STALL_S) -> int:
    """Run the demo with a sandbox that is not started; returns the exit code. A failed demo keeps its files."""
    console = Console(force_terminal=sys.stdout.isatty(), highlight=False, markup=False)
    try:
        folder = Path(tempfile.mkdtemp(prefix="ai-task-processor-demo-"))
    except OSError as error:
        return complain(f"no temporary directory can be made: {error.strerror}")
    failed = False
    try:
        rows = asyncio.run(_demonstrate(sandbox, folder, console, stall_s))
    except DemoFailed as failure:
        failed = True
        log = ("the end of the daemon's log:", *daemon.log_lines(folder)[-LOG_LINES:]) if failure.log else ()
        return complain(*failure.problems, *log, f"the files are kept in {folder}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        return complain("stopped; the daemon has ended, its files are removed", code=EX_INTERRUPTED)
    finally:
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)
    print_table(rows, console)
    return EX_OK


async def _demonstrate(sandbox: Sandbox, folder: Path, console: Console, stall_s: float) -> Rows:
    """The rows of the table. Raises ``DemoFailed``."""
    _end_on_signals()
    async with sandbox:
        plan = [expectation(sandbox, sandbox.tasks.add(**task), task) for task in demo_tasks()]
        wanted = [task.id for task in plan if task.state is not TaskStatus.PENDING]
        print(f"{len(plan)} tasks wait in a sandbox at {sandbox.url}; starting the daemon.", flush=True)
        measure = partial(figures, sandbox.tasks, SystemClock().now())
        async with daemon.running(
            folder, daemon.daemon_environment(sandbox.environment(), folder, os.environ)
        ) as process:
            with progress(console, len(wanted)) as show:
                await _watch(sandbox, wanted, process, measure, show, stall_s)
            scrape = await daemon.scrape(daemon.ops_url(folder))
        if process.returncode != EX_OK:
            raise DemoFailed(f"the daemon ended with exit code {process.returncode} after SIGTERM, not 0", log=True)
        if problems := broken(plan, sandbox, scrape):
            raise DemoFailed(*problems)
        return table(measure(), plan, sandbox, scrape)


def _end_on_signals() -> None:
    """SIGTERM and a closed terminal end the demo like Ctrl-C, so that the daemon is stopped."""
    demo = asyncio.current_task()
    assert demo is not None  # noqa: S101 - called from a coroutine
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, demo.cancel)
    if early_signals():
        demo.cancel()


async def _watch(
    sandbox: Sandbox,
    wanted: Sequence[str],
    process: Process,
    measure: Callable[[], Figures],
    show: Show,
    stall_s: float,
) -> None:
    """Return when every wanted task is settled. Raises ``DemoFailed`` when the daemon ends or makes no progress."""
    settled, moved_at = 0, time.monotonic()
    done = False
    while not done:
        with suppress(TimeoutError):
            await sandbox.tasks.settled(wanted, TICK_S)
            done = True
        now = measure()
        show(now)
        if now.settled > settled:
            settled, moved_at = now.settled, time.monotonic()
        if process.returncode is not None:
            raise DemoFailed(f"the daemon ended by itself with exit code {process.returncode}", log=True)
        if time.monotonic() - moved_at > stall_s:
            raise DemoFailed(
                f"nothing has moved for {stall_s:g} s; {settled} of {len(wanted)} tasks are settled", log=True
            )
