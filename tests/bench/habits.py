# ruff: noqa: T201 - a script that prints its figures
"""The habits of real model APIs and the real daemon: ``python -m tests.bench.habits [WORD ...]``.

The rows of ``tests/contract/habit_rows.py``, with more tasks, a model latency of 100 ms, CONCURRENCY_LIMIT=32 unless a
cap needs more, OPENAI_TIMEOUT=5. Beside each run stands one without the texts at fault and without the habit. Time is
from the first model call to the acknowledgement of the last good task. A fault that passes lasts 10 s.
"""

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.tasks import StoredTask
from tests.bench import machine
from tests.bench.contest import Plan, tell
from tests.bench.promise import room
from tests.bench.report import Bound, Section, text
from tests.contract.habit_rows import BAD, ROWS, Row, Scale, Tasks
from tests.contract.model_habits import Habit, ModelServer, right_vector
from tests.e2e.conftest import DaemonProcess

LATENCY_S, SCALE = 0.1, Scale(timeout_s=5.0, window_s=10.0)
#: how often the daemon is asked for its status, and for how long after the last good task the others are watched
LOOK_S, AFTER_S = 0.25, 30.0
#: a run is given up this long after its bound
GRACE_S = 30.0
#: what short runs differ by
NOISE_S = 0.5
SAID = ("paused_models", "paced_models", "texts_set_aside")


@dataclass(slots=True)
class Seen:
    """One run. ``fates``: of the tasks at fault; ``said``: what ``/status`` had to say, the longest of each kind."""

    good: int = 0
    done: int = 0
    failed: int = 0
    wrong: int = 0
    seconds: float = 0.0
    calls: int = 0
    refused: int = 0
    refused_late: int = 0
    tasks: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    said: dict[str, str] = field(default_factory=dict)


class Run:
    """The tasks of one row, a model server with its habit, the sandbox's task API and the daemon."""

    def __init__(self, tasks: Tasks, habit: Habit, *, latency_s: float = LATENCY_S) -> None:
        self._given = tasks
        self.server = ModelServer(habit, latency_s)
        self.seen = Seen(tasks=len(tasks))
        self._good: list[tuple[str, StoredTask]] = []
        self._bad: list[StoredTask] = []

    async def play(self, seconds: float, fate: str = "done", **settings: object) -> Seen:
        """Until all good tasks are done, or for so many seconds; then until the others have met their fate."""
        async with room() as here, self.server.open() as url:
            os.sched_setaffinity(0, machine.WORKER_CORE)  # the daemon's, and what it starts
            daemon = await here.daemon(OPENAI_BASE_URL=url, **settings)
            os.sched_setaffinity(0, machine.UPSTREAM_CORE)
            await self._watch(here.sandbox, daemon, seconds, fate)
        return self.seen

    async def _watch(self, sandbox: Sandbox, daemon: DaemonProcess, seconds: float, fate: str) -> None:
        for content, model in self._given:
            task = sandbox.tasks[sandbox.tasks.add(content, model=model)]
            if BAD in content:
                self._bad.append(task)
            else:
                self._good.append((content, task))
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and any(task.acknowledged_at is None for _, task in self._good):
            await self._look(daemon)
        self._count()
        ends_at = time.monotonic() + AFTER_S
        while time.monotonic() < ends_at and not self._settled(fate):
            await self._look(daemon)
        self.seen.fates = Counter(self._fate(task) for task in self._bad)

    async def _look(self, daemon: DaemonProcess) -> None:
        await asyncio.sleep(LOOK_S)
        status = await daemon.status()
        said = {name: "; ".join(f"{model}: {why}" for model, why in status[name].items()) for name in SAID}
        said["why_idle"] = status["why_idle"] or ""
        for name, words in said.items():
            if len(words) > len(self.seen.said.get(name, "")):
                self.seen.said[name] = words

    def _count(self) -> None:
        seen, server = self.seen, self.server
        acknowledged = [task.acknowledged_at.timestamp() for _, task in self._good if task.acknowledged_at]
        done = [(content, task) for content, task in self._good if task.state is TaskStatus.SUCCEEDED]
        seen.good, seen.done = len(self._good), len(done)
        seen.failed = sum(task.state is TaskStatus.FAILED for _, task in self._good)
        seen.wrong = sum(task.result != right_vector(content) for content, task in done)
        if server.began_at is not None and acknowledged:
            seen.seconds = max(acknowledged) - server.began_at
        seen.calls, seen.refused = len(server.asked), server.refused
        half = len(server.asked) // 2
        seen.refused_late = sum(number >= half for number in server.refused_calls)

    def _settled(self, fate: str) -> bool:
        said = {"aside": "texts_set_aside", "paused": "paused_models", "paced": "paced_models"}.get(fate)
        if said is not None:
            return bool(self.seen.said.get(said))
        return all(task.acknowledged_at is not None for task in self._bad)

    def _fate(self, task: StoredTask) -> str:
        error = task.error if isinstance(task.error, dict) else {}
        return f"failed {error.get('code')}" if task.state is TaskStatus.FAILED else task.state.value


@dataclass(slots=True)
class Habits:
    """All rows, and what the same tasks take without habits."""

    usual: dict[object, float] = field(default_factory=dict)

    async def measure(self, row: Row) -> tuple[Seen, float, Bound]:
        """A row that misses its bound is measured again, and what is usual with it: the machine has its moods."""
        measured = await self._measure(row)
        if not measured[2].holds:
            self.usual.clear()
            measured = await self._measure(row)
        return measured

    async def _measure(self, row: Row) -> tuple[Seen, float, Bound]:
        assert row.real is not None
        tasks = row.tasks(*row.real)
        usual_s = await self._usual_s(row, [task for task in tasks if BAD not in task[0]])
        limit_s = 2 * usual_s + NOISE_S + row.extra_s
        seen = await self._play(row, tasks, row.habit(SCALE), limit_s + GRACE_S, row.fate)
        holds = (seen.done, seen.failed, seen.wrong) == (seen.good, 0, 0) and seen.seconds <= limit_s
        holds &= fate_is_met(row, seen)
        measured = f"{seen.done} of {seen.good} in {seen.seconds:.1f} s, {seen.failed} failed, {seen.wrong} wrong"
        return seen, usual_s, Bound(row.name, measured, f"all in {limit_s:.1f} s, 0, 0, {row.fate}", holds)

    async def _usual_s(self, row: Row, good: Tasks) -> float:
        key = (row.slots, hash(tuple(text for text, _ in good)))
        if key not in self.usual:
            self.usual[key] = (await self._play(row, good, lambda _: None, 120.0, "done")).seconds
        return self.usual[key]

    async def _play(self, row: Row, tasks: Tasks, habit: Habit, seconds: float, fate: str) -> Seen:
        settings: dict[str, object] = {"CONCURRENCY_LIMIT": row.slots, "OPENAI_TIMEOUT": SCALE.timeout_s}
        if row.dimensions is not None:
            settings["EMBEDDING_DIMENSIONS"] = row.dimensions
        return await Run(tasks, habit).play(seconds, fate, **settings)


def fate_is_met(row: Row, seen: Seen) -> bool:
    """Did the tasks at fault end as they should, and did the daemon say so?"""
    match row.fate:
        case "aside":
            return bool(seen.said.get("texts_set_aside")) and set(seen.fates) <= {"pending"}
        case "paused" | "paced":
            named = seen.said.get("paused_models", "") + seen.said.get("paced_models", "")
            return "bad" in named and set(seen.fates) <= {"pending"}
        case "done":
            return set(seen.fates) <= {"succeeded"}
        case code:
            return set(seen.fates) <= {f"failed {code}"}


HEADS = ("row", "good done", "s", "usual s", "calls/task", "refused", "late", "failed", "wrong", "at fault", "said")


def cells(row: Row, seen: Seen, usual_s: float) -> Sequence[str]:
    said = " | ".join(f"{name}: {words}" for name, words in seen.said.items() if words)
    rates = (f"{seen.seconds:.1f}", f"{usual_s:.1f}", f"{seen.calls / seen.tasks:.2f}")
    counts = map(str, (seen.refused, seen.refused_late, seen.failed, seen.wrong))
    fates = ", ".join(f"{count} {fate}" for fate, count in seen.fates.items())
    return (row.name, f"{seen.done} of {seen.good}", *rates, *counts, fates, said[:160])


async def measure(rows: Sequence[Row], told: Callable[[Sequence[str], Bound], None]) -> Section:
    """All these rows, one after the other; ``told`` hears of each."""
    section, all_rows = Section("habits", "what real model APIs do, and what becomes of the tasks"), Habits()
    section.rows.append(HEADS)
    figures: dict[str, Any] = {}
    for row in rows:
        seen, usual_s, bound = await all_rows.measure(row)
        section.rows.append(cells(row, seen, usual_s))
        section.bounds.append(bound)
        figures[row.name] = {"seconds": seen.seconds, "usual_s": usual_s, "calls": seen.calls, "refused": seen.refused}
        told(section.rows[-1], bound)
    section.figures = figures
    return section


def habits(plan: Plan) -> list[Section]:
    """For ``make bench``."""
    rows = [row for row in ROWS if row.real is not None]
    return [asyncio.run(measure(rows[:: 5 if plan.quick else 1], lambda cell, _: tell(f"habits: {cell[0]}")))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only rows with one of these in their names")
    words = parser.parse_args().words
    rows = [row for row in ROWS if row.real is not None and (not words or any(word in row.name for word in words))]
    show = lambda cell, bound: print(" · ".join(cell), "" if bound.holds else "· MISSED", bound.bound, flush=True)  # noqa: E731
    section = asyncio.run(measure(rows, show))
    print(text(section))
    return 0 if all(bound.holds for bound in section.bounds) else 1


if __name__ == "__main__":
    sys.exit(main())
