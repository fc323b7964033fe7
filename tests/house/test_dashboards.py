"""What dashboards and alerts ask for exists: names and labels are compared with the daemon's own registry."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ai_task_processor.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring" / "rules.yml"
DASHBOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))

KEYWORDS = {"and", "or", "unless", "bool", "offset"}
TARGET_LABELS = {"job", "instance"}

Labels = Mapping[str, set[str]]


def registry() -> dict[str, Labels]:
    """Every series the daemon exposes, with its labels and their values; ``up`` comes from Prometheus."""
    found: dict[str, dict[str, set[str]]] = {"up": {}}
    text, _ = Metrics(version="0", provider="openai").exposition()
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return dict(found)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def rule_queries() -> Iterator[str]:
    return (rule["expr"] for rule in rules())


def dashboard_queries() -> Iterator[str]:
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        yield from (target["expr"] for panel in board["panels"] for target in panel.get("targets", ()))
        yield from (note["expr"] for note in board["annotations"]["list"])
        for variable in board["templating"]["list"]:
            yield variable["query"]["query"].removeprefix("label_values(").partition(",")[0]


def faults(query: str, known: Mapping[str, Labels]) -> list[str]:
    """Names, labels and label values in a query that no series has."""
    rest = re.sub(r"\[[^\]]*\]", "", query)  # ranges
    told = []
    selectors = re.findall(r"([\w:]+)\{([^}]*)\}", rest)
    rest = re.sub(r"\{[^}]*\}", "", rest)
    grouped = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", rest)
    rest = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", "", rest)
    names = set(re.findall(r"(?<![\w.$])[A-Za-z_:][\w:]*(?![\w:]*\s*\()", rest)) - KEYWORDS
    if not names:
        told.append("no metric at all")
    told += [f"no metric {name}" for name in names if name not in known]
    for name, inside in selectors:
        for label, operator, value in re.findall(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"", inside):
            if label in TARGET_LABELS or name not in known:
                continue
            if label not in known[name]:
                told.append(f"no label {label} on {name}")
            elif operator in {"=", "!="} and value not in known[name][label]:
                told.append(f"no {label}={value} on {name}")
    allowed = TARGET_LABELS.union(*(known.get(name, {}) for name in names))
    told += [f"no label {label}" for group in grouped for label in re.findall(r"\w+", group) if label not in allowed]
    return sorted(told)


def test_rules_ask_for_what_exists() -> None:
    """Every metric, label and label value in the rules is exposed by the daemon or recorded by a rule."""
    known = registry() | {rule["record"]: {} for rule in rules() if "record" in rule}
    queries = list(rule_queries())
    assert len(queries) >= 10
    assert {query: told for query in queries if (told := faults(query, known))} == {}


def test_dashboards_ask_for_what_exists() -> None:
    """Every metric, label and label value in the dashboards is exposed by the daemon."""
    known = registry() | {rule["record"]: {} for rule in rules() if "record" in rule}
    queries = list(dashboard_queries())
    assert len(queries) >= 20
    assert {query: told for query in queries if (told := faults(query, known))} == {}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("rate(a_total[5m]) > 0", []),
        ('sum by (kind) (rate(a_total{kind="x", job="j"}[$__rate_interval])) > 1e3 * 0.5 or up offset 1m', []),
        ("rate(a_totl[5m])", ["no metric a_totl"]),
        ("up and on (job) b", ["no metric b"]),
        ('a_total{kin="x"}', ["no label kin on a_total"]),
        ('a_total{kind="z"}', ["no kind=z on a_total"]),
        ("sum by (sort) (a_total)", ["no label sort"]),
        ("time() - 5", ["no metric at all"]),
    ],
)
def test_a_misspelled_name_is_noticed(query: str, told: list[str]) -> None:
    """The comparison sees a wrong metric, label or value, and accepts a right one."""
    assert faults(query, {"up": {}, "a_total": {"kind": {"x", "y"}}}) == told


def test_every_alert_tells_what_to_do() -> None:
    """An alert has a severity, a summary and a description: the person it wakes has nothing else."""
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert len(alerts) >= 10
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert set(rule["annotations"]) == {"summary", "description"}, name


def test_every_panel_explains_itself() -> None:
    """Panels have a description, ids of their own, and the data source that is provisioned."""
    provisioned = yaml.safe_load((ROOT / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uid = provisioned["datasources"][0]["uid"]
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        for panel in (panel for panel in board["panels"] if panel["type"] != "row"):
            assert panel["description"], panel["title"]
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert {source["uid"] for source in sources} == {uid}, panel["title"]
