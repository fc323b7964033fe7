"""What the comparison says: tables for people, bounds that hold or do not, and everything for JSON."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

from tests.bench.runner import Run

BASE, DAEMON = "loop over aiohttp", "daemon"
HEADS = (
    *("worker", "tasks", "CPU µs/task", "to aiohttp", "tasks/s", "peak MB", "calls/1,000"),
    *("repeated", "missing", "wrong", "upstream", "broker µs"),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure that has to be kept."""

    what: str
    measured: str
    bound: str
    holds: bool


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

    def median(self, worker: str, figure: Callable[[Run], float]) -> float:
        return statistics.median(figure(run) for run in self.all if label(run) == worker)

    def cpu_us(self, worker: str) -> float:
        return self.median(worker, lambda run: run.cpu_us)

    def cheapest_us(self, name: str) -> float:
        """The least CPU time of a worker that ran with several concurrencies."""
        return min(self.cpu_us(each) for each in self.labels if each.startswith(name))

    def ratio(self, worker: str) -> float:
        """Its CPU time beside that of the loop over aiohttp."""
        return self.cpu_us(worker) / self.cpu_us(BASE) if BASE in self.labels else 0.0

    def rows(self) -> list[Sequence[str]]:
        return [HEADS, *(self._row(each) for each in self.labels)]

    def figures(self) -> dict[str, object]:
        medians = {
            each: {name: self.median(each, lambda run, name=name: getattr(run, name)) for name in FIGURES}  # type: ignore[misc]  # mypy does not see the default
            for each in self.labels
        }
        ratios = {each: self.ratio(each) for each in self.labels if BASE in self.labels}
        return {"runs": [asdict(run) for run in self.all], "medians": medians, "cpu_ratios": ratios}

    def correct(self) -> list[Bound]:
        """Nothing missing, repeated or wrong in any run of the daemon, and no upstream that held anybody up."""
        own = [run for run in self.all if run.worker.startswith(DAEMON)]
        counts = [sum(run.missing for run in own), sum(run.repeated for run in own), sum(run.wrong for run in own)]
        share = max(run.upstream_share for run in self.all)
        return [
            Bound(
                f"missing, repeated, wrong results in {len(own)} runs of the {DAEMON}",
                ", ".join(f"{count:,}" for count in counts),
                "0 each",
                not any(counts),
            ),
            at_most("largest share of its core that the upstream used", share, 0.8, "{:.0%}"),
        ]

    def _row(self, worker: str) -> Sequence[str]:
        def figure(name: str, form: str = "{:,.0f}") -> str:
            return form.format(self.median(worker, lambda run: getattr(run, name)))

        return (
            worker,
            figure("tasks"),
            figure("cpu_us"),
            f"{self.ratio(worker):.2f}" if BASE in self.labels else "",
            figure("tasks_per_s"),
            figure("rss_mb"),
            figure("calls_per_1000", "{:,.1f}"),
            figure("repeated"),
            figure("missing"),
            figure("wrong"),
            figure("upstream_share", "{:.0%}"),
            figure("broker_us") if worker.startswith(("arq", "taskiq")) else "",
        )


FIGURES = ("seconds", "cpu_us", "tasks_per_s", "rss_mb", "calls_per_1000", "upstream_share", "broker_us")


def label(run: Run) -> str:
    """A worker is in the table once for each concurrency it ran with; the daemon and the loops have the workload's."""
    return run.worker if run.worker.startswith((DAEMON, "loop")) else f"{run.worker}, {run.concurrency} jobs"


def text(section: Section) -> str:
    """A table with aligned columns, and the bounds."""
    widths = [max(len(row[column]) for row in section.rows) for column in range(len(section.rows[0]))]
    lines = [f"{section.name}: {section.title}"]
    lines += ["  " + "  ".join(_padded(row, widths)).rstrip() for row in section.rows]
    lines += [
        f"  {'ok    ' if bound.holds else 'MISSED'} {bound.what}: {bound.measured} ({bound.bound})"
        for bound in section.bounds
    ]
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
        lines += [_line((each.what, each.bound, each.measured, _word(each))) for each in section.bounds]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _word(bound: Bound) -> str:
    return "ok" if bound.holds else "MISSED"
