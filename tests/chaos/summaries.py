"""100 summaries of ten parts, and 20 SIGKILLs in the middle: no call whose answer was stored is made again.

The model is the sandbox's, and it keeps every prompt. Each answer names its prompt, so that what a killed daemon has
left on its disk says which calls it need not make again.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from ai_task_processor.processors.chat.summary import PARTS_AT_ONCE
from ai_task_processor.sandbox.answers import answer
from ai_task_processor.sandbox.app import Sandbox, Work
from ai_task_processor.sandbox.faults import Endpoint
from tests.chaos.launcher import Order, Process
from tests.chaos.supervisor import SETTINGS, START_S

TASKS, KILLS = 100, 20
#: with a planted bug
PLANTED_TASKS, PLANTED_KILLS = 20, 2
PARTS, SLOTS = 10, 8
#: so many prompts of one life are asked for before it is killed
LEAST, MOST = 40, 80
MODEL_S = 0.05
SETTLE_S = 120.0
#: what may be under way when the process dies
UNDER_WAY = SLOTS * PARTS_AT_ONCE
#: what each planted bug must be caught for
CHARGES = {"steps-in-memory": "answers lost", "steps-not-found": "paid again after stored"}
_TASK = re.compile(r"\[(\d+):")


@dataclass(slots=True)
class Life:
    """One incarnation. ``stored``: the prompts whose answers were on disk, or whose task was done, when it ended."""

    asked: list[str] = field(default_factory=list)
    stored: frozenset[str] = frozenset()


class Model(Sandbox):
    """A sandbox that knows which prompt was asked for in which life. A prompt's name: its task, and its digest."""

    def __init__(self) -> None:
        super().__init__(model_latency_s=MODEL_S)
        self.lives: list[Life] = []

    async def _play(
        self, endpoint: Endpoint, request: web.BaseRequest, body: bytes, work: Work, task_id: str | None = None
    ) -> web.StreamResponse:
        if endpoint == "model":
            messages = json.loads(body)["messages"]
            prompt: str = messages[-1]["content"]
            name = named(prompt)
            self.lives[-1].asked.append(name)
            usage = {"prompt_tokens": sum(len(each["content"]) for each in messages) // 4, "completion_tokens": 8}
            said = {"role": "assistant", "content": f"[{name.partition('-')[0]}:] {name}"}
            choices = [{"index": 0, "message": said, "finish_reason": "stop"}]
            document = {"object": "chat.completion", "model": "m", "choices": choices, "usage": usage}

            def work(_: bool) -> web.Response:
                return answer(document)

        return await super()._play(endpoint, request, body, work, task_id)


def named(prompt: str) -> str:
    found = _TASK.match(prompt)
    return f"{found[1] if found else '?'}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"


def text(task: int) -> str:
    """Ten paragraphs, each as long as a part may be, about."""
    return "\n\n".join(f"[{task}:{part}] " + f"word{part} " * 520 for part in range(PARTS))


@dataclass(frozen=True, slots=True)
class Result:
    """What was wrong, and how many calls were made in all, and beyond the first of each prompt."""

    wrong: list[str]
    calls: int
    repeated: int


def _prepare(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "control.json").write_text(json.dumps({"disk_full": False, "clock_offset_s": 0.0}))


async def play(directory: Path, rng: random.Random, bug: str = "") -> Result:
    """All lives, with a bug or without."""
    (tasks, kills) = (PLANTED_TASKS, PLANTED_KILLS) if bug else (TASKS, KILLS)
    await asyncio.to_thread(_prepare, directory)
    model = Model()
    async with model:
        ids = {model.tasks.add(text(number), type="summarize"): number for number in range(tasks)}
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            **SETTINGS,
            **model.environment(),
            "DATA_DIR": str(directory / "data"),
            "CONCURRENCY_LIMIT": str(SLOTS),
            "ENABLED_TASK_TYPES": "summarize",
            "SUMMARY_CHUNK_TOKENS": "1000",
        }
        for number in range(kills + 1):
            model.lives.append(life := Life())
            process = _started(directory, environment, number, bug)
            try:
                if number == kills:
                    with contextlib.suppress(TimeoutError):
                        await model.tasks.settled(ids, SETTLE_S)
                elif not await _asked(life, rng, process):
                    return Result([f"life {number} ended by itself, or asked for too little"], *_counted(model.lives))
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()
            life.stored = _stored(directory / "data" / "outbox.db", model, ids)
        wrong = [
            f"task {number}: no summary of its own" for id_, number in ids.items() if not _right(model, id_, number)
        ]
    return Result([*wrong, *judged(model.lives)], *_counted(model.lives))


def judged(lives: Sequence[Life]) -> list[str]:
    """Calls that were made again although their answers were stored, and lives that lost too much."""
    wrong = []
    for number, (before, life) in enumerate(zip([Life(), *lives], lives, strict=False)):
        again = before.stored.intersection(life.asked)
        if again:
            wrong.append(f"paid again after stored: {len(again)} in life {number}")
        if len(set(life.asked)) < len(life.asked):
            wrong.append(f"asked twice in life {number}")
        lost = len(set(life.asked) - life.stored)
        if lost > UNDER_WAY:
            wrong.append(f"answers lost at the end of life {number}: {lost}, and {UNDER_WAY} may be under way")
    return wrong


def _counted(lives: Sequence[Life]) -> tuple[int, int]:
    asked = [name for life in lives for name in life.asked]
    return len(asked), len(asked) - len(set(asked))


def _started(directory: Path, environment: dict[str, str], number: int, bug: str) -> Process:
    return Process(
        Order(
            incarnation=f"#{number}",
            directory=str(directory),
            log=str(directory / "daemon.log"),
            control=str(directory / "control.json"),
            environment=environment,
            bug=bug,
        )
    )


async def _asked(life: Life, rng: random.Random, process: Process) -> bool:
    """Wait until it has asked for enough, and a moment more; false when it does not get there."""
    enough, ends_at = rng.randint(LEAST, MOST), time.monotonic() + START_S
    while len(life.asked) < enough:
        if time.monotonic() > ends_at or process.returncode is not None:
            return False
        await asyncio.sleep(0.005)
    await asyncio.sleep(rng.uniform(0, MODEL_S))
    return process.returncode is None


def _stored(database: Path, model: Model, ids: Mapping[str, int]) -> frozenset[str]:
    """The prompts that must not be asked for again."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5.0)) as db:
        steps = [json.loads(row) for (row,) in db.execute("SELECT answer FROM steps WHERE name LIKE 'answer %'")]
        finished = {task_id for (task_id,) in db.execute("SELECT task_id FROM records")}
    finished |= {task_id for task_id in ids if model.tasks[task_id].state == "succeeded"}
    numbers = {str(ids[task_id]) for task_id in finished}
    found = {value["text"].rpartition(" ")[2] for value, *_ in steps}
    return frozenset(found | {name for life in model.lives for name in life.asked if name.partition("-")[0] in numbers})


def _right(model: Model, task_id: str, number: int) -> bool:
    result = model.tasks[task_id].result
    return isinstance(result, dict) and str(result.get("summary", "")).startswith(f"[{number}:] {number}-")
