# ruff: noqa: T201 - a script that prints its figures
"""What the outbox costs: ``python -m tests.bench.outbox`` or ``python tests/bench/outbox.py``.

Every record is put, then delivered, by as many workers as there would be slots. The CPU time is
that of the whole process over that of the same loop with an outbox in memory: what durability adds.
Machines are noisy: the runs alternate, and the median of several is shown.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from ai_task_processor.clock import SystemClock
from ai_task_processor.models.task import Record, TaskStatus
from ai_task_processor.ports import Outbox
from ai_task_processor.stores.memory import MemoryOutbox
from ai_task_processor.stores.sqlite import SqliteOutbox

VECTOR = os.urandom(6144)
LIMIT = 1 << 40


def record(number: int) -> Record:
    return Record(
        task_id=f"{number:024x}",
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


async def added_cost(directory: Path, args: argparse.Namespace) -> None:
    clock = SystemClock()
    walls, added = [], []
    async with SqliteOutbox(directory, max_bytes=LIMIT, clock=clock) as outbox:
        for _ in range(args.rounds):
            _, base = await pass_through(MemoryOutbox(LIMIT, clock), args.records, args.workers)
            wall, cpu = await pass_through(outbox, args.records, args.workers)
            walls.append(wall)
            added.append(cpu - base)
    print(f"put + delivered    {args.records / statistics.median(walls):10,.0f} records/s")
    print(f"added CPU          {statistics.median(added) / args.records * 1e6:10.1f} µs/record")


async def waiting_memory(directory: Path, args: argparse.Namespace) -> None:
    async with SqliteOutbox(directory, max_bytes=LIMIT, clock=SystemClock()) as outbox:
        await outbox.put(record(0))
        before = resident()
        for first in range(1, args.waiting, args.workers):
            for kept in [outbox.put(record(number)) for number in range(first, first + args.workers)]:
                await kept
        print(f"RSS                {(resident() - before) / 1e6:10.1f} MB for {outbox.depth().waiting:,} waiting")
        start = time.perf_counter()
        for _ in range(100):
            if len(await outbox.due(time.time(), 32)) != 32:
                raise SystemExit("wrong: not all that wait are due")
        print(f"due(limit=32)      {(time.perf_counter() - start) * 10:10.2f} ms")
    start = time.perf_counter()
    async with SqliteOutbox(directory, max_bytes=LIMIT, clock=SystemClock()):
        print(f"open with those    {(time.perf_counter() - start) * 1e3:10.1f} ms")


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
        uvloop.run(waiting_memory(Path(directory) / "waiting", args))
        uvloop.run(added_cost(Path(directory) / "cost", args))


if __name__ == "__main__":
    main()
