"""What the comparison says: tables for people, bounds that hold or do not, and everything for JSON."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from tests.bench.runner import Run

BASE, DAEMON = "loop over aiohttp", "daemon"
#: medians that are shown, by their heads
COLUMNS = {
    "tasks": ("tasks", "{:,.0f}"),
    "CPU µs/task": ("cpu_us", "{:,.0f}"),
    "tasks/s": ("tasks_per_s", "{:,.0f}"),
    "peak MB": ("rss_mb", "{:,.0f}"),
    "calls/1,000": ("calls_per_1000", "{:,.1f}"),
    "repeated": ("repeated", "{:,.0f}"),
    "missing": ("missing", "{:,.0f}"),
    "wrong": ("wrong", "{:,.0f}"),
    "upstream": ("upstream_share", "{:.0%}"),
    "broker µs": ("broker_us", "{:,.0f}"),
}
HEADS = ("worker", *list(COLUMNS)[:2], "to aiohttp", *list(COLUMNS)[2:])


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure that has to be kept."""

    what: str
    measured: str
    bound: str
    holds: bool

    @property
    def verdict(self) -> str:
        return "ok" if self.holds else "MISSED"


def at_most(what: str, measured: float, limit: float, form: str = "{:,.2f}") -> Bound:
    return Bound(what, form.format(measured), f"≤ {form.format(limit)}", measured <= limit)


def at_least(what: str, measured: float, limit: float, form: str = "{:,.2f}") -> Bound:
    return Bound(what, form.format(measured), f"≥ {form.format(limit)}", measured >= limit)


@dataclass(slots=True)
class Section:
    """One workload. ``rows``: its table, heads first. ``figures``: whatever was measured, for JSON."""

    name: str
    title: str
    rows: list[Sequence[str]] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return {"title": self.title, **self.figures, "bounds": [asdict(bound) for bound in self.bounds]}


class Runs:
    """All runs of one workload."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.all = list(runs)
        self.labels = list(dict.fromkeys(label(run) for run in self.all))

    def median(self, worker: str, figure: str) -> float:
        return float(statistics.median(getattr(run, figure) for run in self.all if label(run) == worker))

    def cpu_us(self, worker: str) -> float:
        return self.median(worker, "cpu_us")

    def cheapest_us(self, name: str) -> float:
        """The least CPU time of a worker that ran with several concurrencies."""
        return min(self.cpu_us(each) for each in self.labels if each.startswith(name))

    def ratio(self, worker: str) -> float:
        """Its CPU time beside that of the loop over aiohttp."""
        return self.cpu_us(worker) / self.cpu_us(BASE) if BASE in self.labels else 0.0

    def rows(self) -> list[Sequence[str]]:
        return [HEADS, *(self._row(each) for each in self.labels)]

    def figures(self) -> dict[str, object]:
        medians = {each: {name: self.median(each, name) for name in FIGURES} for each in self.labels}
        ratios = {each: self.ratio(each) for each in self.labels if BASE in self.labels}
        return {"runs": [asdict(run) for run in self.all], "medians": medians, "cpu_ratios": ratios}

    def correct(self) -> list[Bound]:
        """Nothing missing, repeated or wrong in any run of the daemon, and no upstream that held anybody up."""
        own = [run for run in self.all if run.worker.startswith(DAEMON)]
        counts = [sum(getattr(run, name) for run in own) for name in ("missing", "repeated", "wrong")]
        share, what = max(run.upstream_share for run in self.all), f"in {len(own)} runs of the {DAEMON}"
        told = ", ".join(f"{count:,}" for count in counts)
        return [
            Bound(f"missing, repeated, wrong results {what}", told, "0 each", not any(counts)),
            at_most("largest share of its core that the upstream used", share, 0.8, "{:.0%}"),
        ]

    def _row(self, worker: str) -> Sequence[str]:
        cells = [form.format(self.median(worker, name)) for name, form in COLUMNS.values()]
        cells.insert(2, f"{self.ratio(worker):.2f}" if BASE in self.labels else "")
        if not worker.startswith(("arq", "taskiq")):
            cells[-1] = ""  # there is no broker
        return (worker, *cells)


FIGURES = ("seconds", "cpu_us", "tasks_per_s", "rss_mb", "calls_per_1000", "upstream_share", "broker_us")


def label(run: Run) -> str:
    """A worker is in the table once for each concurrency it ran with; the daemon and the loops have the workload's."""
    return run.worker if run.worker.startswith((DAEMON, "loop")) else f"{run.worker}, {run.concurrency} jobs"


def text(section: Section) -> str:
    """A table with aligned columns, and the bounds."""
    widths = [max(len(row[column]) for row in section.rows) for column in range(len(section.rows[0]))]
    lines = [f"{section.name}: {section.title}"]
    lines += ["  " + "  ".join(_padded(row, widths)).rstrip() for row in section.rows]
    lines += [f"  {each.verdict:6s} {each.what}: {each.measured} ({each.bound})" for each in section.bounds]
    return "\n".join(lines) + "\n"


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def markdown(section: Section) -> str:
    """The same for a document."""
    heads, *rows = section.rows
    lines = [f"**{section.name}**: {section.title}", "", _line(heads), "|---" + "|---:" * (len(heads) - 1) + "|"]
    lines += [_line(row) for row in rows]
    if section.bounds:
        lines += ["", "| figure | bound | measured | |", "|---|---|---|---|"]
        lines += [_line((each.what, each.bound, each.measured, each.verdict)) for each in section.bounds]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
