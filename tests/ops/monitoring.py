"""What Prometheus is given, as tests read it: the metrics of the daemon, the rules, and cases for each alert."""

from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat.aletheia.processor import AletheiaProcessor
from ai_task_processor.processors.chat.aletheia.wikidata import Wikidata
from ai_task_processor.processors.search.brave import Brave
from ai_task_processor.processors.search.processor import SearchProcessor
from tests.helpers import services

MONITORING = Path(__file__).parents[2] / "monitoring"
GROUPS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
#: cases by alert
CASES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "alerts.yml").read_text())
#: what a case says beside its metrics
WORDS = {"labels", "fires", "silent"}
TARGET = 'job="ai-task-processor", instance="one"'


def families(**options: Any) -> list[Metric]:
    """Everything the daemon exposes, with prices, and the metrics of its processors' remotes."""
    remotes = (*AletheiaProcessor.services, *SearchProcessor.services)
    metrics = Metrics(version="0", provider="openai", currency="USD", services=remotes, **options)
    built = services({}, AletheiaProcessor, SearchProcessor, metrics=metrics)
    Wikidata.build(built, "http://localhost")
    Brave(built)
    text, _ = metrics.exposition()
    return list(text_string_to_metric_families(text.decode()))


def _series(metric: str) -> str:
    """The metric with the labels of the scraped daemon, unless it names another job."""
    name, _, labels = metric.removesuffix("}").partition("{")
    own = labels if "job=" in labels else ", ".join(filter(None, (labels, TARGET)))
    return f"{name}{{{own}}}"


def rule_tests(alert: str, rules: Path) -> str:
    """A file for ``promtool test rules``: each case of an alert, with the moments at which it fires or is silent."""
    about, tests = CASES[alert], []
    firing, interval = f'alertname="{alert}", alertstate="firing"', about.get("interval", "15s")
    for name, case in about["cases"].items():
        fired = {"labels": f"ALERTS{{{firing}, {case.get('labels', about['labels'])}}}", "value": 1}
        expected = [(at, [fired]) for at in case.get("fires", ())] + [(at, []) for at in case.get("silent", ())]
        courses = {_series(metric): values for metric, values in case.items() if metric not in WORDS}
        asked = [{"expr": f"ALERTS{{{firing}}}", "eval_time": at, "exp_samples": samples} for at, samples in expected]
        given = [{"series": series, "values": values} for series, values in courses.items()]
        tests.append({"name": name, "interval": interval, "input_series": given, "promql_expr_test": asked})
    return yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": interval, "tests": tests})
