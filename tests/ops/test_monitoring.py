"""Prometheus and the boards as an operator meets them: the shipped files, the real programs, a run with faults."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ran
from tests.ops.incident import Asked, Report, questions
from tests.ops.monitoring import ALERTS, CASES, GROUPS, MONITORING, RULES, families, rule_tests
from tests.ops.prometheus import DAEMON, configuration, executable

#: what this run cannot provoke, so that its line stays at 0: panels whose queries are right all the same
AT_REST = {
    "overview: Quarantined or stuck: tasks",
    "overview: Results lost in a day: lost",
    "process: Log lines dropped: {{instance}}",
    "process: Quarantined tasks: quarantined",
    "process: Recovered and lost: lost",
    "process: Results lost: lost",
    "process: Slots in use: stuck",
    "process: State: paused",
    "process: Stuck tasks: stuck",
    "process: What it holds: quarantined",
    "task-api: Polls, by how they ended: push connected",
}

each_alert = pytest.mark.parametrize("alert", CASES)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return ran(executable("promtool"), *arguments)


def judged(alert: str, rules: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The cases of an alert against these rules."""
    (folder / "cases.yml").write_text(rule_tests(alert, rules))
    return promtool("test", "rules", folder / "cases.yml")


# --- the shipped files


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    """promtool accepts what is shipped, and the rules without a complaint of its linter."""
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(configuration({DAEMON: 1, "prometheus": 2})))
    checked = promtool("check", "config", config)
    assert checked.returncode == 0, checked.stderr
    linted = promtool("check", "rules", "--lint=all", "--lint-fatal", MONITORING / "rules.yml")
    assert linted.returncode == 0, linted.stderr


@pytest.mark.parametrize("example", [False, True], ids=["shipped", "example"])
def test_alertmanager_takes_its_configuration(example: bool, tmp_path: Path) -> None:
    """amtool accepts what is shipped, and the examples of receivers when they are not commented out."""
    head, receivers, rest = re.split(r"(?s)(\nreceivers:.*?)(?=\n\n)", (MONITORING / "alertmanager.yml").read_text())
    config = tmp_path / "alertmanager.yml"
    config.write_text(head + (receivers.replace("    # ", "    ") if example else receivers) + rest)
    configured = yaml.safe_load(config.read_text())["receivers"]
    assert [len(receiver) for receiver in configured] == [3 if example else 1]
    checked = ran(executable("amtool"), "check-config", config)
    assert checked.returncode == 0, checked.stderr


@each_alert
def test_an_alert_fires_when_it_should_and_only_then(alert: str, tmp_path: Path) -> None:
    """The cases of each alert hold in Prometheus's own test bench."""
    done = judged(alert, MONITORING / "rules.yml", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def mutants(name: str) -> dict[str, dict[str, Any]]:
    """The alert as it must not be: each breaks one of its cases."""
    rule = ALERTS[name]
    broken = {"always": rule | {"expr": "vector(1)"}, "never": rule | {"expr": "vector(1) < 0"}}
    if "for" in rule:
        broken["at once"] = {key: value for key, value in rule.items() if key != "for"}
    return broken


@each_alert
def test_a_broken_alert_is_convicted(alert: str, tmp_path: Path) -> None:
    """An alert that always fires, never fires or does not wait fails its cases: they tell these apart."""
    for kind, mutant in mutants(alert).items():
        groups = [
            group | {"rules": [mutant if rule.get("alert") == alert else rule for rule in group["rules"]]}
            for group in GROUPS
        ]
        (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
        done = judged(alert, tmp_path / "rules.yml", tmp_path)
        assert done.returncode != 0, kind
        assert "exp:" in done.stdout + done.stderr, done.stderr


# --- the run


def test_the_daemon_is_scraped(report: Report) -> None:
    """The target is up under the job that the rules name."""
    target = next(target for target in report.targets if target["labels"]["job"] == DAEMON)
    assert (target["health"], target["lastError"]) == ("up", "")


def test_the_rules_are_loaded_and_well(report: Report) -> None:
    """Every shipped rule is evaluated without an error."""
    shipped = {rule.get("alert") or rule["record"] for rule in RULES}
    assert {rule["name"] for rule in report.rules} == shipped
    assert {rule["name"]: rule.get("lastError", "") for rule in report.rules if rule["health"] != "ok"} == {}


def test_the_catalogue_arrives(report: Report) -> None:
    """Each metric that the daemon knows is stored by Prometheus, from the start and under its name."""
    names = {sample.name for family in families(task_types=["text_embedding"]) for sample in family.samples}
    assert len(names) > 60
    assert names - report.metrics == set()


def test_the_faults_of_the_run_raise_their_alerts(report: Report) -> None:
    """A refused result, a refused API key and a refused client fire within the run; nothing cries that all is lost."""
    expected = {"AiTaskProcessorDeadLetters", "AiTaskProcessorModelRefused", "AiTaskProcessorClientRejected"}
    assert report.fired == expected


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.name)
def test_a_panel_has_an_answer(question: Asked, report: Report) -> None:
    """The query of a panel finds numbers after a run in which everything went wrong once."""
    answer = next(one for one in report.asked if one.name == question.name and one.query == question.query)
    assert answer.series, answer.query


def test_what_never_moves_is_known(report: Report, tell: Callable[[str], None]) -> None:
    """A line that stays at 0 through all this would stay there for a wrong query, too: the exceptions are named."""
    flat = {one.name for one in report.asked if not any(value for s in one.series for _, value in s["points"])}
    assert flat == AT_REST
    answered = sum(bool(one.series) for one in report.asked)
    tell(f"monitoring: {answered} of {len(report.asked)} queries of the boards answered, {len(flat)} at rest")
    tell(f"monitoring: {len(CASES)} alerts with firing and silent cases, {len(report.fired)} fired in the run")
