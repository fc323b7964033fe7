"""The shipped compose file, run by podman-compose: all but Grafana on the network that it makes them.

Three things differ from an operator's machine, for reasons of this one. No registry can be reached: Prometheus and
Alertmanager are Debian's programs under the tags that the file names, without the ``wget`` of their health checks. No
systemd runs health checks: they are asked for by hand. And the volume whose name the file fixes gets another, because
an operator's outbox may be here, too.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from ai_task_processor.sandbox.app import Sandbox
from tests.commands import ran
from tests.e2e.conftest import _eventually
from tests.ops.deployment.engine import ROOT, base_image, build, inspected, logged, podman
from tests.ops.prometheus import DAEMON, executable

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = (DAEMON, "prometheus", "alertmanager", "sandbox")
#: the program of Debian that stands for a service; both look for files of their package
PROGRAMS = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}
DOCKERFILE = """\
FROM {base}
COPY {program} /bin/{service}
COPY share /usr/share/prometheus
RUN install -d -o 65534 -g 65534 /{service}
USER 65534:65534
VOLUME /{service}
WORKDIR /{service}
ENTRYPOINT ["/bin/{service}"]
"""


class Project:
    """The services out of a folder of their own, as ``docker-compose`` would run them with both profiles."""

    def __init__(self, engine: dict[str, str], folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self.name = f"ops-{uuid.uuid4().hex}"
        shutil.copy(ROOT / "docker-compose.yml", folder)
        shutil.copytree(ROOT / "monitoring", folder / "monitoring")
        sandbox = Sandbox()
        sandbox.url = f"http://sandbox:{self.port('sandbox')}"
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in sandbox.environment().items()))
        (folder / "volumes.yml").write_text(yaml.safe_dump({"volumes": {"outbox": {"name": f"{self.name}-outbox"}}}))

    def run(self, *arguments: str, check: bool = True) -> None:
        files = ["--file", "docker-compose.yml", "--file", "volumes.yml"]
        profiles = ["--profile", "sandbox", "--profile", "alertmanager"]
        command = [executable("podman-compose"), "--project-name", self.name, *files, *profiles]
        done = ran(*command, *arguments, cwd=self._folder, env=self._engine, timeout=90)
        assert done.returncode == 0 or not check, done.stdout + done.stderr

    def port(self, service: str) -> str:
        published: str = COMPOSE["services"][service]["ports"][0]
        return published.split(":")[1]

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.port(service)}"

    def container(self, service: str) -> dict[str, Any]:
        return inspected(self._engine, f"{self.name}_{service}_1", "container")

    def healthy(self, service: str) -> bool:
        """What the health check of the file says now."""
        return podman(self._engine, "healthcheck", "run", f"{self.name}_{service}_1", check=False).returncode == 0

    def log(self, service: str) -> str:
        return logged(self._engine, f"{self.name}_{service}_1")

    def remove(self) -> None:
        """Containers, network and volumes, also those without a name that images ask for."""
        known = podman(self._engine, "ps", "--all", "--quiet", f"--filter=name={self.name}").stdout.split()
        mounts = [mount for one in known for mount in inspected(self._engine, one, "container")["Mounts"]]
        self.run("down", "--timeout", "0", "--volumes", check=False)
        for mount in (mount for mount in mounts if mount["Type"] == "volume"):
            podman(self._engine, "volume", "rm", "--force", mount["Name"], check=False)


@pytest.fixture
def programs(engine: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """Images of what a registry would give."""
    tags = []
    for service, program in PROGRAMS.items():
        folder, file = tmp_path / f"image-{service}", Path(executable(program))
        shutil.copytree(file.parents[1] / "share/prometheus", folder / "share", symlinks=True)
        shutil.copy(file, folder)
        (folder / "Dockerfile").write_text(DOCKERFILE.format(base=base_image(), program=program, service=service))
        tags.append(COMPOSE["services"][service]["image"])
        build(engine, folder, tags[-1])
    yield
    podman(engine, "image", "rm", *tags)


@pytest.fixture
def project(image: dict[str, Any], programs: None, engine: dict[str, str], tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "project"
    folder.mkdir()
    made = Project(engine, folder)
    try:
        made.run("up", "--detach", "--no-build", *SERVICES)
        yield made
    finally:
        made.remove()


@pytest.mark.timeout(300)
async def test_the_services_find_each_other_and_stop_in_order(project: Project, tell: Callable[[str], None]) -> None:
    """Tasks are processed, Prometheus sees it and knows rules and Alertmanager, SIGTERM ends all of them with 0."""

    async def answered(url: str, **body: object) -> Any:
        """The JSON of an answer, or None while nobody listens yet."""
        try:
            answer = await (client.post(url, json=body) if body else client.get(url))
        except httpx2.TransportError:
            return None
        return answer.json()

    async def done() -> object:
        return (await answered(f"{project.url('sandbox')}/sandbox/stats"))["tasks"] == {"succeeded": 50}

    async def scraped() -> object:
        found = await answered(f"{project.url('prometheus')}/api/v1/query?query={query}")
        return [one["value"][1] for one in found["data"]["result"]] == ["50"]

    async def connected() -> object:
        found = await answered(f"{project.url('prometheus')}/api/v1/alertmanagers")
        return len(found["data"]["activeAlertmanagers"]) == 1 and await answered(
            f"{project.url('alertmanager')}/api/v2/status"
        )

    query = 'ai_task_processor_tasks_processed_total{status="succeeded",task_type="text_embedding"}'
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        await _eventually(lambda: answered(f"{project.url('sandbox')}/sandbox/tasks", count=50), timeout=30)
        await _eventually(done, timeout=60)
        await _eventually(lambda: answered(f"{project.url('prometheus')}/api/v1/status/config"), timeout=30)
        await _eventually(scraped, timeout=60)
        await _eventually(connected, timeout=60)
        targets = (await answered(f"{project.url('prometheus')}/api/v1/targets"))["data"]["activeTargets"]
        rules = (await answered(f"{project.url('prometheus')}/api/v1/rules"))["data"]["groups"]
    up = {target["labels"]["job"]: target["health"] for target in targets}
    assert up[DAEMON] == "up"
    assert rules
    assert [service for service in (DAEMON, "sandbox") if not project.healthy(service)] == []
    tell(f"compose: 50 tasks of the sandbox succeeded and were counted by Prometheus, whose target is {up[DAEMON]}")
    project.run("stop", *SERVICES)
    states = {service: project.container(service)["State"] for service in SERVICES}
    codes = {service: state["ExitCode"] for service, state in states.items()}
    assert {state["Status"] for state in states.values()} == {"exited"}
    assert codes == dict.fromkeys(SERVICES, 0)
    assert '"drain.finished"' in project.log(DAEMON)
    tell(f"compose: SIGTERM ended {', '.join(f'{service} with {code}' for service, code in codes.items())}")
