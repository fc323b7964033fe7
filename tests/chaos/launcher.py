"""The supervisor's end of the launcher: orders go in, processes come out."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

PROGRAM = Path(__file__).parent / "daemon.py"
READY_S = 60.0
#: where an incarnation can be told to kill itself
POINTS = (
    "claimed", "started", "model-asked", "model-answered", "accepted", "committed", "report", "acknowledged", "erased",
    "draining",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One incarnation. ``kill_at``: its kill point, ``NAME:N``; ``open_s``: the pauses of an open circuit."""

    incarnation: str
    directory: str
    log: str
    control: str
    environment: dict[str, str]
    kill_at: str = ""
    bug: str = ""
    open_s: tuple[float, float] | None = None

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(slots=True)
class Process:
    """One incarnation. ``returncode`` is None while it runs, negative when a signal ended it."""

    pid: int
    returncode: int | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()


class Launcher:
    """Starts daemons for everybody, one after the other."""

    def __init__(self) -> None:
        self._children: dict[int, Process] = {}
        self._starting = asyncio.Lock()
        self._started: asyncio.Queue[int] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        # Threads do not survive a fork, and an interrupt from the terminal is for the supervisor alone.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._program = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), stdin=pipe, stdout=pipe, env=environment, start_new_session=True
        )
        self._listening = asyncio.create_task(self._listen(), name="launcher")
        async with asyncio.timeout(READY_S):
            await self._started.get()
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._children.values():
            process.send_signal(signal.SIGKILL)
        assert self._program.stdin is not None
        self._program.stdin.close()
        await self._program.wait()
        await self._listening

    async def start(self, order: Order) -> Process:
        """A new process. Raises ``RuntimeError`` when the launcher has gone."""
        async with self._starting:
            if self._program.stdin is None or self._program.returncode is not None:
                raise RuntimeError("the launcher has ended")
            self._program.stdin.write(order.line())
            return self._children[await self._started.get()]

    async def _listen(self) -> None:
        assert self._program.stdout is not None
        async for line in self._program.stdout:
            told = json.loads(line)
            if "ended" in told:
                self._children.pop(told["ended"]).end(told["code"])
                continue
            if pid := told.get("started", 0):
                self._children[pid] = Process(pid)
            self._started.put_nowait(pid)
        for process in self._children.values():
            process.end(-signal.SIGKILL)
