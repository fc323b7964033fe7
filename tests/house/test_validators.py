"""Dockerfile and manifests before the tools that know them: no key that nobody knows, no complaint.

hadolint and kubernetes-validate need neither an engine nor a cluster. The compose file's own tool is no package of
Python: ``make ops-check`` asks it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from tests.commands import ran

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
FOLDER = ROOT / "deploy/kubernetes"
BASE = [FOLDER / name for name in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]]
#: the oldest version that knows every field without a feature gate but the budget's policy, and the newest schema
VERSIONS = ("1.31", "1.37")

Break = Callable[[dict[str, Any]], None]


def kubernetes_validate(version: str, *files: Path) -> CompletedProcess[str]:
    return ran(TOOLS / "kubernetes-validate", "--strict", "--kubernetes-version", version, *files, cwd=ROOT)


def test_the_dockerfile_is_clean() -> None:
    """hadolint has nothing to say, at its lowest threshold."""
    linted = ran(TOOLS / "hadolint", "--failure-threshold", "style", "Dockerfile", cwd=ROOT)
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
