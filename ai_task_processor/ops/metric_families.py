"""Metrics with closed sets of labels, and the registry that they are in. The library is imported here alone."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as with_exemplars

from ai_task_processor.ops import tracing

__all__ = ["COARSE_S", "FEW_TYPES", "LATENCY_S", "OTHER", "PREFIX", "Axis", "Counter", "Families", "Family", "Gauge",
           "Histogram", "printable", "usable"]  # fmt: skip

PREFIX = "ai_task_processor_"
OTHER = "other"

# From 5 ms to one hour: a model call may take minutes, a task may wait much longer. Each bound costs a series for each
# label value, of 700 in all: with more types than ``FEW_TYPES`` the histograms by type have the coarse bounds.
LATENCY_S = (0.005, 0.025, 0.1, 0.25, 1, 2.5, 10, 30, 120, 600, 3600)
COARSE_S = (0.005, 0.1, 1, 10, 120, 3600)
FEW_TYPES = 2

_M = TypeVar("_M", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class Axis:
    """Labels that vary together: a caller's key, and the label values that it stands for."""

    names: tuple[str, ...]
    values: Mapping[Hashable, tuple[str, ...]]

    @classmethod
    def of(cls, name: str, keys: Iterable[str], *, other: bool = True) -> "Axis":
        return cls((name,), {key: (printable(key),) for key in (*keys, *([OTHER] if other else []))})


class Family(Generic[_M]):
    """A metric with labels, its children made once; a key outside its axis means ``other``."""

    def __init__(self, make: Callable[..., _M], *axes: Axis) -> None:
        parent: _M = make(labelnames=[name for axis in axes for name in axis.names])
        self._axes = axes
        self._children: dict[tuple[Hashable, ...], _M] = {
            keys: parent.labels(*(v for axis, key in zip(axes, keys, strict=True) for v in axis.values[key]))
            for keys in product(*(axis.values for axis in axes))
        }

    def __call__(self, *keys: Hashable) -> _M:
        child = self._children.get(keys)
        if child is None:
            known = (k if k in axis.values else OTHER for k, axis in zip(keys, self._axes, strict=True))
            child = self._children[tuple(known)]
        return child


class _Registry(CollectorRegistry):
    """Without the ``_created`` series: the library can only switch them off for the whole process."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


def printable(label: str) -> str:
    """A configured name as a label: one lone surrogate would break every scrape."""
    return label.encode("utf-8", "replace").decode()[:128]


def usable(value: float) -> float:
    """0 for a negative, huge or NaN value: a wrong value of a remote must not raise here or corrupt a sum for ever."""
    return value if 0 < value < 1e15 else 0.0


class Families:
    """A registry, and the metrics in it. The parts of ``Metrics`` are made of this."""

    def __init__(self) -> None:
        self._registry = _Registry()
        ProcessCollector(registry=self._registry)

    def info(self, name: str, text: str, values: Mapping[str, str]) -> None:
        """A metric whose labels are constant for the process."""
        Info(PREFIX + name, text, registry=self._registry).info({key: printable(v) for key, v in values.items()})

    def _one(self, kind: Callable[..., _M], name: str, text: str) -> _M:
        return kind(PREFIX + name, text, registry=self._registry)

    def _many(self, kind: Callable[..., _M], name: str, text: str, *axes: Axis, **closed: Iterable[str]) -> Family[_M]:
        axes += tuple(Axis.of(label, values) for label, values in closed.items())
        return Family(partial(kind, PREFIX + name, text, registry=self._registry), *axes)

    # --- for plug-ins

    def counter(self, name: str, text: str, **labels: Iterable[str]) -> Callable[..., Counter]:
        """A counter of a component's own: ``counted("ok").inc()``. ``name``: without our prefix, with ``_total``.

        Each label has a closed set of values; others count as ``other``. So have ``gauge`` and ``histogram``.
        """
        return self._many(Counter, name, text, **labels)

    def gauge(self, name: str, text: str, **labels: Iterable[str]) -> Callable[..., Gauge]:
        return self._many(Gauge, name, text, **labels)

    def histogram(
        self, name: str, text: str, buckets: Sequence[float] = LATENCY_S, **labels: Iterable[str]
    ) -> Callable[..., Histogram]:
        """In seconds, unless ``buckets`` say something else."""
        return self._many(partial(Histogram, buckets=buckets), name, text, **labels)

    def exposition(self, openmetrics: bool = False) -> tuple[bytes, str]:
        """The body of a scrape in the Prometheus text format, and its content type.

        ``openmetrics``: in that format, with exemplars, while there are traces.
        """
        if openmetrics and tracing.on():
            body: bytes = with_exemplars.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body, with_exemplars.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def value(self, name: str, **labels: str) -> float | None:
        """The present value of one series, None when there is no such series; the prefix may be left out."""
        full = name if name.startswith((PREFIX, "process_")) else PREFIX + name
        return self._registry.get_sample_value(full, labels)
