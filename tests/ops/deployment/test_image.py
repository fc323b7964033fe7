"""The image as it would run in production: built from the Dockerfile, read-only, without a right, under an init's eye.

Needs root, buildah, podman, runc, and the base that ``base-image.sh`` makes. No registry and no bridge: the container
shares the network of this machine, where the sandbox listens on loopback.
"""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.bench.machine import free_port
from tests.e2e.conftest import _eventually
from tests.ops.deployment.engine import IMAGE, base_image, inspected, logged, podman

HARDENED = (
    "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m",
    "--pids-limit=256", "--network=host", "--no-healthcheck",
)  # fmt: skip


@pytest.fixture
def volume(engine: dict[str, str]) -> Iterator[str]:
    """A new named volume."""
    name = f"ops-{uuid.uuid4().hex}"
    podman(engine, "volume", "create", name)
    yield name
    podman(engine, "volume", "rm", "--force", name)


class Container:
    """One container of the image, at work for the sandbox; removed at the end."""

    def __init__(self, engine: dict[str, str], sandbox: Sandbox, volume: str, *command: str) -> None:
        self._engine = engine
        self.name = f"ops-{uuid.uuid4().hex}"
        settings = sandbox.environment() | {"METRICS_HOST": "127.0.0.1", "METRICS_PORT": str(free_port())}
        environment = [f"--env={name}={value}" for name, value in settings.items()]
        options = [*HARDENED, f"--volume={volume}:/data", *environment]
        podman(engine, "run", "--detach", f"--name={self.name}", *options, IMAGE, *command)

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return podman(self._engine, "exec", self.name, *command, check=False)

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = inspected(self._engine, self.name, "container")["State"]
        return answer

    def log(self) -> str:
        return logged(self._engine, self.name)

    def terminate(self) -> None:
        podman(self._engine, "kill", "--signal=SIGTERM", self.name)

    def close(self) -> None:
        podman(self._engine, "rm", "--force", "--time=0", self.name)


def test_the_image_adds_little_and_in_few_layers(
    image: dict[str, Any], engine: dict[str, str], tell: Callable[[str], None]
) -> None:
    """At most 165 MB over the base, in one layer; a builder that keeps each step makes four of it."""
    base = inspected(engine, base_image())
    size, layers = image["Size"] - base["Size"], len(image["RootFS"]["Layers"]) - len(base["RootFS"]["Layers"])
    tell(f"image: {size / 1e6:.1f} MB and {layers} layer over its base of {base['Size'] / 1e6:.1f} MB")
    assert size < 165e6
    assert layers <= 4
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["StopSignal"] == "SIGTERM"


def test_what_is_imported_is_there_as_bytecode(image: dict[str, Any], engine: dict[str, str]) -> None:
    """No module of the daemon, its libraries or the standard library is compiled at every start and health check."""
    for command, code in (("run", 78), ("healthcheck", 1)):  # without a setting, and with nobody to ask
        options = [*HARDENED, "--rm", "--entrypoint=python", IMAGE, "-v", "-m", "ai_task_processor", command]
        done = podman(engine, "run", *options, check=False)
        assert done.returncode == code, done.stderr[-2000:]
        loaded = [line for line in done.stderr.splitlines() if line.startswith("# code object from ")]
        assert len(loaded) > 20
        assert [line for line in loaded if not line.endswith(".pyc'")] == []


async def test_it_works_through_a_backlog_without_a_right(
    image: dict[str, Any], engine: dict[str, str], volume: str, sandbox: Sandbox, tell: Callable[[str], None]
) -> None:
    """Read-only, no capability, 512 MB: 300 tasks are delivered, it is healthy, and PID 1 drains on SIGTERM."""
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(300)]
    with closing(Container(engine, sandbox, volume)) as container:
        await sandbox.tasks.settled(ids, timeout=60)
        assert container.ask("ai-task-processor", "healthcheck").returncode == 0
        assert container.ask("cat", "/proc/1/comm").stdout.strip() == "ai-task-process"
        status = dict(line.split(":\t", 1) for line in container.ask("cat", "/proc/1/status").stdout.splitlines())
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert (status["NoNewPrivs"], status["Uid"].split()[0]) == ("1", "10001")
        refused = container.ask("touch", "/opt/venv/x").stderr.strip()
        assert refused.endswith("Read-only file system")
        told = {name: status[name].split()[0] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs")}
        tell("image: process 1 has " + ", ".join(f"{name} {value}" for name, value in told.items()))
        tell(f"image: {refused}")
        container.terminate()
        await _eventually(lambda: not container.state()["Running"], timeout=30)
        assert container.state()["ExitCode"] == 0
        assert '"drain.finished"' in container.log()
    assert {sandbox.tasks[task_id].callbacks for task_id in ids} == {1}
    tell(f"image: {len(ids)} tasks delivered once each in 512 MB, SIGTERM drained, exit 0")


async def test_a_volume_of_kubernetes_will_do(
    image: dict[str, Any], engine: dict[str, str], sandbox: Sandbox, tmp_path: Path
) -> None:
    """A volume that belongs to root and to fsGroup, with the modes that a kubelet gives it."""
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 0, 10001)
    data.chmod(0o2775)
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(20)]
    with closing(Container(engine, sandbox, str(data), "run", "--until-empty")) as container:
        await _eventually(lambda: not container.state()["Running"], timeout=60)
        assert container.state()["ExitCode"] == 0, container.log()
    assert all(sandbox.tasks[task_id].state == "succeeded" for task_id in ids)
    assert (data / "outbox.db").stat().st_uid == 10001
