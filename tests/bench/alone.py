"""What is measured of the daemon alone: latency when idle, endless and long lists, the start, the outbox."""

import http.client
import json
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import machine
from tests.bench.contest import Plan, tell
from tests.bench.machine import ROOT, WORKER_CORE, LoopLag
from tests.bench.report import Section, at_least, at_most
from tests.bench.runner import DaemonWorker, Upstream, Workload, for_throughput

#: tasks that are added one at a time; without a wake-up each takes seconds
WOKEN, UNWOKEN, UNWOKEN_INTERVAL_S = 200, 20, 2
#: no request for so long: the daemon pauses, and its next poll is not due yet
QUIET_S = 0.1
PENDING, WATCHED_S = 1_000_000, 20.0
SIZES = (1_000, 3_000, 12_000, 30_000, 120_000)
#: a size is measured with so many tasks in front of it at least, and for so long at least
SLOTS, LEAST_TASKS, LEAST_S, LONGEST_S = 32, 3_000, 12.0, 60.0
STARTS = 5
IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


@contextmanager
def idle_daemon(settings: Mapping[str, str], *arguments: str) -> Iterator[tuple[Upstream, DaemonWorker]]:
    """A daemon that has found nothing to do."""
    with tempfile.TemporaryDirectory() as name:
        directory, workload = Path(name), Workload(0, 0)
        with (
            Upstream(workload, directory, *arguments) as upstream,
            DaemonWorker(upstream.url, workload, directory, settings) as worker,
        ):
            upstream.until(worker, polls=1)
            yield upstream, worker


def idle(plan: Plan) -> list[Section]:
    """One task at a time, created while the daemon is idle: from its creation to its acknowledgement."""
    section = Section("c", "one task at a time, created while idle, no latencies: creation to acknowledged, ms")
    tell(f"c: {plan.tasks(WOKEN)} tasks with a wake-up")
    woken = with_wake_up(plan.tasks(WOKEN))
    tell(f"c: {plan.tasks(UNWOKEN)} tasks without a wake-up, POLLING_INTERVAL_SECONDS={UNWOKEN_INTERVAL_S}")
    unwoken = without_wake_up(plan.tasks(UNWOKEN))
    section.rows = [
        ("daemon", "tasks", "p50", "p99", "longest"),
        ("POST /wake after the creation, POLLING_INTERVAL_SECONDS=30", *_spread(woken)),
        (f"no wake-up, POLLING_INTERVAL_SECONDS={UNWOKEN_INTERVAL_S}", *_spread(unwoken)),
    ]
    section.figures = {"woken_s": woken, "unwoken_s": unwoken}
    section.bounds = [at_most("p99 with a wake-up, ms", percentile(woken, 0.99) * 1000, 50, "{:,.1f}")]
    return [section]


def with_wake_up(tasks: int) -> list[float]:
    token = secrets.token_urlsafe(24)
    with idle_daemon({"WAKE_TOKEN": token}) as (upstream, worker):
        door = http.client.HTTPConnection("127.0.0.1", worker.port(), timeout=10)
        rng = random.Random(7)
        for number in range(1, tasks + 1):
            upstream.until(worker, quiet_s=QUIET_S)
            time.sleep(rng.uniform(0.0, QUIET_S))
            upstream.ask("add?count=1")
            door.request("POST", "/wake", headers={"Authorization": f"Bearer {token}"})
            answer = door.getresponse()
            answer.read()
            if answer.status != http.client.ACCEPTED:
                raise RuntimeError(f"POST /wake answers {answer.status}")
            upstream.until(worker, acknowledged=number)
        door.close()
        return latencies_s(upstream)


def without_wake_up(tasks: int) -> list[float]:
    """Created at any moment of a pause of full length: the first pauses after work are shorter."""
    with idle_daemon({"POLLING_INTERVAL_SECONDS": str(UNWOKEN_INTERVAL_S)}) as (upstream, worker):
        rng = random.Random(7)
        for number in range(1, tasks + 1):
            polls = upstream.until(worker, quiet_s=QUIET_S)["polls"]
            upstream.until(worker, polls=polls + 2)
            time.sleep(rng.uniform(0.0, UNWOKEN_INTERVAL_S))
            upstream.ask("add?count=1")
            upstream.until(worker, acknowledged=number)
        return latencies_s(upstream)


def latencies_s(upstream: Upstream) -> list[float]:
    """From creation to acknowledgement, of every task."""
    latencies: list[float] = upstream.ask("latencies")
    return latencies


def _spread(latencies_s: list[float]) -> tuple[str, ...]:
    figures = (percentile(latencies_s, 0.5), percentile(latencies_s, 0.99), max(latencies_s))
    return str(len(latencies_s)), *(f"{figure * 1000:,.1f}" for figure in figures)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that this share of all does not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def endless(plan: Plan) -> list[Section]:
    """A million tasks in one answer, whatever was asked for."""
    section = Section("d", f"{PENDING:,} tasks pending, `limit` ignored")
    heads = ("idle MB", "peak MB over it", "first PATCH s", "lag p99 ms", "tasks/s", "polls", "repeated", "wrong")
    section.rows = [("daemon", *heads)]
    watched_s = WATCHED_S / 5 if plan.quick else WATCHED_S
    for slots in (32, 256):
        name = f"CONCURRENCY_LIMIT={slots}"
        tell(f"d: {watched_s:.0f} s with {PENDING:,} tasks, {name}")
        seen = watch_endless(slots, watched_s)
        shown = {what: f"{figure:,.0f}" for what, figure in seen.items()}
        section.rows.append((name, *(shown | {"first_report_s": f"{seen['first_report_s']:.2f}"}).values()))
        section.figures[name] = seen
        section.bounds += [
            at_most(f"{name}: repeated or wrong results", seen["repeated"] + seen["wrong"], 0, "{:,.0f}"),
            at_most(f"{name}: peak RSS over the idle process, MB", seen["grown_mb"], 64, "{:,.0f}"),
            at_most(f"{name}: first byte of the list to the first PATCH, s", seen["first_report_s"], 1),
            at_most(f"{name}: event-loop lag p99, ms", seen["lag_p99_ms"], 50, "{:,.0f}"),
        ]
    return [section]


def watch_endless(slots: int, watched_s: float) -> dict[str, float]:
    with idle_daemon(for_throughput(slots), "--ignore-limit") as (upstream, worker):
        upstream.until(worker, polls=3)
        idle_mb = machine.memory_mb(worker.process.pid, "VmRSS")
        lag = LoopLag(worker.port())
        upstream.ask(f"add?count={PENDING}")
        upstream.until(worker, reports=1)
        time.sleep(watched_s)
        lag_p99_ms, counts = lag.p99_ms(), upstream.ask("counts")
        return {
            "idle_mb": idle_mb,
            "grown_mb": machine.memory_mb(worker.process.pid, "VmHWM") - idle_mb,
            "first_report_s": counts["first_report_s"],
            "lag_p99_ms": lag_p99_ms,
            "tasks_per_s": counts["acknowledged"] / counts["seconds"],
            **{name: counts[name] for name in ("polls", "repeated", "wrong")},
        }


def backlog(plan: Plan) -> list[Section]:
    """An API that lists everything whatever ``limit`` says: what a task costs must not depend on how many wait.

    The speed at each size beside that of the smallest, and what the API lists for a task. The list is made as a whole
    before its first byte, as a NestJS handler does that returns an array, by the process that also answers the model
    calls and takes the results: while it lists, everything waits.
    """
    section = Section("backlog", f"`limit` ignored, lists made whole, CONCURRENCY_LIMIT={SLOTS}")
    section.rows = [("pending", "tasks/s", "to 1,000", "listed per task", "polls", "peak MB over idle", "lag p99 ms")]
    rounds = 1 if plan.quick else plan.rounds
    seen: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
    for number in range(rounds):
        for size in SIZES:
            tell(f"backlog: {size:,} pending, round {number + 1} of {rounds}")
            seen[size].append(watch_backlog(size))
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


def watch_backlog(size: int) -> dict[str, float]:
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
            if took_s > LONGEST_S or (took_s > LEAST_S and done >= LEAST_TASKS):
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


def start(plan: Plan) -> list[Section]:
    """From nothing to /health, and what the imports are of that."""
    tell(f"start: {STARTS} cold starts, {STARTS} imports each")
    names = ("ai_task_processor", "ai_task_processor.cli.main", "ai_task_processor.engine.daemon")
    took_s: dict[str, list[float]] = {}
    for name in names:
        took_s[f"import {name}"] = [_told("-c", IMPORT.format(name)) for _ in range(STARTS)]
    took_s["start of the process to 200 from /health"] = [_start_s() for _ in range(STARTS)]
    medians = {what: statistics.median(times) for what, times in took_s.items()}
    shown = ((what, f"{medians[what]:.3f}", f"{max(times):.3f}") for what, times in took_s.items())
    bounds = [
        at_most("start to /health, s", list(medians.values())[-1], 1.5),
        at_most("import ai_task_processor, s", medians["import ai_task_processor"], 0.3),
    ]
    title = f"cold start and imports, seconds, medians of {STARTS}"
    return [Section("start", title, [("what", "median", "longest"), *shown], bounds, {"seconds": took_s})]


def _told(*arguments: str) -> Any:
    """What a Python on the worker's core prints."""
    command = [sys.executable, *arguments]
    return json.loads(subprocess.check_output(command, cwd=ROOT, preexec_fn=machine.pin(WORKER_CORE)))


def _start_s() -> float:
    port = machine.free_port()
    with tempfile.TemporaryDirectory() as name:
        directory, workload = Path(name), Workload(0, 0)
        with Upstream(workload, directory) as upstream:
            began = time.perf_counter()
            with DaemonWorker(upstream.url, workload, directory, {"METRICS_PORT": str(port)}) as worker:
                while not _healthy(port):
                    worker.must_run()
                    time.sleep(0.005)
                return time.perf_counter() - began


def _healthy(port: int) -> bool:
    try:
        return machine.fetched(port, "/health")[0] == http.client.OK
    except ConnectionRefusedError:
        return False


def outbox(plan: Plan) -> list[Section]:
    """What durability costs, without anything around it: ``tests.bench.outbox``."""
    tell("outbox: 20 s")
    told: dict[str, float] = _told("-m", "tests.bench.outbox", "--rounds", str(plan.rounds))
    rows: list[Sequence[str]] = [("figure", "measured"), *((what, f"{figure:,.1f}") for what, figure in told.items())]
    return [Section("outbox", "the outbox alone, records with 1,536 floats", rows, figures={"figures": told})]
