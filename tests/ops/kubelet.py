"""What a kubelet does to one pod of the StatefulSet, with the numbers of its manifest: probe, restart, delete.

The container is the real daemon as a process of this machine. Only time runs faster: every period, timeout and
grace is divided by ``SPEED``, the daemon's own grace too.
"""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from ai_task_processor.core.settings import WorkerSettings
from tests.e2e.conftest import DaemonProcess

ROOT = Path(__file__).parents[2]
MANIFEST: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kubernetes/statefulset.yaml").read_text())
POD = MANIFEST["spec"]["template"]["spec"]
SPEED = 5.0
POD_GRACE_S: float = POD["terminationGracePeriodSeconds"] / SPEED
#: the daemon's own grace in fast time
OWN_GRACE_S = float(WorkerSettings.model_fields["shutdown_grace_s"].default) / SPEED


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of the manifest; ``grace_s`` is that of a restart for its sake."""

    path: str
    period_s: float
    timeout_s: float
    failures: int
    grace_s: float


def probe(name: str) -> Probe:
    """The named probe in fast time; what it leaves out has the default of Kubernetes."""
    given = POD["containers"][0][name]
    return Probe(
        path=given["httpGet"]["path"],
        period_s=given.get("periodSeconds", 10) / SPEED,
        timeout_s=given.get("timeoutSeconds", 1) / SPEED,
        failures=given.get("failureThreshold", 3),
        grace_s=given.get("terminationGracePeriodSeconds", POD["terminationGracePeriodSeconds"]) / SPEED,
    )


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class Pod:
    """One pod. ``restarts`` are those that a probe or the container's end called for; ``readiness`` lists its changes.

    ``containers`` makes the next container, which is not started yet and knows its ``port``.
    """

    def __init__(self, containers: Callable[[], DaemonProcess]) -> None:
        self._containers = containers
        self._ready = False
        self._kubelet: asyncio.Task[None] | None = None
        self.container = containers()
        self.restarts = 0
        self.readiness: list[bool] = []
        self.endings: list[int] = []
        self.started = False
        #: results of the liveness probe of the present container
        self.liveness: list[bool] = []

    def start(self) -> None:
        """Keep a container alive from now on."""
        self._kubelet = asyncio.create_task(self._run())

    async def abandon(self) -> None:
        """No more probes and restarts; what runs goes on."""
        if self._kubelet is not None:
            await _cancelled(self._kubelet)

    async def delete(self) -> int:
        """The exit code of the last container, negative for a kill after the grace of the pod."""
        await self.abandon()
        return await self._end(POD_GRACE_S)

    async def _run(self) -> None:
        while True:
            await self.container.spawn()
            grace_s = await self._life()
            self.restarts += 1
            self._set_ready(False)
            self.endings.append(await self._end(grace_s))
            self.container = self._containers()

    async def _life(self) -> float:
        """One container, until it ends or must be restarted; the grace of that restart."""
        exited = asyncio.create_task(self.container.exit_code(timeout=3600))
        probed = asyncio.create_task(self._probed())
        try:
            await asyncio.wait((exited, probed), return_when=asyncio.FIRST_COMPLETED)
            return probed.result() if probed.done() else 0.0
        finally:
            await _cancelled(exited, probed)

    async def _probed(self) -> float:
        self.started, self.liveness = False, []
        startup, liveness, readiness = map(probe, ("startupProbe", "livenessProbe", "readinessProbe"))
        failed = 0
        while not await self._asked(startup):
            failed += 1
            if failed == startup.failures:
                return startup.grace_s
            await asyncio.sleep(startup.period_s)
        self.started = True
        watching = asyncio.create_task(self._watch_readiness(readiness))
        try:
            while not self._failed(liveness):
                self.liveness.append(await self._asked(liveness))
                await asyncio.sleep(liveness.period_s)
        finally:
            await _cancelled(watching)
        return liveness.grace_s

    def _failed(self, liveness: Probe) -> bool:
        last = self.liveness[-liveness.failures :]
        return len(last) == liveness.failures and not any(last)

    async def _watch_readiness(self, readiness: Probe) -> None:
        failed = 0
        while True:
            answered = await self._asked(readiness)
            failed = 0 if answered else failed + 1
            if answered or failed >= readiness.failures:
                self._set_ready(answered)
            await asyncio.sleep(readiness.period_s)

    async def _asked(self, asked: Probe) -> bool:
        """An answer from 200 to 399 in time is a success."""
        try:
            async with asyncio.timeout(asked.timeout_s):
                answer = await self.container.get(asked.path)
        except (TimeoutError, httpx2.TransportError):
            return False
        return 200 <= answer.status_code < 400

    def _set_ready(self, ready: bool) -> None:
        if ready != self._ready:
            self._ready = ready
            self.readiness.append(ready)

    async def _end(self, grace_s: float) -> int:
        with suppress(ProcessLookupError):
            self.container.send(signal.SIGTERM)
        try:
            return await self.container.exit_code(timeout=grace_s)
        except TimeoutError:
            await self.container.kill()
            return await self.container.exit_code()
