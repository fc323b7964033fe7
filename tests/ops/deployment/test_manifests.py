"""The Helm chart and the folder for kustomize, rendered by ``helm`` and ``kubectl`` themselves. No cluster is asked."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ran
from tests.house.test_kubernetes import NAME, VERSIONS, kubernetes_validate
from tests.ops.prometheus import executable

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy/helm/ai-task-processor"
VALUES = {file.stem: file for file in sorted((Path(__file__).parent / "values").glob("*.yaml"))}
#: what is off by default, and a component for kustomize
COMPONENTS = ("podMonitor.enabled=true", "prometheusRule.enabled=true", "dashboards.enabled=true")
#: kinds of the Prometheus operator, for which there is no published schema
CUSTOM = {"PodMonitor", "PrometheusRule", "ServiceMonitor"}
#: labels and annotations that only Helm adds
ADDED = {
    "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart",
    "checksum/configuration",
}  # fmt: skip

Manifest = dict[str, Any]
#: by kind and name
Manifests = dict[tuple[str, str], Manifest]


def helm(*arguments: str | Path, values: Iterable[Path] = (), options: Iterable[str] = ()) -> tuple[int, str, str]:
    """Exit code, standard output, and standard error without the lines about links in the chart."""
    files = [part for file in values for part in ("--values", file)]
    settings = [part for option in options for part in ("--set", option)]
    done = ran(executable("helm"), *arguments, CHART, *files, *settings, cwd=ROOT)
    said = [line for line in done.stderr.splitlines() if "found symbolic link in path" not in line]
    return done.returncode, done.stdout, "\n".join(said)


def parsed(text: str) -> Manifests:
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each}


def rendered(*options: str, values: Iterable[Path] = ()) -> Manifests:
    """A release with the chart's name, whose objects are therefore called the same."""
    code, text, said = helm("template", NAME, "--namespace=tasks", values=values, options=options)
    assert (code, said) == (0, "")
    return parsed(text)


def kustomized(folder: Path) -> Manifests:
    """Base and components, in a copy where the components are not commented out."""
    for name in ("deploy/kubernetes", "grafana/dashboards"):
        shutil.copytree(ROOT / name, folder / name)
    file = folder / "deploy/kubernetes/kustomization.yaml"
    file.write_text(file.read_text().replace("# components:", "components:"))
    done = ran(executable("kubectl"), "kustomize", file.parent)
    assert (done.returncode, done.stderr) == (0, "")
    (hashed,) = [
        name
        for (kind, name), manifest in parsed(done.stdout).items()
        if kind == "ConfigMap" and "API_BASE_URL" in manifest["data"]
    ]
    return parsed(done.stdout.replace(hashed, NAME))


def plain(value: Any) -> Any:
    """A rendered object without labels and annotations that only Helm adds, and without its namespace."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: plain(each) for key, each in value.items() if key not in ADDED}
    if kept.get("namespace") == "tasks":
        del kept["namespace"]
    if kept.get("annotations") == {}:
        del kept["annotations"]
    return kept


def the(kind: str, manifests: Manifests) -> Manifest:
    (found,) = [manifest for (each, _), manifest in manifests.items() if each == kind]
    return found


@pytest.mark.parametrize("values", [None, *VALUES])
def test_kubernetes_takes_what_is_rendered(values: str | None, tmp_path: Path) -> None:
    """Helm's linter has no warning; each object passes the schemas, save those of the operator, which have none."""
    chosen = [VALUES[values]] if values else []
    code, text, said = helm("lint", "--strict", values=chosen)
    assert code == 0, text + said
    files = []
    for (kind, name), manifest in rendered(values=chosen).items():
        assert manifest["metadata"]["namespace"] == "tasks"
        if kind not in CUSTOM:
            files.append(tmp_path / f"{kind}-{name}.yaml")
            files[-1].write_text(yaml.safe_dump(manifest))
    assert len(files) >= 4
    for version in VERSIONS:
        done = kubernetes_validate(version, *files)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (done.stdout + done.stderr).count(f"against version {version}") == len(files)


def test_chart_and_kustomize_deploy_the_same(tmp_path: Path) -> None:
    """By default the chart renders what kustomize makes: rights, environment, probes, limits, alerts and boards."""
    chart, folder = rendered(*COMPONENTS), kustomized(tmp_path)
    assert chart.keys() == folder.keys()
    assert len(folder) >= 14
    for key, manifest in folder.items():
        assert plain(chart[key]) == manifest, key


def test_each_value_arrives() -> None:
    """What is set is rendered, in place of the default; numbers are not written as floats."""
    made = rendered(values=[VALUES["everything"]])
    assert the("ServiceAccount", made)["metadata"]["name"] == "own"
    assert {name for kind, name in made if kind in {"StatefulSet", "Service", "ServiceMonitor", "NetworkPolicy"}} == {
        "worker"
    }
    assert made["ConfigMap", "worker"]["data"] == {
        "ALLOW_INSECURE_HTTP": "true",
        "API_BASE_URL": "https://api.example.com",
        "MODEL_ALIASES": '{"a": "b"}',
        "OAUTH2_CLIENT_ID": "your_client_id",
        "ORY_PROJECT_SLUG": "your-project-slug",
        "OUTBOX_MAX_BYTES": "1073741824",
        "RETRY_BACKOFF_FACTOR": "1.5",
        "SHUTDOWN_GRACE_SECONDS": "40",
        "TASK_SOURCE": "/profiles/own.toml",
    }
    workload = the("StatefulSet", made)["spec"]
    pod = workload["template"]["spec"]
    container = pod["containers"][0]
    assert workload["replicas"] == 3
    assert container["image"] == f"registry.example.com/team/{NAME}@sha256:{'a' * 64}"
    assert pod["terminationGracePeriodSeconds"] == 45
    environment = {each["name"]: each.get("value") for each in container["env"]}
    secrets = f"/run/secrets/{NAME}"
    assert {name: value for name, value in environment.items() if name.endswith("_FILE")} == {
        "CLIENT_CERT_FILE": f"{secrets}/tls.crt",
        "OPENAI_API_KEY_FILE": f"{secrets}/model.key",
    }
    assert "INSTANCE_ID" in environment
    assert [next(iter(each.values()))["name"] for each in container["envFrom"]] == ["worker", "more"]
    assert [volume["name"] for volume in pod["volumes"]] == ["secrets", "tmp", "profiles"]
    assert pod["volumes"][0]["secret"]["secretName"] == "elsewhere"
    assert pod["securityContext"].items() >= {"runAsUser": 10001, "supplementalGroups": [2000]}.items()
    assert pod.keys() >= {"imagePullSecrets", "nodeSelector", "tolerations", "topologySpreadConstraints", "affinity"}
    (claim,) = workload["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    egress = the("NetworkPolicy", made)["spec"]["egress"]
    assert [rule["ports"][-1]["port"] for rule in egress] == [53, 8000, 3000, 5432]
    assert the("ServiceMonitor", made)["metadata"]["labels"]["release"] == "monitoring"


def test_what_is_switched_off_is_not_rendered() -> None:
    """Without its parts it is a workload, its service and its settings; a secret of the release is made and mounted."""
    made = rendered(values=[VALUES["little"]])
    assert sorted(kind for kind, _ in made) == ["ConfigMap", "Secret", "Service", "StatefulSet"]
    assert made["Secret", NAME]["stringData"] == {
        "database-url": 'postgresql://tasks:p$w"d@db:5432/tasks',
        "openai-api-key": "key",
    }
    pod = the("StatefulSet", made)["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "default"
    files = {each["name"]: each["value"] for each in pod["containers"][0]["env"] if each["name"].endswith("_FILE")}
    assert {Path(path).name for path in files.values()} == made["Secret", NAME]["stringData"].keys()
    closed = rendered(values=[VALUES["closed"]])
    assert [each["name"] for each in the("StatefulSet", closed)["spec"]["template"]["spec"]["volumes"]] == ["tmp"]
    policy = the("NetworkPolicy", closed)["spec"]
    assert (policy["policyTypes"], policy.get("ingress"), len(policy["egress"])) == (["Ingress", "Egress"], None, 1)


def test_a_changed_setting_or_secret_restarts_the_pod() -> None:
    """The checksum in the pod's annotations changes with either, and with nothing else."""

    def checksum(*options: str) -> str:
        template = the("StatefulSet", rendered(*options))["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/configuration"]
        return found

    options = ["replicas=0", "settings.CONCURRENCY_LIMIT=8", "secret.values.API_SECRET=x", "secret.values.API_SECRET=y"]
    sums = [checksum(), *map(checksum, options)]
    assert sums[0] == sums[1]
    assert len({*sums}) == len(sums) - 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["replicas=2"], "claims of TASK_SOURCE=aletheia are not exclusive"),
        (["settings.METRICS_PORT=9"], "settings.METRICS_PORT cannot be changed"),
        (["settings.OPENAI_API_KEY=sk"], "settings.OPENAI_API_KEY is a secret"),
        (["secret.existingSecret=a", "secret.values.API_SECRET=b"], "secret.existingSecret and secret.values are both"),
        (["podMonitor.enabled=true", "serviceMonitor.enabled=true"], "podMonitor and serviceMonitor are both enabled"),
        (["networkPolicy.egress.https=false"], "networkPolicy.enabled without a way out"),
        (["replica=2"], "additional properties 'replica' not allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictory_values_are_refused(options: list[str], told: str) -> None:
    """Nothing is rendered; one sentence names the values."""
    code, text, said = helm("template", NAME, options=options)
    assert (code, text) == (1, "")
    assert told in said


def test_a_package_of_the_chart_is_complete(tmp_path: Path) -> None:
    """What the links lead to is inside, so that a published chart needs no checkout."""
    code, _, said = helm("package", f"--destination={tmp_path}")
    assert (code, said) == (0, "")
    (package,) = tmp_path.glob("*.tgz")
    done = ran(
        executable("helm"), "template", NAME, package, "--namespace=tasks", *(f"--set={each}" for each in COMPONENTS)
    )
    assert parsed(done.stdout) == rendered(*COMPONENTS)
