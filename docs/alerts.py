"""The runbooks in ``operations.md``, from the annotations of the alerts in ``monitoring/rules.yml``."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from docs.generated import Part, table

RULES = Path(__file__).parents[1] / "monitoring/rules.yml"


def alerts() -> list[Mapping[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def parts(_page: str) -> Iterator[Part]:
    rules = sorted(alerts(), key=lambda rule: str(rule["labels"]["severity"]))
    yield "alerts", table("alert", "severity", "what it says", rows=(_row(rule) for rule in rules))
    yield "runbooks", (line for rule in rules for line in _runbook(rule))


def _row(rule: Mapping[str, Any]) -> Iterator[str]:
    name = rule["alert"]
    yield f"[`{name}`](#{name.lower()})"
    yield rule["labels"]["severity"]
    # What Prometheus fills in.
    yield re.sub(r"\{\{ \$(?:labels\.)?(\w+)[^}]*\}\}", lambda found: f"*{found[1]}*", rule["annotations"]["summary"])


def _runbook(rule: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"### {rule['alert']}", "")
    lasting = f", after {rule['for']}" if "for" in rule else ""
    yield from (f"{rule['labels']['severity'].capitalize()}{lasting}. {rule['annotations']['description']}", "")
    yield from (*rule["annotations"]["runbook"].splitlines(), "")
