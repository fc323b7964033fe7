# ruff: noqa: T201 - a script that prints its figures
"""What the outbox costs: ``python -m tests.bench.outbox`` prints the figures as JSON.

Every record is put, then delivered, by as many workers as there would be slots. The CPU time is
that of the whole process over that of the same loop with an outbox in memory: what durability adds.
Machines are noisy: the runs alternate, and the median of several is shown.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.ports import Outbox
from ai_task_processor.models.task import Receipt, Record, TaskStatus
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox
from ai_task_processor.testing.memory import MemoryOutbox

VECTOR = os.urandom(6144)
LIMIT = 1 << 40


def record(number: int) -> Record:
    return Record(
        receipt=Receipt("aletheia", f"{number:024x}"),
        task_type="text_embedding",
        status=TaskStatus.SUCCEEDED,
        fingerprint=f"{number:032x}",
        finished_at=time.time(),
        vector=VECTOR,
    )


async def pass_through(outbox: Outbox, records: int, workers: int) -> tuple[float, float]:
    """Wall and CPU seconds for putting and delivering ``records``."""
    numbers = iter(range(records))
    wall, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work(outbox, numbers))
    spent = time.perf_counter() - wall, time.process_time() - cpu
    left = outbox.depth()
    if left.waiting or left.bytes:
        raise SystemExit(f"wrong: {left.waiting} records are left")
    return spent


async def work(outbox: Outbox, numbers: Iterator[int]) -> None:
    for number in numbers:
        kept = record(number)
        await outbox.put(kept)
        await outbox.delivered(kept.task_id)


async def added_cost(directory: Path, args: argparse.Namespace) -> dict[str, float]:
    clock = SystemClock()
    walls, added = [], []
    async with SqliteOutbox(directory, "aletheia", max_bytes=LIMIT, clock=clock) as outbox:
        for _ in range(args.rounds):
            _, base = await pass_through(MemoryOutbox(LIMIT, clock), args.records, args.workers)
            wall, cpu = await pass_through(outbox, args.records, args.workers)
            walls.append(wall)
            added.append(cpu - base)
    return {
        "records kept and delivered in a second": args.records / statistics.median(walls),
        "CPU that durability adds to a record, µs": statistics.median(added) / args.records * 1e6,
    }


async def waiting_memory(directory: Path, args: argparse.Namespace) -> dict[str, float]:
    async with SqliteOutbox(directory, "aletheia", max_bytes=LIMIT, clock=SystemClock()) as outbox:
        await outbox.put(record(0))
        before = resident()
        for first in range(1, args.waiting, args.workers):
            for kept in [outbox.put(record(number)) for number in range(first, first + args.workers)]:
                await kept
        megabytes = (resident() - before) / 1e6
        start = time.perf_counter()
        for _ in range(100):
            if len(await outbox.due(time.time(), 32)) != 32:
                raise SystemExit("wrong: not all that wait are due")
        due_ms = (time.perf_counter() - start) * 10
    start = time.perf_counter()
    async with SqliteOutbox(directory, "aletheia", max_bytes=LIMIT, clock=SystemClock()):
        opened_ms = (time.perf_counter() - start) * 1e3
    waiting = f"{args.waiting:,} waiting records"
    return {
        f"memory of {waiting}, MB": megabytes,
        f"the next 32 of {waiting}, ms": due_ms,
        f"to open with {waiting}, ms": opened_ms,
    }


def resident() -> int:
    """Bytes of resident memory now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the outbox: throughput, added CPU, memory.")
    parser.add_argument("--records", type=int, default=20_000, help="records in one run")
    parser.add_argument("--rounds", type=int, default=5, help="runs; the median is shown")
    parser.add_argument("--workers", type=int, default=128, help="records on their way at once")
    parser.add_argument("--waiting", type=int, default=100_000, help="records that wait for the memory figure")
    parser.add_argument("--directory", type=Path, help="where to write (default: the directory for temporary files)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        memory = uvloop.run(waiting_memory(Path(directory) / "waiting", args))
        print(json.dumps(memory | uvloop.run(added_cost(Path(directory) / "cost", args))))


if __name__ == "__main__":
    main()
