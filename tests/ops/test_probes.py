"""The daemon under the probes of its manifest: restarted when that helps, left alone when a remote is at fault."""

import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.bench.machine import free_port
from tests.e2e.conftest import DaemonProcess, _eventually, install_wheel
from tests.ops.kubelet import OWN_GRACE_S, POD_GRACE_S, SPEED, Pod, probe

RunPod = Callable[..., Awaitable[Pod]]
Tell = Callable[[str], None]

BLOCKER = """
import time

from ai_task_processor.processors.base import BaseProcessor, Task, TaskResult


class BlockingProcessor(BaseProcessor):
    task_types = frozenset({"block"})

    def can_process(self, task: Task) -> bool:
        return task.type == "block"

    async def process(self, task: Task) -> TaskResult:
        if task.attempt == 1:
            time.sleep(3600)
        return TaskResult({"attempt": task.attempt})
"""


@pytest.fixture
async def run_pod(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RunPod]:
    """Starts a pod against the sandbox; settings are given as keywords. Every container gets a log of its own."""
    pods: list[Pod] = []

    async def run(**settings: object) -> Pod:
        port = free_port()
        given = sandbox.environment() | {"SHUTDOWN_GRACE_SECONDS": str(OWN_GRACE_S)}
        # A circuit that opens would make the way back half a minute longer.
        given |= {"POLLING_INTERVAL_SECONDS": "0.2", "CIRCUIT_BREAKER_THRESHOLD": "1000"}
        given |= {"DATA_DIR": str(tmp_path / "data"), "METRICS_PORT": str(port)}
        given |= {name: str(value) for name, value in settings.items()}
        number = iter(range(100))

        def container() -> DaemonProcess:
            directory = tmp_path / f"container{next(number)}"
            directory.mkdir()
            made = DaemonProcess(directory, given)
            made.port = port
            return made

        pods.append(Pod(container))
        pods[-1].start()
        return pods[-1]

    yield run
    for pod in pods:
        await pod.abandon()
        await pod.container.kill()


def counted(pod: Pod) -> str:
    """For the summary. A pod that is ready once has changed once."""
    return f"{pod.restarts} restarts, {len(pod.readiness)} changes of readiness"


async def probed(pod: Pod, times: int) -> None:
    """Wait until the present container's liveness was asked this often from now on."""
    asked = len(pod.liveness) + times
    await _eventually(lambda: len(pod.liveness) >= asked, timeout=times * probe("livenessProbe").period_s * 3 + 10)


async def test_a_working_pod_is_left_alone(sandbox: Sandbox, run_pod: RunPod, tell: Tell) -> None:
    """Ready once, never restarted, through a load and through idleness."""
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(300)]
    pod = await run_pod()
    await sandbox.tasks.settled(ids, timeout=30)
    await probed(pod, probe("livenessProbe").failures + 2)
    assert all(pod.liveness)
    assert (pod.restarts, pod.readiness) == (0, [True])
    tell(f"probes: healthy: {counted(pod)}")


async def test_an_upstream_that_is_down_makes_it_unready_and_never_restarts_it(
    sandbox: Sandbox, run_pod: RunPod, tell: Tell
) -> None:
    """Down from the start, back, down again for longer than liveness has patience, back: three flips, no restart."""
    fault = sandbox.faults.add("pending", status=503)
    pod = await run_pod()
    await _eventually(lambda: pod.started, timeout=20)
    await probed(pod, probe("livenessProbe").failures + 1)
    assert pod.readiness == []
    fault.times = fault.hits
    await _eventually(lambda: pod.readiness == [True], timeout=20)
    again = sandbox.faults.add("pending", reset=True)
    await _eventually(lambda: pod.readiness == [True, False], timeout=30)
    await probed(pod, probe("livenessProbe").failures + 1)
    again.times = again.hits
    await _eventually(lambda: pod.readiness == [True, False, True], timeout=30)
    assert all(pod.liveness)
    assert pod.restarts == 0
    tell(f"probes: task API down twice: {counted(pod)}")


async def test_a_blocked_event_loop_is_restarted_once(
    sandbox: Sandbox, run_pod: RunPod, tmp_path: Path, tell: Tell
) -> None:
    """A processor that blocks: killed after its short grace, and the next container finishes everything."""
    site = install_wheel(tmp_path, "acme_block", BLOCKER, block="acme_block:BlockingProcessor")
    pod = await run_pod(PYTHONPATH=site)
    await _eventually(lambda: pod.readiness == [True], timeout=20)
    blocking = sandbox.tasks.add(type="block")
    others = [sandbox.tasks.add(text=f"text {number}") for number in range(20)]
    await sandbox.tasks.settled([blocking, *others], timeout=60)
    await _eventually(lambda: pod.readiness == [True, False, True], timeout=30)
    assert sandbox.tasks[blocking].result == {"attempt": 2}
    await probed(pod, probe("livenessProbe").failures)
    assert (pod.restarts, pod.endings) == (1, [-signal.SIGKILL])
    tell(f"probes: event loop blocked: {counted(pod)}")


async def test_a_short_stall_is_no_reason_for_a_restart(run_pod: RunPod, tell: Tell) -> None:
    """A process that stands still until one liveness probe has failed goes on in the same container."""
    pod = await run_pod()
    await _eventually(lambda: pod.readiness == [True], timeout=20)
    pod.container.send(signal.SIGSTOP)
    await _eventually(lambda: False in pod.liveness, timeout=20)
    pod.container.send(signal.SIGCONT)
    await probed(pod, probe("livenessProbe").failures + 1)
    assert pod.liveness[-1]
    assert pod.restarts == 0
    tell(f"probes: process stood still for a moment: {counted(pod)}")


async def test_a_deleted_pod_drains_within_its_grace(sandbox: Sandbox, run_pod: RunPod, tell: Tell) -> None:
    """A model that hangs uses up the daemon's own grace, and it still leaves by itself with 0."""
    pod = await run_pod()
    await _eventually(lambda: pod.readiness == [True], timeout=20)
    sandbox.faults.add("model", hang=True)
    sandbox.tasks.add(text="slow")
    await _eventually(lambda: sandbox.stats.model_requests == 1, timeout=20)
    began = time.monotonic()
    assert await pod.delete() == 0
    took_s = time.monotonic() - began
    assert 0.5 * OWN_GRACE_S < took_s < POD_GRACE_S, f"{took_s * SPEED:.0f} s at normal speed"
    assert pod.container.events("drain.cut")
    tell(f"probes: deleted: {counted(pod)}, exit 0 after {took_s * SPEED:.0f} of {POD_GRACE_S * SPEED:.0f} s")
