"""The demo's daemon: starts and stops it as an operator would, and reads its metrics and status."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx2

from ai_task_processor.cli.demo.words import DemoFailed, Scrape
from ai_task_processor.models.task import TaskStatus

#: four times the daemon's default: with that the demo would take 20 seconds
SLOTS = 20
STOP_S, SCRAPE_S = 5.0, 10.0

LOG: Final = "daemon.log"
#: the only inherited variables; none of them changes what the daemon does
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_PROCESSED: Final = "ai_task_processor_tasks_processed_total{"


def daemon_environment(remotes: Mapping[str, str], folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The daemon's environment: URLs of the remotes, directories, and few variables of our own environment."""
    return {
        **{name: environ[name] for name in _INHERITED if name in environ},
        **remotes,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "DATA_DIR": str(folder / "data"),
        "METRICS_PORT": "0",
        "POLLING_INTERVAL_SECONDS": "1",
        "CONCURRENCY_LIMIT": str(SLOTS),
        "LOG_FORMAT": "json",
    }


@asynccontextmanager
async def running(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    """Run the daemon during the block. It has its own session, so that Ctrl-C in the terminal does not reach it."""
    command = (sys.executable, "-m", "ai_task_processor", "run")
    with (folder / LOG).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=environment, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    """Send SIGTERM, and SIGKILL when it takes too long or this task is cancelled meanwhile."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        pass  # the caller checks the exit code
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def ops_url(folder: Path) -> str:
    """The URL of the ops server; the port, chosen by the system, is read from the daemon's log."""
    events = (json.loads(line) for line in log_lines(folder) if '"daemon.started"' in line)
    return f"http://127.0.0.1:{next(events)['port']}"


def log_lines(folder: Path) -> list[str]:
    return (folder / LOG).read_text(errors="replace").splitlines()


async def scrape(url: str) -> Scrape:
    """Read ``/metrics`` and ``/status``. Raises ``DemoFailed`` when the daemon does not answer."""
    try:
        async with asyncio.timeout(SCRAPE_S), httpx2.AsyncClient(base_url=url, trust_env=False) as client:
            metrics, status = [(await client.get(path)).raise_for_status() for path in ("/metrics", "/status")]
    except (httpx2.HTTPError, TimeoutError) as error:
        raise DemoFailed(f"{url} does not answer: {type(error).__name__}", log=True) from error
    return scraped(url, metrics.text, status.json())


def scraped(url: str, metrics: str, status: Mapping[str, Any]) -> Scrape:
    """The fields used of ``/metrics`` (Prometheus text) and of ``/status``."""
    samples = [line for line in metrics.splitlines() if not line.startswith("#")]

    def processed(word: str) -> int:
        counted = [line for line in samples if line.startswith(_PROCESSED) and f'status="{word}"' in line]
        return int(sum(float(line.rpartition(" ")[2]) for line in counted))

    return Scrape(
        url=url,
        series=len(samples),
        processed={word: processed(word) for word in (TaskStatus.SUCCEEDED, TaskStatus.FAILED)},
        skipped=status["backlog"]["skipped"],
        slots=status["slots"]["total"],
    )
