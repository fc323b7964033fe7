"""The real command against the sandbox, over real sockets."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ai_task_processor.sandbox.app import Sandbox

ROOT = Path(__file__).parents[2]


class DaemonProcess:
    """One run of the daemon: started, asked, stopped by its own pid."""

    def __init__(self, directory: Path, settings: Mapping[str, str], *arguments: str) -> None:
        self.directory = directory
        self.log = directory / "daemon.log"
        self._arguments = arguments
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    async def start(self) -> "DaemonProcess":
        """Start it and return when it listens."""
        await self.spawn()
        async with asyncio.timeout(20):
            while not (started := self.events("daemon.started")):
                assert self._alive, self.log.read_text()
                await asyncio.sleep(0.02)
        self.port = started[-1]["port"]
        return self

    async def spawn(self) -> None:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment |= {"PYTHONPATH": str(ROOT), "LOG_FORMAT": "json", "METRICS_PORT": "0", **self._settings}
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ai_task_processor",
                *(self._arguments or ("run",)),
                cwd=self.directory,
                env=environment,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def get(self, path: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    async def status(self) -> dict[str, Any]:
        document: dict[str, Any] = (await self.get("/status")).json()
        return document

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def exit_code(self, timeout: float = 30) -> int:
        assert self._process is not None
        async with asyncio.timeout(timeout):
            return await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.send(signal.SIGTERM)
        return await self.exit_code()

    async def kill(self) -> None:
        """SIGKILL: nothing inside gets to run any more."""
        if self._alive:
            self.send(signal.SIGKILL)
            await self.exit_code()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every complete log line with this event."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in found if event["event"] == name]

    def memory_kb(self, field: str) -> int:
        """``VmRSS`` (now) or ``VmHWM`` (peak) out of /proc."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


StartDaemon = Callable[..., Awaitable[DaemonProcess]]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as running:
        yield running


@pytest.fixture
async def daemon(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[StartDaemon]:
    """Starts daemons against the sandbox; settings are given as keywords. What still runs at the end is killed."""
    started: list[DaemonProcess] = []

    async def start(*arguments: str, wait: bool = True, **settings: object) -> DaemonProcess:
        directory = tmp_path / f"daemon{len(started)}"
        directory.mkdir()
        given = {"DATA_DIR": str(tmp_path / "data"), **sandbox.environment()}
        given |= {name: str(value) for name, value in settings.items()}
        process = DaemonProcess(directory, given, *arguments)
        started.append(process)
        await (process.start() if wait else process.spawn())
        return process

    yield start
    for process in started:
        await process.kill()


async def _eventually(holds: Callable[[], Any], timeout: float = 10.0) -> Any:
    async with asyncio.timeout(timeout):
        while True:
            result = holds()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.02)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """Waits until something holds (a function, or one that answers an awaitable); ``TimeoutError`` otherwise."""
    return _eventually
