"""What is shown: progress while it runs, and the figures that must hold."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Self, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from tests.chaos import faults
from tests.chaos.campaign import Scale
from tests.chaos.checker import Repeated, Verdict, Violation
from tests.chaos.supervisor import CONCURRENCY

#: a mean of fewer is chance
KILLS_FOR_A_MEAN = 20
PLAIN_EACH_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the final table."""

    part: str
    figure: str
    found: str
    good: bool


def figures(part: str, verdict: Verdict, scale: Scale, crashes: Sequence[str]) -> Iterator[Line]:
    """Everything that a run promises."""
    share = verdict.faulted / max(verdict.requests, 1)
    yield _at_least(part, "tasks", verdict.tasks, scale.tasks)
    near = abs(share - faults.SHARE) < 0.01 + 3.0 * sqrt(faults.SHARE / max(verdict.requests, 1))
    yield Line(part, f"requests faulted ({faults.SHARE:.0%})", f"{share:.1%} of {verdict.requests}", near)
    yield _at_least(part, "SIGKILL", verdict.kills, scale.kills)
    yield _at_least(part, "SIGTERM", verdict.terminations, scale.terminations)
    yield Line(part, "ended by itself (0)", "; ".join(crashes) or "0", not crashes)
    for kind in get_args(Violation):
        yield Line(part, f"{kind} (0)", str(verdict.count(kind)), not verdict.count(kind))
    names: tuple[tuple[str, Repeated, float], ...] = (
        ("callbacks repeated", "callback", CONCURRENCY / 3),
        ("calls paid again", "paid", CONCURRENCY / 2),
    )
    for name, what, mean in names:
        if verdict.kills >= KILLS_FOR_A_MEAN:
            yield _at_most(part, f"{name} per kill", verdict.per_kill(what), mean)
        yield _at_most(part, f"{name} at the worst kill", verdict.worst_kill(what), CONCURRENCY)
    explained = ", ".join(f"{count} {reason}" for reason, count in sorted(verdict.repeated.items()))
    yield Line(part, "repeated and explained", explained or "none", True)


def _at_least(part: str, figure: str, found: int, least: int) -> Line:
    return Line(part, f"{figure} (>= {least})", str(found), found >= least)


def _at_most(part: str, figure: str, found: float, most: float) -> Line:
    return Line(part, f"{figure} (<= {most:.1f})", f"{found:.1f}", found <= most)


def table(lines: Sequence[Line], took_s: float) -> Table:
    """The end of it all."""
    shown = Table("part", "figure (what must hold)", "found", "", title=f"{took_s:.0f} s")
    for part in dict.fromkeys(line.part for line in lines):
        for number, line in enumerate([line for line in lines if line.part == part]):
            shown.add_row("" if number else part, line.figure, line.found, "ok" if line.good else "WRONG")
        shown.add_section()
    return shown


class Progress:
    """A bar for each part on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.fields[part]:<7}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._ids: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def at(self, part: str, done: int, total: int, what: str) -> None:
        """How far a part has come."""
        if part not in self._ids:
            self._ids[part] = self._bars.add_task("", total=total, part=part)
        self._bars.update(self._ids[part], completed=done, total=total, description=what)
        now = time.monotonic()
        if not self._console.is_terminal and (done == total or now - self._told.get(part, 0.0) > PLAIN_EACH_S):
            self._told[part] = now
            self.say(f"{part}: {done} of {total}  {what}".rstrip())
