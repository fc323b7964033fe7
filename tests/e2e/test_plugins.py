"""A stranger's processor: installed as a wheel beside the daemon, found by its entry point, run like a built-in."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import DaemonProcess, Start, eventually

ROOT = Path(__file__).parents[2]
Install = Callable[..., Path]

SLEEPER = """
import asyncio

from pydantic import BaseModel

from ai_task_processor.processors.base import BaseProcessor, Retry, Task, TaskError, TaskResult


class Told(BaseModel):
    told: str
    number: int


class SleepingProcessor(BaseProcessor):
    task_types = frozenset({"sleep"})

    def __init__(self):
        self.seen = set()

    def can_process(self, task: Task) -> bool:
        return task.type == "sleep"

    async def process(self, task: Task) -> TaskResult:
        again, self.seen = task.id in self.seen, self.seen | {task.id}
        await asyncio.sleep(task.content.get("seconds", 0))
        match task.content.get("do"):
            case "refuse":
                raise TaskError("too_tired", "this one sleeps too long")
            case "later" if not again:
                raise Retry(task.content["delay"])
            case "crash":
                raise ValueError(f"cannot parse {task.content['text']}")
            case "no json":
                return TaskResult({"what": object(), "text": task.content["text"]})
            case "not a number":
                return TaskResult({"score": float("nan")})
            case "nothing":
                return None
            case "model":
                return TaskResult({"inside": [Told(told="yes", number=7)]})
        return TaskResult({"slept": task.content.get("seconds", 0)})
"""


@pytest.fixture
def sleeper(install: Install) -> Path:
    return install("acme_sleep", SLEEPER, sleep="acme_sleep:SleepingProcessor")


async def test_one_slow_task_holds_nobody_up(sandbox: Sandbox, daemon: Start, sleeper: Path) -> None:
    """20 tasks of 200 ms, one of them 5 s, five slots: 19 are acknowledged while the slow one still runs."""
    contents = [{"seconds": 5.0 if number == 0 else 0.2} for number in range(20)]
    slow, *quick = [sandbox.tasks.add(type="sleep", content=content) for content in contents]
    worker = await daemon(PYTHONPATH=sleeper, CONCURRENCY_LIMIT=5)
    assert worker.events("plugin.loaded")[0]["package"] == "acme-sleep"
    began = time.monotonic()
    await sandbox.tasks.settled(quick, timeout=15)
    # 19 tasks in four slots are five rounds of 200 ms.
    assert time.monotonic() - began < 4
    assert sandbox.tasks[slow].state == "pending"
    assert (await worker.status())["slots"] == {"total": 5, "running": 1}
    await sandbox.tasks.settled([slow], timeout=15)
    assert sandbox.tasks[slow].result == {"slept": 5.0}
    assert await worker.metric('tasks_processed_total{status="succeeded",task_type="sleep"}') == 20


async def test_what_a_processor_may_do_and_what_becomes_of_it(sandbox: Sandbox, daemon: Start, sleeper: Path) -> None:
    """TaskError fails, Retry waits, three crashes fail without user text, models are JSON, built-ins go on beside."""
    secret = "text-of-a-user"

    def add(do: str, **more: object) -> str:
        return sandbox.tasks.add(type="sleep", content={"do": do, "text": secret, **more})

    later, refused, crashing = add("later", delay=2.0), add("refuse"), add("crash")
    no_json, nan, nothing, model = add("no json"), add("not a number"), add("nothing"), add("model")
    embedding = sandbox.tasks.add(text="built-in")
    began = time.monotonic()
    worker = await daemon(PYTHONPATH=sleeper, CONCURRENCY_LIMIT=10, POLLING_INTERVAL_SECONDS=0.2)
    await sandbox.tasks.settled([refused, model, embedding], timeout=15)
    assert sandbox.tasks[refused].error == {"code": "too_tired", "message": "this one sleeps too long"}
    assert sandbox.tasks[model].result == {"inside": [{"told": "yes", "number": 7}]}
    assert sandbox.tasks[embedding].state == "succeeded"

    await sandbox.tasks.settled([later], timeout=15)
    (released,) = [event for event in worker.events("task.released") if event["task_id"] == later]
    (completed,) = [event for event in worker.events("task.completed") if event["task_id"] == later]
    assert (released["again_in_s"], completed["attempt"]) == (2.0, 2)
    assert time.monotonic() - began >= 2

    await sandbox.tasks.settled([crashing, no_json, nan, nothing], timeout=30)
    names = {crashing: "ValueError", no_json: "ValueError", nan: "ValueError", nothing: "AttributeError"}
    for task_id, name in names.items():
        task = sandbox.tasks[task_id]
        message = f"3 attempts ended with {name}"
        assert (task.state, task.error) == ("failed", {"code": "processor_error", "message": message})
    assert len([event for event in worker.events("task.released") if event["task_id"] == crashing]) == 2
    assert secret not in worker.log.read_text()
    assert (await worker.get("/ready")).status_code == 200


UNFINISHED = """
from ai_task_processor.processors.base import BaseProcessor


class Processor(BaseProcessor):
    def can_process(self, task):
        return task.content["key"] == 1
"""
PICKY = (
    UNFINISHED
    + """
    async def process(self, task):
        raise NotImplementedError
"""
)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_library_that_is_not_there\n", "cannot be loaded (ModuleNotFoundError)"),
        ("class Processor:\n    pass\n", "is not a BaseProcessor"),
        (UNFINISHED, "cannot be loaded (TypeError)"),
    ],
    ids=["import", "foreign class", "abstract class"],
)
async def test_a_broken_plug_in_is_named_and_nothing_starts(
    sandbox: Sandbox, daemon: Start, install: Install, source: str, reason: str
) -> None:
    """A processor that cannot be loaded: exit 78, one line with the package's name, no request to anybody."""
    site = install("acme_broken", source, broken="acme_broken:Processor")
    worker = await daemon(wait=False, PYTHONPATH=site)
    assert await worker.exit_code() == 78
    (line,) = worker.log.read_text().splitlines()
    assert line.startswith("ai-task-processor: the processor 'broken' of the package 'acme-broken' ")
    assert reason in line
    assert (sandbox.stats.token_requests, sandbox.stats.polls) == (0, 0)


async def test_a_processor_that_throws_while_choosing_loses_its_tasks_only(
    sandbox: Sandbox, daemon: Start, install: Install
) -> None:
    """An exception in ``can_process`` leaves that task pending; the tasks of others are processed."""
    site = install("acme_picky", PICKY, picky="acme_picky:Processor")
    strange = sandbox.tasks.add(type="strange", content={"text": "text-of-a-user"})
    good = [sandbox.tasks.add(text=f"good {number}") for number in range(5)]
    worker = await daemon(PYTHONPATH=site, POLLING_INTERVAL_SECONDS=0.2)
    await sandbox.tasks.settled(good, timeout=15)
    await asyncio.sleep(1)
    assert sandbox.tasks[strange].state == "pending"
    assert worker.events("plugin.failed")
    assert "text-of-a-user" not in worker.log.read_text()


def documented_example(name: str) -> str:
    """The fenced Python block that follows ``<!-- example: name -->`` in ``docs/plugins.md``."""
    marked = rf"<!-- example: {name} -->\s*```python\n(.*?)^```"
    found = re.search(marked, (ROOT / "docs/plugins.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert found, f"the page has no python block behind <!-- example: {name} -->"
    return found[1]


async def test_the_documented_processor_works_as_it_stands(sandbox: Sandbox, daemon: Start, install: Install) -> None:
    """The example, installed as a package of its own, counts words and refuses what it cannot read."""
    package = "ai_task_processor_word_count"
    site = install(package, documented_example("processor"), word_count=f"{package}:WordCountProcessor")
    good = [sandbox.tasks.add(type="word_count", content={"text": "one two three " * number}) for number in (1, 2)]
    bad = sandbox.tasks.add(type="word_count", content={"no": "text"})
    worker = await daemon(PYTHONPATH=site, POLLING_INTERVAL_SECONDS=0.2)
    await sandbox.tasks.settled([*good, bad], timeout=20)
    assert [sandbox.tasks[task_id].result for task_id in good] == [{"words": 3}, {"words": 6}]
    error = sandbox.tasks[bad].error
    assert sandbox.tasks[bad].state == "failed"
    assert isinstance(error, dict)
    assert error["code"] != "processor_error", json.dumps(error)
    assert await worker.stop() == 0


KILLER = """
import asyncio
import os

from ai_task_processor.processors.base import BaseProcessor, Task, TaskResult


class KillingProcessor(BaseProcessor):
    task_types = frozenset({"kill"})

    def can_process(self, task: Task) -> bool:
        return task.type == "kill"

    async def process(self, task: Task) -> TaskResult:
        if task.content == "poison":
            await asyncio.sleep(0.2)
            os._exit(134)
        await asyncio.sleep(0.5 if task.content == "companion" else 0.2)
        return TaskResult({"attempt": task.attempt})
"""


def sorted_out(worker: DaemonProcess) -> bool:
    """Has it said what became of the tasks that were in flight?"""
    return bool(worker.events("recovery.started") or worker.events("task.quarantined"))


async def test_a_task_that_kills_the_process_is_found_and_set_aside(
    sandbox: Sandbox, daemon: Start, install: Install
) -> None:
    """Two deaths in company, three isolated, between other work; companions are cleared. Set aside until a retry."""
    site = install("acme_kill", KILLER, kill="acme_kill:KillingProcessor")
    poison = sandbox.tasks.add(type="kill", content="poison")
    others = [sandbox.tasks.add(type="kill", content="companion") for _ in range(4)]
    settings = {"PYTHONPATH": site, "POLLING_INTERVAL_SECONDS": 1}
    deaths = 0
    while deaths < 10:
        if deaths == 2:
            more = [sandbox.tasks.add(type="kill", content=number) for number in range(800)]
        worker = await daemon(**settings)
        if deaths:
            await eventually(partial(sorted_out, worker))
        if worker.events("task.quarantined"):
            break
        if deaths == 2:
            status = await worker.status()
            assert status["isolation"]["waiting"] + (status["isolation"]["running"] is not None) == 5
        assert await worker.exit_code(timeout=60) == 134
        if deaths == 2:
            first = worker.events("task.isolated")[0]["timestamp"]
            assert sum(event["timestamp"] < first for event in worker.events("task.completed")) >= 10
        deaths += 1
    assert deaths == 5
    await sandbox.tasks.settled([*others, *more], timeout=60)
    assert [sandbox.tasks[task_id].state for task_id in others] == ["succeeded"] * 4
    assert [sandbox.tasks[task_id].result for task_id in others] == [{"attempt": 3}] * 4
    assert sandbox.tasks[poison].state == "pending"
    assert await worker.metric("quarantined_tasks") == 1
    await worker.metric_when('tasks_skipped_total{reason="quarantined"}', lambda polls: polls >= 1)
    listed = await worker.command("outbox", "list", "--dead")
    assert poison in listed.out
    assert "quarantined" in listed.out
    assert "died 3 times" in listed.out
    assert (await worker.status())["isolation"] == {"waiting": 0, "running": None}
    await worker.command("outbox", "retry", poison)
    assert await worker.exit_code(timeout=15) == 134
