"""The real command against the sandbox, over real sockets."""

import asyncio
import json
import os
import signal
import socket
import sys
import zipfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import httpx2
import pytest
from aiohttp import web

from ai_task_processor.providers.settings import PLACEHOLDER_KEY
from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.forked import ForkedProcess, prepare

ROOT = Path(__file__).parents[2]
MODEL = "text-embedding-3-small"
#: mock vectors, where the model is beside the point: without its client a daemon starts in half the time
MOCK = {"OPENAI_API_KEY": PLACEHOLDER_KEY}
_SURPRISES = ('.crashed"', '"exception.caught"', '"log.failed"', "Traceback", "never awaited")
COMMAND = (sys.executable, "-m", "ai_task_processor")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


def process_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """What a process of ours gets to see: its settings and nothing of the tests' own environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    kept["OPENBLAS_NUM_THREADS"] = "1"  # as long as a library starts its threads, they spin
    path = os.pathsep.join(filter(None, (str(ROOT), settings.get("PYTHONPATH"))))
    return {**kept, "LOG_FORMAT": "json", "METRICS_PORT": "0", **settings, "PYTHONPATH": path}


@asynccontextmanager
async def spawned(*command: str, **options: Any) -> AsyncIterator[Process]:
    """A process that does not outlive this."""
    process = await asyncio.create_subprocess_exec(*command, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def begin(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], out: Path, err: Path
) -> Process:
    """Our command in a new Python; what it prints is appended to these files."""
    with out.open("ab") as said, err.open("ab") as told:
        return await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, cwd=directory, env=environment, stdin=DEVNULL, stdout=said, stderr=told
        )


def is_customized(environment: Mapping[str, str]) -> bool:
    return any(Path(folder, "sitecustomize.py").exists() for folder in environment["PYTHONPATH"].split(os.pathsep))


async def begin_forked(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], out: Path, err: Path
) -> Process | ForkedProcess:
    """The same without the start of a Python, unless something is to run before the first import."""
    if is_customized(environment):
        return await begin(arguments, directory, environment, out, err)
    return ForkedProcess(arguments, directory, environment, out, err)


async def run_command(directory: Path, settings: Mapping[str, str], *arguments: str, timeout: float = 30) -> Finished:
    """Run one command to its end."""
    with NamedTemporaryFile() as said, NamedTemporaryFile() as told:
        files = Path(said.name), Path(told.name)
        process = await begin_forked(arguments, directory, process_environment(settings), *files)
        try:
            async with asyncio.timeout(timeout):
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Finished(code, said.read().decode(), told.read().decode())


#: calls of POST /wake
WAKE_UPS = 'wakeups_total{origin="http"}'


class DaemonProcess:
    """One run of the daemon: started, asked, stopped by its own pid."""

    _begin: Callable[..., Awaitable[Process | ForkedProcess]] = staticmethod(begin)
    _process: Process | ForkedProcess | None = None

    def __init__(self, directory: Path, settings: Mapping[str, str], *arguments: str) -> None:
        self.directory = directory
        self.log = directory / "daemon.log"
        self._arguments = arguments
        self._settings = settings
        self.port = 0

    async def start(self) -> "DaemonProcess":
        """Start it and return when it listens."""
        await self.spawn()
        async with asyncio.timeout(60):
            while not (started := self.events("daemon.started")):
                assert self._alive, self.log.read_text()
                await asyncio.sleep(0.02)
        self.port = started[-1]["port"]
        return self

    async def spawn(self) -> None:
        self.log.write_bytes(b"")
        self._process = await self._begin(
            self._arguments or ("run",), self.directory, self.environment, self.log, self.log
        )

    @property
    def environment(self) -> dict[str, str]:
        """What this process gets to see."""
        return process_environment(self._settings)

    async def command(self, *arguments: str) -> Finished:
        """Another command with the same settings, whether this daemon runs or not."""
        return await run_command(self.directory, self._settings, *arguments)

    async def metric(self, sample: str) -> float:
        """The value of one sample, named with its labels and without the prefix; 0 when there is none."""
        lines = (await self.get("/metrics")).text.splitlines()
        values = [line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"ai_task_processor_{sample} ")]
        return float(values[0]) if values else 0.0

    async def metric_when(self, sample: str, holds: Callable[[float], bool], timeout: float = 10.0) -> None:
        """Wait until this holds of the value."""

        async def looked() -> bool:
            return holds(await self.metric(sample))

        await eventually(looked, timeout)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def ask(self, method: str, path: str, **headers: str) -> httpx2.Response:
        # To load the authorities for a plain http request costs more than the request.
        async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=5) as client:
            return await client.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers)

    async def get(self, path: str) -> httpx2.Response:
        return await self.ask("GET", path)

    async def wake(self, token: str) -> httpx2.Response:
        return await self.ask("POST", "/wake", authorization=f"Bearer {token}")

    async def status(self) -> dict[str, Any]:
        document: dict[str, Any] = (await self.get("/status")).json()
        return document

    async def status_when(self, holds: Callable[[dict[str, Any]], Any], timeout: float = 10.0) -> dict[str, Any]:
        """The first status of which this holds."""

        async def looked() -> dict[str, Any] | None:
            document = await self.status()
            return document if holds(document) else None

        found: dict[str, Any] = await eventually(looked, timeout)
        return found

    async def reasons(self) -> list[str]:
        """Why ``/ready`` says no; none when it says yes."""
        answer = await self.get("/ready")
        found: list[str] = answer.json()["reasons"]
        assert (answer.status_code == 503) == bool(found)
        return found

    async def ready(self) -> bool:
        return not await self.reasons()

    async def unready_for(self, words: str) -> bool:
        """Does ``/ready`` say no with these words?"""
        return words in " ".join(await self.reasons())

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

    def surprises(self) -> list[str]:
        """Lines about an exception that nobody expected."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if any(sign in line for sign in _SURPRISES)]

    def memory_kb(self, field: str) -> int:
        """``VmRSS`` (now) or ``VmHWM`` (peak) out of /proc."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


class ForkedDaemon(DaemonProcess):
    """A daemon without the start of a Python."""

    _begin = staticmethod(begin_forked)


Start = Callable[..., Awaitable[DaemonProcess]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="session", autouse=True)
def _ready_to_fork() -> None:
    """In the background of a shell SIGINT is ignored, and what we start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare()


class WatchedSandbox(Sandbox):
    """A sandbox that remembers every request: ``PATCH /api/ai-tasks/6a…``, the target as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.raw_path}")
        return await super()._answer(request)


Another = Callable[[], Awaitable[WatchedSandbox]]


@pytest.fixture
async def another_sandbox() -> AsyncIterator[Another]:
    """Starts further sandboxes, for daemons that run beside each other."""
    async with AsyncExitStack() as stack:

        async def start() -> WatchedSandbox:
            watched = WatchedSandbox()
            await stack.enter_async_context(watched)
            return watched

        yield start


@pytest.fixture
async def sandbox(another_sandbox: Another) -> WatchedSandbox:
    return await another_sandbox()


@pytest.fixture
async def daemon(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts daemons against the sandbox, or the one that ``to`` names; settings are given as keywords.

    The daemons of one sandbox share a data directory. ``wait=False``: it need not listen yet; ``spawn=False``: it is
    there for its commands only. What still runs at the end is killed. A test fails when a daemon of its met an
    exception that nobody expected.
    """
    started: list[DaemonProcess] = []

    async def start(
        *arguments: str, spawn: bool = True, wait: bool = True, to: Sandbox | None = None, **settings: object
    ) -> DaemonProcess:
        directory = tmp_path / f"daemon{len(started)}"
        directory.mkdir()
        data = "data" if to is None else f"data-{to.url.rpartition(':')[2]}"
        given = {"DATA_DIR": str(tmp_path / data), **(to or sandbox).environment()}
        given |= {name: str(value) for name, value in settings.items()}
        process = ForkedDaemon(directory, given, *arguments)
        started.append(process)
        if spawn:
            await (process.start() if wait else process.spawn())
        return process

    yield start
    for process in started:
        await process.kill()
    assert [line for process in started for line in process.surprises()] == []


@pytest.fixture
def free_port() -> int:
    """For those who must know where the daemon listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def eventually(holds: Callable[..., Any], timeout: float = 10.0) -> Any:
    """Wait until something holds (a function, or one that answers an awaitable); ``TimeoutError`` otherwise."""
    async with asyncio.timeout(timeout):
        while True:
            result = holds()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.02)


async def side_by_side(*runs: Coroutine[Any, Any, None]) -> None:
    """All at once; when one fails, the others are ended."""
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(run)


@asynccontextmanager
async def connected(port: int, host: str = "127.0.0.1") -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


_eventually = eventually  # by this name in tests/ops


def install_wheel(directory: Path, package: str, source: str, kind: str = "processors", **entry_points: str) -> Path:
    """Build a wheel of one module and unpack it, which is what an installer does; the directory to put on the path."""
    wheel = directory / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    lines = [f"{name} = {target}" for name, target in entry_points.items()]
    files = {
        f"{package}/__init__.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join([f"[ai_task_processor.{kind}]", *lines, ""]),
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    site = directory / f"site-{package}"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., Path]:
    """Installs a package: its name, its source, the kind of its plug-ins, and their entry points as keywords."""
    return partial(install_wheel, tmp_path)


@pytest.fixture
async def bare_daemon(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts daemons with the settings that are given, and no sandbox."""
    started: list[DaemonProcess] = []

    async def start(**settings: str) -> DaemonProcess:
        started.append(ForkedDaemon(tmp_path, settings))
        return await started[-1].start()

    yield start
    for process in started:
        await process.kill()
        assert process.surprises() == []


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Awaitable[Finished]]:
    """Runs one command to its end, with these settings and no others."""
    return partial(run_command, tmp_path)
