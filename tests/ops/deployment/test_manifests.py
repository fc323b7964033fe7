"""Dockerfile, compose file and manifests before the tools that read them: no key that nobody knows, no complaint.

Needs hadolint and kubernetes-validate (PyPI) and Docker Compose (Debian 13), and neither an engine nor a cluster.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.prometheus import executable

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/kubernetes"
BASE = [FOLDER / name for name in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]]
#: the oldest version that knows every field without a feature gate but the budget's policy, and the newest schema
VERSIONS = ("1.31", "1.37")

Break = Callable[[dict[str, Any]], None]


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    name, *arguments = map(str, command)
    return subprocess.run(
        [executable(name), *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def kubernetes_validate(version: str, *files: Path) -> subprocess.CompletedProcess[str]:
    return ran("kubernetes-validate", "--strict", "--kubernetes-version", version, *files)


def compose_config(file: Path) -> subprocess.CompletedProcess[str]:
    """Docker Compose's own reading of the file; it refuses unknown keys. ``.env`` need not exist for that."""
    directory = file.parent
    (directory / ".env").touch()
    return ran(
        "docker-compose", "--project-directory", directory, "--file", file, "--profile", "*", "config", "--quiet"
    )


def test_the_dockerfile_is_clean() -> None:
    """hadolint has nothing to say, at its lowest threshold."""
    linted = ran("hadolint", "--failure-threshold", "style", "Dockerfile")
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_key(version: str) -> None:
    """Each resource of the base passes the published schema; none is passed over for the lack of one."""
    done = kubernetes_validate(version, *BASE)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert said.count(f"against version {version}") == len(BASE), said
    assert "WARN" not in said


@pytest.mark.parametrize(
    "break_it",
    [
        lambda spec: spec.update(replica=1),
        lambda spec: spec["template"]["spec"].update(terminationGracePeriod=30),
        lambda spec: spec["template"]["spec"]["containers"][0]["livenessProbe"].update(failureTreshold=3),
        lambda spec: spec["template"]["spec"]["containers"][0].update(imagePullPolicy=True),
    ],
    ids=["set", "pod", "probe", "type"],
)
def test_an_unknown_key_is_found_in_a_manifest(break_it: Break, tmp_path: Path) -> None:
    """The check above can fail: at any depth, and for a value of the wrong type."""
    document = yaml.safe_load((FOLDER / "statefulset.yaml").read_text())
    break_it(document["spec"])
    broken = tmp_path / "statefulset.yaml"
    broken.write_text(yaml.safe_dump(document))
    done = kubernetes_validate(VERSIONS[-1], broken)
    assert done.returncode != 0, done.stdout + done.stderr


def test_docker_compose_knows_every_key(tmp_path: Path) -> None:
    """Docker Compose reads the shipped file without an error or a warning."""
    file = tmp_path / "docker-compose.yml"
    file.write_text((ROOT / "docker-compose.yml").read_text())
    done = compose_config(file)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda compose: compose.update(service={}),
        lambda compose: compose["services"]["ai-task-processor"].update(mem_limits="1g"),
        lambda compose: compose["services"]["grafana"]["healthcheck"].update(retires=3),
    ],
    ids=["file", "service", "probe"],
)
def test_an_unknown_key_is_found_in_a_compose_file(break_it: Break, tmp_path: Path) -> None:
    """The check above can fail."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    break_it(compose)
    file = tmp_path / "docker-compose.yml"
    file.write_text(yaml.safe_dump(compose))
    assert compose_config(file).returncode != 0
