"""The Helm chart agrees with the version, the settings and its own schema. tests/ops renders it with Helm."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ai_task_processor import __version__
from ai_task_processor.core.plugins import built_in_groups
from ai_task_processor.core.variables import variables

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/ai-task-processor"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
CHECKS = (CHART / "templates/checks.yaml").read_text()


def test_the_chart_is_that_of_this_version() -> None:
    """Chart and image have the version of the package."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert VALUES["image"] == {"repository": chart["name"], "tag": "", "digest": "", "pullPolicy": "IfNotPresent"}


def test_the_chart_knows_which_settings_are_secrets() -> None:
    """None of them is accepted where a ConfigMap would show it."""
    (listed,) = [line for line in CHECKS.splitlines() if "API_SECRET" in line]
    secret = {variable.name for variable in variables(built_in_groups()) if variable.secret}
    assert set(re.findall(r'"([A-Z_0-9]+)"', listed)) == secret


def test_alerts_and_boards_are_not_copies() -> None:
    """Links lead to the files that Prometheus and Grafana read; Helm reads through them."""
    assert (CHART / "files/rules.yml").resolve() == ROOT / "monitoring/rules.yml"
    # A link to the folder would hide the folder itself from whoever visits a folder once, as hatchling does.
    boards = {*(ROOT / "grafana/dashboards").glob("*.json")}
    assert {path.resolve() for path in (CHART / "files/dashboards").iterdir()} == boards


def refused(**values: Any) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(VALUES | values)]


def test_the_schema_describes_the_values() -> None:
    """It is a schema, has every value of values.yaml, and takes their defaults."""
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"].keys() == {*VALUES, "global"}
    assert refused() == []


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ({"replica": 1}, "$"),
        ({"replicas": "1"}, "$.replicas"),
        ({"image": {"digest": "sha256:1"}}, "$.image.digest"),
        ({"settings": {"log-level": "x"}}, "$.settings"),
        ({"settings": {"MODEL_ALIASES": {"a": "b"}}}, "$.settings.MODEL_ALIASES"),
        ({"secret": {"values": {"API_SECRET": ""}}}, "$.secret.values.API_SECRET"),
        ({"persistence": {"size": "2 GB"}}, "$.persistence.size"),
        ({"networkPolicy": {"egress": {"remotes": {"api": {"namespace": "x"}}}}}, "$.networkPolicy.egress.remotes.api"),
        ({"podMonitor": {"intervall": "15s"}}, "$.podMonitor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_refused(values: dict[str, Any], at: str) -> None:
    """Unknown names, wrong types and values that Kubernetes would refuse are found at their place."""
    assert refused(**values) == [at]
