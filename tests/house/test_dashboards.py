"""What dashboards and alerts ask for exists, and what exists is shown: the daemon's own registry is the measure."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ai_task_processor.ops.metrics import PREFIX, Metrics
from grafana.boards import boards

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring" / "rules.yml"
DASHBOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
CASES = ROOT / "tests" / "ops" / "alerts"

KEYWORDS = {"and", "or", "unless", "bool", "offset"}
TARGET_LABELS = {"job", "instance"}
#: what Grafana fills in by itself
BUILT_IN = {"__rate_interval", "__range", "__url_time_range"}

Labels = Mapping[str, set[str]]


def registry() -> dict[str, Labels]:
    """Every series the daemon exposes, with its labels and their values; ``up`` and ``ALERTS`` come from Prometheus."""
    names = {rule["alert"] for rule in rules() if "alert" in rule}
    alerts = {"alertname": names, "alertstate": {"pending", "firing"}, "severity": {"critical", "warning"}}
    found: dict[str, dict[str, set[str]]] = {"up": {}, "ALERTS": alerts}
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
        for variable in (variable for variable in board["templating"]["list"] if variable["type"] == "query"):
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
            elif operator in {"=", "!="} or re.fullmatch(r"[\w|-]+", value):
                wanted = {value} if operator in {"=", "!="} else set(value.split("|"))
                told += [f"no {label}={missing} on {name}" for missing in wanted - known[name][label]]
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
        ('a_total{kind=~"x|z"}', ["no kind=z on a_total"]),
        ('a_total{kind=~"x|y"} or a_total{kind!~"[ab].*"}', []),
        ("sum by (sort) (a_total)", ["no label sort"]),
        ("time() - 5", ["no metric at all"]),
    ],
)
def test_a_misspelled_name_is_noticed(query: str, told: list[str]) -> None:
    """The comparison sees a wrong metric, label or value, and accepts a right one."""
    assert faults(query, {"up": {}, "a_total": {"kind": {"x", "y"}}}) == told


def test_every_metric_is_on_a_board() -> None:
    """A metric that no board shows is one that nobody looks at: it belongs into ``grafana/boards.py``."""
    shown = {name for query in dashboard_queries() for name in re.findall(rf"\b{PREFIX}\w+", query)}
    text, _ = Metrics(version="0", provider="openai").exposition()
    shown.add(f"{PREFIX}model_request_rate")  # the former name of the pace, until the next release
    left_out = []
    for family in text_string_to_metric_families(text.decode()):
        names = {sample.name for sample in family.samples}
        if family.name.startswith(PREFIX) and not names & shown:
            left_out.append(family.name)
    assert left_out == []


def test_the_boards_are_built() -> None:
    """The files are what ``python -m grafana.boards`` writes: nobody's edit of the JSON is lost with the next."""
    written = {file.name: file.read_text() for file in DASHBOARDS}
    assert written.keys() == boards().keys()
    assert [name for name, text in boards().items() if written[name] != text] == []


def test_every_variable_is_known() -> None:
    """What a board writes with a dollar is a variable of its own or one of Grafana's."""
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        own = {variable["name"] for variable in board["templating"]["list"]}
        assert set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"]))) <= own | BUILT_IN, file.name


def test_links_lead_to_boards() -> None:
    """Each detail that a panel leads to is the uid of a board."""
    uids = {json.loads(file.read_text())["uid"] for file in DASHBOARDS}
    linked = {uid for file in DASHBOARDS for uid in re.findall(r'"/d/([\w-]+)\?', file.read_text())}
    assert linked
    assert linked <= uids


def labels_left(query: str, known: Mapping[str, Labels]) -> set[str]:
    """The labels that the answer to a query may have: those it is grouped by, or else those of its metrics."""
    groups = re.findall(r"\bby\s*\(([^)]*)\)", query)
    if groups:
        return {label for group in groups for label in re.findall(r"\w+", group)} - {"le"}
    if re.search(r"\b(sum|min|max|count)\s*\(", query):
        return set()
    return TARGET_LABELS.union(*(labels for name, labels in known.items() if re.search(rf"\b{name}\b", query)))


def test_texts_name_labels_that_are_there() -> None:
    """A label in a legend or in the words of an alert would be empty if the query does not keep it."""
    known = registry() | {rule["record"]: {"job": set()} for rule in rules() if "record" in rule}
    told = [
        (rule["expr"], text, r"\$labels\.(\w+)")
        for rule in rules()
        if "alert" in rule
        for text in rule["annotations"].values()
    ]
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            told += [(target["expr"], target["legendFormat"], r"{{(\w+)}}") for target in panel.get("targets", ())]
    named = [(query, text, set(re.findall(pattern, text))) for query, text, pattern in told]
    assert len([labels for _, _, labels in named if labels]) >= 20
    assert [(query, text) for query, text, labels in named if not labels <= labels_left(query, known)] == []


def test_every_alert_tells_what_to_do() -> None:
    """An alert has a severity, a summary and a description: the person it wakes has nothing else."""
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert len(alerts) >= 10
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert set(rule["annotations"]) == {"summary", "description"}, name


def test_every_alert_has_cases() -> None:
    """``promtool test rules`` has a file for each alert, with a case in which it fires and one in which it does not."""
    files = {file.stem: yaml.safe_load(file.read_text()) for file in CASES.glob("*.yml")}
    assert files.keys() == {rule["alert"] for rule in rules() if "alert" in rule}
    for name, file in files.items():
        expected = [test for case in file["tests"] for test in case["promql_expr_test"]]
        assert {f'ALERTS{{alertname="{name}", alertstate="firing"}}'} == {test["expr"] for test in expected}, name
        assert {bool(test["exp_samples"]) for test in expected} == {True, False}, name


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
