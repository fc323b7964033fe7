"""Starts the daemon, does things to it and to its surroundings, and waits until everything has settled."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos import checker
from tests.chaos.checker import Verdict
from tests.chaos.history import History, Kind
from tests.chaos.launcher import Order, Process
from tests.chaos.upstream import MODEL_KEY, Limit, Upstream
from tests.chaos.wire import DRIP_PAUSE_S

#: a daemon that says nothing for so long after its start is broken
START_S = 30.0
DRAIN_S = 12.0
STOP_S = 1.0

CONCURRENCY = 16

SETTINGS = {
    "OAUTH2_CLIENT_ID": "chaos",
    "OAUTH2_CLIENT_SECRET": "chaos-secret",
    "OPENAI_API_KEY": MODEL_KEY,
    "EMBEDDING_DIMENSIONS": "256",
    "POLLING_INTERVAL_SECONDS": "1",
    "CONCURRENCY_LIMIT": str(CONCURRENCY),
    "REQUEST_TIMEOUT": "2",
    "OPENAI_TIMEOUT": "2",
    "TASK_TIMEOUT": "60",
    "RETRY_BACKOFF_FACTOR": "1",
    "CIRCUIT_BREAKER_THRESHOLD": "50",
    "SHUTDOWN_GRACE_SECONDS": "3",
    "METRICS_PORT": "0",
    "LOG_LEVEL": "DEBUG",
    "LOG_FORMAT": "json",
}


class World:
    """One upstream, one data directory, and one daemon at a time. Everything it writes is below ``directory``.

    ``order``: what else the order of each incarnation says.
    """

    def __init__(
        self,
        directory: Path,
        rng: random.Random,
        *,
        settings: Mapping[str, str] | None = None,
        limit: Limit = "honoured",
        **order: Any,
    ) -> None:
        self.history = History()
        self.upstream = Upstream(self.history, rng, limit=limit)
        self.log = directory / "daemon.log"
        self.incarnation = ""
        self.crashes: list[str] = []
        self._directory, self._order = directory, order
        self._settings = {**SETTINGS, **(settings or {})}
        self._control = directory / "control.json"
        self._surroundings = {"disk_full": False, "clock_offset_s": 0.0}
        self._process: Process | None = None
        self._number = self._log_begins = 0

    async def __aenter__(self) -> "World":
        self._directory.mkdir(parents=True)
        self._write_control()
        await self.upstream.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        self.upstream.stop()
        await asyncio.sleep(DRIP_PAUSE_S)  # whoever still answers notices

    async def start(self, kill_at: str = "") -> None:
        """The next incarnation, at the upstream's present address."""
        self._number += 1
        self.incarnation = f"#{self._number}"
        base = f"http://127.0.0.1:{self.upstream.port}"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        urls = {"API_BASE_URL": base, "OAUTH2_TOKEN_URL": f"{base}/oauth2/token", "OPENAI_BASE_URL": f"{base}/v1"}
        own = {"DATA_DIR": str(self._directory / "data")}
        self.history.note("started", self.incarnation, note=kill_at)
        self._log_begins = self.log.stat().st_size if self.log.exists() else 0
        self._process = Process(
            Order(
                incarnation=self.incarnation,
                directory=str(self._directory),
                log=str(self.log),
                control=str(self._control),
                environment={**kept, **self._settings, **urls, **own},
                kill_at=kill_at,
                **self._order,
            )
        )

    @property
    def running(self) -> Process:
        if self._process is None:
            raise RuntimeError("no daemon was started")
        return self._process

    async def kill(self) -> None:
        """SIGKILL, unless it has killed itself."""
        if self.running.returncode is None:
            self.history.note("killed", self.incarnation)
            self.running.send_signal(signal.SIGKILL)
        await self.ended(signal.SIGKILL)

    async def killed_itself(self, timeout_s: float) -> bool:
        """Did it reach its kill point in time?"""
        await self.until(lambda: False, timeout_s)
        if self.running.returncode != -signal.SIGKILL:
            return False
        self.history.note("killed", self.incarnation, note="at a kill point")
        return True

    async def terminate(self) -> None:
        """SIGTERM, and a normal end within the grace period. Before it has started a daemon cannot know better."""
        await self.until(self._started, START_S)
        self.history.note("terminated", self.incarnation)
        self.running.send_signal(signal.SIGTERM)
        await self.ended(0)

    async def ended(self, expected: int) -> None:
        """Anything but the expected end is a crash."""
        await self.until(lambda: False, DRAIN_S)
        self.running.send_signal(signal.SIGKILL)  # to one that has not ended
        code = await self.running.wait()
        if code not in (expected, -expected):
            self.crashes.append(f"{self.incarnation} ended with {code} instead of {expected}")

    async def freeze(self) -> None:
        """SIGSTOP, and SIGCONT after a second."""
        process = self.running
        if process.returncode is None:
            self.history.note("stopped", self.incarnation)
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(STOP_S)
            process.send_signal(signal.SIGCONT)

    def set_disk(self, *, full: bool) -> None:
        self.history.note("disk-full" if full else "disk-free")
        self._surroundings["disk_full"] = full
        self._write_control()

    def step_clock(self, seconds: float) -> None:
        self.history.note("clock", note=f"{seconds:+.0f} s")
        self._surroundings["clock_offset_s"] += seconds
        self._write_control()

    async def seen(self, kind: Kind, number: int, timeout_s: float) -> bool:
        """Wait until this incarnation has made so many requests of a kind; false when it did not in time, or ended."""
        return await self.until(lambda: self.history.count(kind, self.incarnation) >= number, timeout_s)

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition, as long as the daemon lives."""
        ends_at = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > ends_at or self.running.returncode is not None:
                return condition()
            await asyncio.sleep(0.01)
        return True

    async def settled(self, timeout_s: float) -> bool:
        """Wait until every outcome has been told and the outbox holds nothing that waits."""
        return await self.until(
            lambda: not self.upstream.book.unfinished and "waiting" not in self.outbox().values(), timeout_s
        )

    def outbox(self) -> dict[str, str]:
        """State by task id, read beside the daemon."""
        path = self._directory / "data" / "outbox.db"
        if not path.exists():
            return {}
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
            try:
                return dict(database.execute("SELECT task_id, state FROM records"))
            except sqlite3.OperationalError:
                return {}  # it is being made

    def _started(self) -> bool:
        if not self.log.exists():
            return False
        with self.log.open("rb") as log:
            log.seek(self._log_begins)
            return b'"daemon.started"' in log.read()

    def judge(self) -> Verdict:
        return checker.judge(self.history.events, self.upstream.book.fates, self.outbox())

    def _write_control(self) -> None:
        fresh = self._control.with_suffix(".new")
        fresh.write_text(json.dumps(self._surroundings))
        fresh.replace(self._control)
