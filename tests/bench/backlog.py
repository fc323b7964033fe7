"""An API that lists everything whatever ``limit`` says: what a task costs must not depend on how many wait.

The list is made as a whole before its first byte, as a NestJS handler does that returns an array, by the process
that also answers the model calls and takes the results: while it lists, everything waits.
"""

import statistics
import time

from tests.bench import machine
from tests.bench.alone import idle_daemon
from tests.bench.contest import Plan, tell
from tests.bench.machine import LoopLag
from tests.bench.report import Section, at_least, at_most
from tests.bench.runner import for_throughput

SIZES = (1_000, 3_000, 12_000, 30_000, 120_000)
#: a size is measured with so many tasks in front of it at least, and for so long at least
SLOTS, LEAST_TASKS, WATCHED_S = 32, 3_000, 12.0
LONGEST_S = 60.0


def backlog(plan: Plan) -> list[Section]:
    """The speed at each size beside that of the smallest, and what the API lists for a task."""
    section = Section("backlog", f"`limit` ignored, lists made whole, CONCURRENCY_LIMIT={SLOTS}")
    section.rows = [("pending", "tasks/s", "to 1,000", "listed per task", "polls", "peak MB over idle", "lag p99 ms")]
    rounds = 1 if plan.quick else plan.rounds
    seen: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
    for number in range(rounds):
        for size in SIZES:
            tell(f"backlog: {size:,} pending, round {number + 1} of {rounds}")
            seen[size].append(watch(size))
    medians = {
        size: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for size, runs in seen.items()
    }
    usual = medians[SIZES[0]]["tasks_per_s"]
    for size, run in medians.items():
        share = run["tasks_per_s"] / usual
        rest = (f"{run[name]:,.0f}" for name in ("polls", "grown_mb", "lag_p99_ms"))
        first = (f"{run['tasks_per_s']:,.0f}", f"{share:.2f}", f"{run['listed_per_task']:,.1f}")
        section.rows.append((f"{size:,}", *first, *rest))
        section.bounds.append(at_least(f"{size:,} pending: tasks/s beside 1,000 pending", share, 0.8))
    most = medians[SIZES[-1]]
    section.bounds += [
        at_most("120,000 pending: records that the API lists for each task done", most["listed_per_task"], 40),
        at_most("120,000 pending: peak RSS over the idle process, MB", most["grown_mb"], 64, "{:,.0f}"),
        at_most("120,000 pending: event-loop lag p99, ms", most["lag_p99_ms"], 50, "{:,.0f}"),
        at_most("repeated or wrong results", sum(run["bad"] for runs in seen.values() for run in runs), 0, "{:,.0f}"),
    ]
    section.figures = {"runs": {str(size): runs for size, runs in seen.items()}}
    return [section]


def watch(size: int) -> dict[str, float]:
    """Work with about ``size`` tasks pending: as many as are done are added again, twice a second."""
    with idle_daemon(for_throughput(SLOTS), "--whole-list", "--model-latency", "0.005") as (upstream, worker):
        upstream.ask("add?count=200")
        upstream.until(worker, acknowledged=200)
        idle_mb, lag = machine.memory_mb(worker.process.pid, "VmRSS"), LoopLag(worker.port())
        upstream.ask(f"add?count={size}")
        before = upstream.until(worker, acknowledged=200 + min(500, size // 2))
        began = time.monotonic()
        while True:
            time.sleep(0.25)
            counts = upstream.ask("counts")
            done, took_s = counts["acknowledged"] - before["acknowledged"], time.monotonic() - began
            if took_s > LONGEST_S or (took_s > WATCHED_S and done >= LEAST_TASKS):
                break
            missing = size - (counts["tasks"] - counts["acknowledged"])
            if missing > 0:
                upstream.ask(f"add?count={missing:.0f}")
        return {
            "tasks_per_s": done / took_s,
            "listed_per_task": (counts["listed"] - before["listed"]) / max(done, 1),
            "polls": counts["polls"] - before["polls"],
            "grown_mb": machine.memory_mb(worker.process.pid, "VmHWM") - idle_mb,
            "lag_p99_ms": lag.p99_ms(),
            "bad": counts["repeated"] + counts["wrong"],
        }
