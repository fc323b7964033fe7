"""What dashboards and alerts ask for exists, and what exists is shown: the daemon's own registry is the measure."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_task_processor.ops.metric_families import PREFIX
from grafana.boards import boards
from tests.ops.monitoring import ALERTS, CASES, RULES, families

ROOT = Path(__file__).parents[2]
TEXTS = {file.name: file.read_text() for file in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))}
BOARDS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in TEXTS.items()}

KEYWORDS = {"and", "or", "unless", "bool", "offset"}
TARGET_LABELS = {"job", "instance"}
#: what Grafana fills in by itself
BUILT_IN = {"__rate_interval", "__range", "__url_time_range"}

Labels = Mapping[str, set[str]]


def registry() -> dict[str, Labels]:
    """Every series the daemon exposes, with its labels and their values, and those that Prometheus makes itself."""
    alerts = {"alertname": set(ALERTS), "alertstate": {"pending", "firing"}, "severity": {"critical", "warning"}}
    found: dict[str, dict[str, set[str]]] = {"up": {}, "ALERTS": alerts}
    for sample in (sample for family in families() for sample in family.samples):
        labels = found.setdefault(sample.name, {})
        for name, value in sample.labels.items():
            labels.setdefault(name, set()).add(value)
    return {**found, **{rule["record"]: {"job": set()} for rule in RULES if "record" in rule}}


def rule_queries() -> Iterator[str]:
    return (rule["expr"] for rule in RULES)


def dashboard_queries() -> Iterator[str]:
    for board in BOARDS.values():
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


@pytest.mark.parametrize(("queries", "least"), [(rule_queries, 10), (dashboard_queries, 20)], ids=["rules", "boards"])
def test_what_is_asked_for_exists(queries: Callable[[], Iterator[str]], least: int) -> None:
    """Every metric, label and label value is exposed by the daemon or recorded by a rule."""
    asked, known = list(queries()), registry()
    assert len(asked) >= least
    assert {query: told for query in asked if (told := faults(query, known))} == {}


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
    shown.add(f"{PREFIX}model_request_rate")  # the former name of the pace, until the next release
    own = (family for family in families() if family.name.startswith(PREFIX))
    assert [family.name for family in own if shown.isdisjoint(sample.name for sample in family.samples)] == []


def test_the_boards_are_built() -> None:
    """The files are what ``python -m grafana.boards`` writes: nobody's edit of the JSON is lost with the next."""
    assert TEXTS.keys() == boards().keys()
    assert [name for name, text in boards().items() if TEXTS[name] != text] == []


def test_every_variable_is_known() -> None:
    """What a board writes with a dollar is a variable of its own or one of Grafana's."""
    for name, board in BOARDS.items():
        own = {variable["name"] for variable in board["templating"]["list"]}
        assert set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"]))) <= own | BUILT_IN, name


def test_links_lead_to_boards() -> None:
    """Each detail that a panel leads to is the uid of a board."""
    linked = {uid for text in TEXTS.values() for uid in re.findall(r'"/d/([\w-]+)\?', text)}
    assert linked
    assert linked <= {board["uid"] for board in BOARDS.values()}


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
    known = registry()
    told = [
        (rule["expr"], text, re.findall(r"\$labels\.(\w+)", text))
        for rule in ALERTS.values()
        for text in rule["annotations"].values()
    ]
    targets = [one for board in BOARDS.values() for panel in board["panels"] for one in panel.get("targets", ())]
    told += [(one["expr"], one["legendFormat"], re.findall(r"{{(\w+)}}", one["legendFormat"])) for one in targets]
    assert len([labels for _, _, labels in told if labels]) >= 20
    assert [(query, text) for query, text, labels in told if not labels_left(query, known).issuperset(labels)] == []


def test_every_alert_tells_what_to_do() -> None:
    """An alert has a severity, a summary, a description and a runbook: the person it wakes has nothing else."""
    assert len(ALERTS) >= 10
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name


def test_every_alert_has_cases() -> None:
    """``tests/ops/alerts.yml`` has for each alert a case in which it fires and one in which it does not."""
    assert CASES.keys() == ALERTS.keys()
    for name, about in CASES.items():
        assert {"fires", "silent"} <= {word for case in about["cases"].values() for word in case if case[word]}, name


def test_every_panel_explains_itself() -> None:
    """Panels have a description, ids of their own, and the data source that is provisioned."""
    provisioned = yaml.safe_load((ROOT / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uid = provisioned["datasources"][0]["uid"]
    for board in BOARDS.values():
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        for panel in (panel for panel in board["panels"] if panel["type"] != "row"):
            assert panel["description"], panel["title"]
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert {source["uid"] for source in sources} == {uid}, panel["title"]
