"""Several workers on one workload, taking turns: what a noisy remote does to one it does to all."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.bench.report import Runs, label
from tests.bench.runner import Start, Workload, measure

#: how the names of workers begin, in the order of the tables
KINDS = ("daemon", "loop", "")


@dataclass(frozen=True, slots=True)
class Plan:
    """How thoroughly to measure."""

    rounds: int
    quick: bool
    rivals: bool

    def tasks(self, count: int) -> int:
        return count // 10 if self.quick else count


def tell(words: str, *, end: str = "\n") -> None:
    """Progress, for whoever waits."""
    sys.stderr.write(words + end)
    sys.stderr.flush()


def compete(plan: Plan, name: str, entries: Sequence[tuple[Start, Workload]]) -> Runs:
    """Every worker once in each round, another one first each time."""
    runs = []
    for round_ in range(plan.rounds):
        for place in range(len(entries)):
            start, workload = entries[(round_ + place) % len(entries)]
            workload = replace(workload, tasks=plan.tasks(workload.tasks))
            tell(f"{name}, round {round_ + 1} of {plan.rounds}, {place + 1} of {len(entries)}: ", end="")
            run = measure(start, workload)
            tell(f"{label(run)}: {run.cpu_us:,.0f} µs/task, {run.tasks_per_s:,.0f} tasks/s")
            runs.append(run)
    return Runs(sorted(runs, key=lambda run: next(at for at, kind in enumerate(KINDS) if run.worker.startswith(kind))))
