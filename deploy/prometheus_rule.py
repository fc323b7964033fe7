"""Builds deploy/kubernetes/alerts/prometheusrule.yaml, the rules of monitoring/rules.yml for the Prometheus operator.

``python -m deploy.prometheus_rule`` writes it. A test compares both.
"""

from pathlib import Path
from textwrap import indent

FOLDER = Path(__file__).parent
RULES = FOLDER.parent / "monitoring/rules.yml"
MANIFEST = FOLDER / "kubernetes/alerts/prometheusrule.yaml"
HEAD = """\
# Written by python -m deploy.prometheus_rule from monitoring/rules.yml: do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ai-task-processor
  labels:
    app.kubernetes.io/name: ai-task-processor
spec:
"""


def manifest() -> str:
    return HEAD + indent(RULES.read_text(), "  ")


if __name__ == "__main__":
    MANIFEST.write_text(manifest())
