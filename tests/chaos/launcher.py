"""Starts daemons: each is forked off a server that has imported the product, and lives in a process of its own.

A start takes milliseconds that way instead of seconds, so that a run has time for its kills. Nothing but imports is
shared, and importing the product does nothing.
"""

import asyncio
import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
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


def prepare() -> None:
    """Start the server, and wait until it has imported everything. Threads of a library would not survive a fork."""
    os.environ.update(OPENBLAS_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parents[2]))
    _CONTEXT.set_forkserver_preload(["__main__", "tests.chaos.daemon"])
    first = _CONTEXT.Process(target=int)
    first.start()
    first.join()


def _live(order: Order) -> None:
    from tests.chaos import daemon

    daemon.run(order)


class Process:
    """One incarnation, from now on."""

    def __init__(self, order: Order) -> None:
        self._process = _CONTEXT.Process(target=_live, args=(order,), daemon=True)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """None while it runs, negative when a signal ended it."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None and self._process.pid:
            os.kill(self._process.pid, number)

    async def wait(self) -> int:
        while (code := self.returncode) is None:  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(0.01)
        return code
