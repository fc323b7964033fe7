"""Runs the demo: fills the sandbox, starts the daemon, waits, checks the results, prints them."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from ai_task_processor.cli.demo import daemon
from ai_task_processor.cli.demo.chain import REQUESTS, chain_figures, told
from ai_task_processor.cli.demo.figures import broken, expectation, figures, table
from ai_task_processor.cli.demo.screen import Show, complain, print_kept, print_next, print_result, progress
from ai_task_processor.cli.demo.words import EX_INTERRUPTED, EX_OK, ChainFigures, DemoFailed, Figures
from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.process import early_signals
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.corpus import demo_tasks

API_LATENCY_S, MODEL_LATENCY_S = 0.02, 0.15
TICK_S, STALL_S = 0.1, 20.0
LOG_LINES = 15


def main(*, keep: bool = False) -> int:
    """Run the demo; returns the exit code."""
    return run(Sandbox(api_latency_s=API_LATENCY_S, model_latency_s=MODEL_LATENCY_S), keep=keep)


def run(sandbox: Sandbox, *, stall_s: float = STALL_S, keep: bool = False) -> int:
    """Run the demo with a sandbox that is not started; returns the exit code. A failed demo keeps its files.

    ``keep``: daemon and sandbox go on after it, until a signal.
    """
    console = Console(force_terminal=sys.stdout.isatty(), highlight=False, markup=False)
    try:
        folder = Path(tempfile.mkdtemp(prefix="ai-task-processor-demo-"))
    except OSError as error:
        return complain(f"no temporary directory can be made: {error.strerror}")
    failed = False
    try:
        asyncio.run(_demonstrate(sandbox, folder, console, stall_s, keep))
    except DemoFailed as failure:
        failed = True
        log = ("the end of the daemon's log:", *daemon.log_lines(folder)[-LOG_LINES:]) if failure.log else ()
        return complain(*failure.problems, *log, f"the files are kept in {folder}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        return complain("stopped; the daemon has ended, its files are removed", code=EX_INTERRUPTED)
    finally:
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)
    return EX_OK


async def _demonstrate(sandbox: Sandbox, folder: Path, console: Console, stall_s: float, keep: bool) -> None:
    """Run it and print the result. Raises ``DemoFailed``."""
    _end_on_signals()
    async with sandbox:
        plan = [expectation(sandbox, sandbox.tasks.add(**task), task) for task in demo_tasks()]
        texts = [sandbox.tasks[task.id] for task in plan]
        wanted = sum(task.state is not TaskStatus.PENDING for task in plan)
        sandbox.verifications.add_claims(REQUESTS)
        waiting = f"{len(plan)} tasks and {REQUESTS} verification requests wait in a sandbox at {sandbox.url}"
        print(f"{waiting}; starting the daemon.", flush=True)
        started_at = SystemClock().now()

        def measure() -> tuple[Figures, ChainFigures]:
            return figures(texts, started_at), chain_figures(sandbox)

        async with daemon.running(
            folder, daemon.daemon_environment(sandbox.environment(), folder, os.environ)
        ) as process:
            with progress(console, wanted) as show:
                await _watch(wanted, process, measure, show, stall_s)
            scrape = await daemon.scrape(daemon.ops_url(folder))

            def show_result() -> None:
                if problems := broken(plan, sandbox, scrape):
                    raise DemoFailed(*problems)
                print_result(table(figures(texts, started_at), plan, sandbox, scrape), told(sandbox), console)

            if keep:
                show_result()
                print_kept(scrape.url, sandbox.url, folder / daemon.LOG)
                await _until_interrupted(process)
        if process.returncode != EX_OK:
            raise DemoFailed(f"the daemon ended with exit code {process.returncode} after SIGTERM, not 0", log=True)
        if not keep:
            show_result()
            print_next()


async def _until_interrupted(process: Process) -> None:
    """Return at a signal. Raises ``DemoFailed`` when the daemon ends before."""
    demo = asyncio.current_task()
    try:
        await process.wait()
    except asyncio.CancelledError:
        if demo is not None:
            demo.uncancel()
    else:
        raise DemoFailed(f"the daemon ended by itself with exit code {process.returncode}", log=True)


def _end_on_signals() -> None:
    """SIGTERM and a closed terminal end the demo like Ctrl-C, so that the daemon is stopped."""
    demo = asyncio.current_task()
    assert demo is not None  # noqa: S101 - called from a coroutine
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks for
            asyncio.get_running_loop().add_signal_handler(number, demo.cancel)
    if early_signals():
        demo.cancel()


async def _watch(
    wanted: int,
    process: Process,
    measure: Callable[[], tuple[Figures, ChainFigures]],
    show: Show,
    stall_s: float,
) -> None:
    """Return when every task is settled. Raises ``DemoFailed`` when the daemon ends or makes no progress."""
    settled, moved_at = 0, time.monotonic()
    done = False
    while not done:
        await asyncio.sleep(TICK_S)
        texts, chain = measure()
        show(texts, chain)
        done = texts.settled >= wanted and chain.ended
        if texts.settled + chain.settled > settled:
            settled, moved_at = texts.settled + chain.settled, time.monotonic()
        if process.returncode is not None:
            raise DemoFailed(f"the daemon ended by itself with exit code {process.returncode}", log=True)
        if time.monotonic() - moved_at > stall_s:
            raise DemoFailed(
                f"nothing has moved for {stall_s:g} s; {texts.settled} of {wanted} texts are settled, "
                f"{chain.triaged} of {chain.requests} requests are in triage",
                log=True,
            )
