"""The manifests keep their promises to operators, and agree with the image, the settings, the rules and each other.

Whether Kubernetes would take them is asked of kubernetes-validate, with its published schemas and without a cluster.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from ai_task_processor import __version__
from ai_task_processor.core.settings import WorkerSettings
from ai_task_processor.engine.status import LONGEST_TICK_S
from deploy.prometheus_rule import MANIFEST, manifest
from tests.commands import ran

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
NAME = "ai-task-processor"
LABELS = {"app.kubernetes.io/name": NAME}
#: before it listens, the daemon waits this long for a predecessor to let go of the outbox
LOCK_WAIT_S = 60
#: the oldest version that knows every field without a feature gate but the budget's policy, and the newest schema
VERSIONS = ("1.31", "1.37")

DOCUMENTS: dict[str, dict[str, Any]] = {
    document["kind"]: document
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
}
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
STATEFUL_SET = DOCUMENTS["StatefulSet"]["spec"]
POD = STATEFUL_SET["template"]["spec"]
CONTAINER = POD["containers"][0]
ENVIRONMENT = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}


def settings_file() -> dict[str, str]:
    lines = (FOLDER / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_folder_holds_what_it_names_and_nothing_else() -> None:
    """One document of each kind; every file is a resource of the base or of a component for the operator's CRDs."""
    named = {"kustomization.yaml", *KUSTOMIZATION["resources"], *KUSTOMIZATION["configMapGenerator"][0]["envs"]}
    for folder in ("alerts", "pod-monitor"):
        component = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
        # kustomize refuses a file with a key that it does not know.
        assert component.keys() == {"apiVersion", "kind", "resources"}
        named |= {f"{folder}/{name}" for name in ("kustomization.yaml", *component["resources"])}
    assert named == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert DOCUMENTS.keys() == {
        "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "PrometheusRule", "Service", "ServiceAccount",
        "StatefulSet",
    }  # fmt: skip
    assert KUSTOMIZATION.keys() == {"apiVersion", "kind", "resources", "configMapGenerator"}


def test_everything_is_about_the_same_pod() -> None:
    """One name and one label; every selector finds the pod of the template."""
    assert {document["metadata"]["name"] for document in DOCUMENTS.values()} == {NAME}
    assert all(document["metadata"]["labels"] == LABELS for document in DOCUMENTS.values())
    assert STATEFUL_SET["template"]["metadata"]["labels"] == LABELS
    for kind in ("StatefulSet", "PodDisruptionBudget", "PodMonitor"):
        assert DOCUMENTS[kind]["spec"]["selector"] == {"matchLabels": LABELS}
    assert DOCUMENTS["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": LABELS}
    assert DOCUMENTS["Service"]["spec"]["selector"] == LABELS
    assert STATEFUL_SET["serviceName"] == NAME
    assert POD["serviceAccountName"] == NAME


def test_one_daemon_on_one_volume() -> None:
    """A single replica that nothing scales, replaced only after its end, on a volume that outlives it."""
    assert STATEFUL_SET["replicas"] == 1
    assert "HorizontalPodAutoscaler" in (FOLDER / "statefulset.yaml").read_text().partition("apiVersion")[0]
    assert STATEFUL_SET["podManagementPolicy"] == "Parallel"
    assert set(STATEFUL_SET["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    (claim,) = STATEFUL_SET["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == ENVIRONMENT["DATA_DIR"]
    assert mounts.keys() == {claim["metadata"]["name"], *(volume["name"] for volume in POD["volumes"])}


def test_it_has_few_rights() -> None:
    """A numbered user, nothing writable but volumes, no capability, no escalation, no token, no foreign variables."""
    identity = POD["securityContext"]
    assert [identity[name] for name in ("runAsUser", "runAsGroup", "fsGroup")] == [10001] * 3
    assert identity["runAsNonRoot"] is True
    assert identity["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False
    assert DOCUMENTS["ServiceAccount"]["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
    assert not POD.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}


def test_secrets_are_files() -> None:
    """No secret is in an environment or in this folder; each variable names a file below the mounted secret."""
    example = (ROOT / ".env.example").read_text()
    files = {name: value for name, value in ENVIRONMENT.items() if name.endswith("_FILE")}
    assert files.keys() == {"OAUTH2_CLIENT_SECRET_FILE", "OPENAI_API_KEY_FILE"}
    assert all(name in example for name in files)
    (mount,) = [mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "secrets"]
    assert mount["readOnly"] is True
    command = (FOLDER / "kustomization.yaml").read_text().splitlines()[0]
    for path in files.values():
        assert path.rpartition("/")[0] == mount["mountPath"]
        assert f"--from-file={path.rpartition('/')[2]}" in command
    assert not {"OAUTH2_CLIENT_SECRET", "OPENAI_API_KEY"} & {*ENVIRONMENT, *settings_file()}


def test_the_settings_exist() -> None:
    """Every variable is one of ``.env.example``, and none is given in two places."""
    example = (ROOT / ".env.example").read_text()
    given = settings_file()
    assert {"API_BASE_URL", "ORY_PROJECT_SLUG", "OAUTH2_CLIENT_ID"} <= given.keys()
    assert not given.keys() & ENVIRONMENT.keys()
    for name in (*given, *ENVIRONMENT):
        assert name.removesuffix("_FILE") + "=" in example, name


def test_there_is_time_for_the_drain() -> None:
    """The grace period is that of the daemon, the second after which it leaves by force, and a reserve."""
    default = WorkerSettings.model_fields["shutdown_grace_s"].default
    own_s = float(settings_file().get("SHUTDOWN_GRACE_SECONDS", default))
    assert own_s + 1 + 3 <= POD["terminationGracePeriodSeconds"] <= own_s + 10


def test_the_probes_ask_what_they_are_for() -> None:
    """Liveness never asks about remotes; the start may wait for the lock; a blocked loop is not drained for long."""
    paths = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}
    startup, liveness = CONTAINER["startupProbe"], CONTAINER["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= LOCK_WAIT_S + 15
    assert 20 <= liveness["periodSeconds"] * liveness["failureThreshold"] <= LONGEST_TICK_S
    assert liveness["terminationGracePeriodSeconds"] < POD["terminationGracePeriodSeconds"]


def test_every_port_is_the_same() -> None:
    """Service, policy, monitor and probes name the container's port, on which the daemon listens."""
    assert CONTAINER["ports"] == [{"name": "ops", "containerPort": int(ENVIRONMENT["METRICS_PORT"])}]
    assert DOCUMENTS["Service"]["spec"]["ports"] == [{"name": "ops", "port": 8001, "targetPort": "ops"}]
    assert DOCUMENTS["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": "ops"}]
    probes = [CONTAINER[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {probe["httpGet"]["port"] for probe in probes} == {"ops"}


def test_a_node_can_be_drained() -> None:
    """One replica must not hold up a node, and neither must a pod that waits for a task API that is down."""
    budget = DOCUMENTS["PodDisruptionBudget"]["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert "minAvailable" not in budget


def test_it_has_limits() -> None:
    """Memory and disk are bounded, and the volume holds a full outbox; the CPU is not throttled."""
    resources = CONTAINER["resources"]
    assert resources["limits"].keys() == {"memory", "ephemeral-storage"}
    assert resources["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
    (claim,) = STATEFUL_SET["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"


def test_the_image_is_that_of_this_version() -> None:
    """The tag that compose builds; the registry is an overlay's business."""
    assert CONTAINER["image"] == f"{NAME}:{__version__}"


def test_the_monitor_makes_the_job_that_the_rules_name() -> None:
    """Without ``jobLabel`` the job would be called after namespace and monitor, and no alert would ever fire."""
    monitor = DOCUMENTS["PodMonitor"]["spec"]
    assert monitor.keys() == {"jobLabel", "selector", "podMetricsEndpoints"}
    assert monitor["podMetricsEndpoints"] == [{"port": "ops", "path": "/metrics", "interval": "15s"}]
    job = STATEFUL_SET["template"]["metadata"]["labels"][monitor["jobLabel"]]
    config = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())
    assert job in {scrape["job_name"] for scrape in config["scrape_configs"]}
    assert config["global"]["scrape_interval"] == monitor["podMetricsEndpoints"][0]["interval"]
    assert f'job="{job}"' in (ROOT / "monitoring/rules.yml").read_text()


def test_the_alerts_are_those_of_prometheus() -> None:
    """The manifest is what ``python -m deploy.prometheus_rule`` writes, and has the groups of monitoring/rules.yml."""
    assert MANIFEST.read_text() == manifest()
    assert DOCUMENTS["PrometheusRule"]["spec"] == yaml.safe_load((ROOT / "monitoring/rules.yml").read_text())


def test_every_board_is_in_the_component() -> None:
    """Each file of grafana/dashboards is in a ConfigMap of its own, with the label of Grafana's sidecar."""
    boards = ROOT / "grafana/dashboards"
    component = yaml.safe_load((boards / "kustomization.yaml").read_text())
    assert component["generatorOptions"]["labels"] == {**LABELS, "grafana_dashboard": "1"}
    made = {each["name"]: each["files"] for each in component["configMapGenerator"]}
    assert made == {f"{NAME}-{path.stem}": [f"{NAME}-{path.name}={path.name}"] for path in boards.glob("*.json")}
    assert "components: [pod-monitor, alerts, ../../grafana/dashboards]" in (FOLDER / "kustomization.yaml").read_text()


def kubernetes_validate(version: str, *files: Path) -> CompletedProcess[str]:
    tool = Path(sys.executable).with_name("kubernetes-validate")
    return ran(tool, "--strict", "--kubernetes-version", version, *files, cwd=ROOT)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_key(version: str) -> None:
    """Each resource of the base passes the published schema; none is passed over for the lack of one."""
    base = [FOLDER / name for name in KUSTOMIZATION["resources"]]
    done = kubernetes_validate(version, *base)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert said.count(f"against version {version}") == len(base), said
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
def test_an_unknown_key_is_found_in_a_manifest(break_it: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    """The check above can fail: at any depth, and for a value of the wrong type."""
    document = yaml.safe_load((FOLDER / "statefulset.yaml").read_text())
    break_it(document["spec"])
    broken = tmp_path / "statefulset.yaml"
    broken.write_text(yaml.safe_dump(document))
    done = kubernetes_validate(VERSIONS[-1], broken)
    assert done.returncode != 0, done.stdout + done.stderr
