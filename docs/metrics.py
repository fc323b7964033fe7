"""The catalogue of metrics in ``metrics.md``, from the registry of a daemon."""

from collections.abc import Iterator

from prometheus_client import Metric

from docs.generated import Part, table
from tests.ops.monitoring import families

#: labels whose values the settings decide
OPEN = {"model": "a model", "task_type": "a task type", "provider": "the provider"}


def parts(_page: str) -> Iterator[Part]:
    rows = (_row(family) for family in sorted(families(), key=lambda family: family.name))
    yield "metrics", table("metric", "type", "labels", "meaning", rows=rows)


def _row(family: Metric) -> Iterator[str]:
    yield f"`{family.name}{'_total' if family.type == 'counter' else ''}`"
    yield family.type
    labels: dict[str, list[str]] = {}
    for sample in family.samples:
        for name, value in sample.labels.items():
            labels.setdefault(name, []).append(value)
    yield "; ".join(_label(name, list(dict.fromkeys(values))) for name, values in labels.items() if name != "le")
    yield family.documentation


def _label(name: str, values: list[str]) -> str:
    return f"`{name}`: {OPEN.get(name) or ', '.join(f'`{value}`' for value in values)}"
