# ruff: noqa: T201 - it tells how far it is
"""Several workers on one workload, taking turns: what a noisy remote does to one it does to all.

The workloads in which they compete, and what has to hold in each.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.bench.report import BASE, DAEMON, Bound, Runs, Section, at_least, at_most, label
from tests.bench.rivals import conductor, queue_worker
from tests.bench.runner import Start, Workload, daemon, daemon_as_shipped, loop, measure

#: how the names of workers begin, in the order of the tables
KINDS = ("daemon", "loop", "")
#: tasks for workers that are so slow that fewer are enough: cost is per task
FEWER, FEWEST = 5_000, 2_000
SIZES = (1_000, 10_000, 100_000)
#: how much more CPU time others need at least, each at its best
RIVALS = {"taskiq over aiohttp": 1.3, "arq over aiohttp": 1.8, "conductor-python": 6.0}


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
    print(words, end=end, file=sys.stderr, flush=True)


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


def throughput(plan: Plan) -> list[Section]:
    """No latency: what a task costs."""
    workload = Workload(20_000, 256)
    runs = compete(plan, "a", _bare(workload) + (_rivals(workload) if plan.rivals else []))
    least, rival_us, own_us = RIVALS.items() if plan.rivals else (), runs.cheapest_us, runs.cpu_us(DAEMON)
    return _section(
        "a",
        "no latency, 220 characters, 1,536 floats, CONCURRENCY_LIMIT=256",
        runs,
        _ratio(runs),
        at_most("model calls per 1,000 tasks", runs.median(DAEMON, "calls_per_1000"), 10, "{:,.1f}"),
        at_most("peak RSS of the daemon, MB", runs.median(DAEMON, "rss_mb"), 115, "{:,.0f}"),
        *(at_least(f"CPU of {each} to that of the daemon", rival_us(each) / own_us, ratio) for each, ratio in least),
    )


def encrypted(plan: Plan) -> list[Section]:
    """The same over TLS."""
    runs = compete(plan, "e", _bare(Workload(20_000, 256, tls=True)))
    return _section("e", "as (a), over TLS", runs, _ratio(runs))


def latencies(plan: Plan) -> list[Section]:
    """How close to what the remotes allow."""
    sections = []
    for slots, tasks in ((32, 1_280), (256, 10_240)):
        workload, name = Workload(tasks, slots, model_s=0.2, api_s=0.02), f"b {slots}"
        most = slots / (workload.api_s + workload.model_s)
        title = f"model 200 ms, API 20 ms, CONCURRENCY_LIMIT={slots}: at most {most:,.0f} tasks/s"
        runs = compete(replace(plan, quick=False), name, [(daemon, workload), (loop("aiohttp"), workload)])
        share = runs.median(DAEMON, "tasks_per_s") / most
        sections += _section(name, title, runs, at_least("of the most that latencies allow", share, 0.9, "{:.1%}"))
    return sections


def defaults(plan: Plan) -> list[Section]:
    """Nothing is set that need not be."""
    workload = Workload(2_000, 5)
    runs = compete(plan, "f", [(daemon_as_shipped, workload), *_bare(workload)[1:]])
    return _section("f", "defaults as shipped, as (a) otherwise: CONCURRENCY_LIMIT=5", runs)


def growth(plan: Plan) -> list[Section]:
    """A task costs the same however many wait. Small lists are measured several times, all after a warm-up."""
    sizes = [
        (daemon, Workload(size, 256, warm_up=1_000, batches=max(1, 5_000 // size)))
        for size in (SIZES[:2] if plan.quick else SIZES)
    ]
    runs = compete(replace(plan, quick=False), "growth", sizes)
    runs = Runs(replace(run, worker=f"{DAEMON}, {run.pending:,} pending") for run in runs.all)
    costs = [runs.cpu_us(each) for each in runs.labels]
    bound = at_most("largest CPU per task to the smallest", max(costs) / min(costs), 1.1)
    return _section("growth", "as (a), with so many tasks pending at once", runs, bound)


def _bare(workload: Workload) -> list[tuple[Start, Workload]]:
    few = replace(workload, tasks=min(workload.tasks, FEWER))
    return [(daemon, workload), (loop("aiohttp"), workload), (loop("httpx2"), few)]


def _rivals(workload: Workload) -> list[tuple[Start, Workload]]:
    """What takes jobs out of Redis, with few and with many at once; Conductor's threads."""
    few, many = (replace(workload, tasks=FEWER, concurrency=jobs) for jobs in (32, 256))
    fewest = replace(few, tasks=FEWEST)
    entries: list[tuple[Start, Workload]] = [(conductor, fewest)]
    for queue in ("taskiq", "arq"):
        over_aiohttp = queue_worker(queue, "aiohttp")
        entries += [(over_aiohttp, few), (over_aiohttp, many), (queue_worker(queue, "openai"), fewest)]
    return entries


def _section(name: str, title: str, runs: Runs, *bounds: Bound) -> list[Section]:
    return [Section(name, title, runs.rows(), [*runs.correct(), *bounds], runs.figures())]


def _ratio(runs: Runs) -> Bound:
    return at_most(f"CPU of the daemon to that of the {BASE}", runs.ratio(DAEMON), 2.0)
