"""The types that are named to be taken, with the real command; and steps, also of a stranger's processor."""

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.e2e.conftest import WatchedSandbox, eventually

Start = Callable[..., Awaitable[Any]]
MORE = "summarize,chat,echo,sleep,simulate"
SAID = [{"role": "user", "content": "Hello"}]
LEVEL = {
    "type": "object",
    "required": ["level"],
    "additionalProperties": False,
    "properties": {"level": {"enum": ["high", "low"]}},
}


async def test_each_of_the_five_types(sandbox: WatchedSandbox, daemon: Start) -> None:
    """What comes in and what goes out; a type that is not named stays pending."""
    wanted: list[tuple[str, object, Any]] = [
        ("summarize", {"text": "A text."}, {"summary": "The answer."}),
        ("chat", {"messages": SAID}, {"text": "The answer."}),
        ("chat", {"messages": SAID, "schema": LEVEL}, [{"level": "high"}, {"level": "low"}]),
        ("chat", {"messages": []}, "invalid_content"),
        ("echo", {"msg": "héllo"}, {"msg": "héllo"}),
        ("echo", "x", "task_rejected_invalid_params"),
        ("sleep", {"seconds": 0.1}, {"slept_seconds": 0.1}),
        ("sleep", {"seconds": True}, "task_rejected_invalid_params"),
        ("sleep", {"seconds": 700}, "task_runtime_exceeded"),
        ("simulate", {}, {"worked_seconds": 0.2}),
        ("summarize", {"text": ""}, "empty_text"),
    ]
    ids = [sandbox.tasks.add(type=kind, content=content) for kind, content, _ in wanted]
    other = sandbox.tasks.add("not named")
    worker = await daemon(ENABLED_TASK_TYPES=MORE, SIMULATED_WORK_SECONDS="0.2", CONCURRENCY_LIMIT=16)
    await sandbox.tasks.settled(ids, timeout=30)
    for task_id, (kind, content, expected) in zip(ids, wanted, strict=True):
        task: Any = sandbox.tasks[task_id]
        found = task.result if task.state == "succeeded" else task.error["code"]
        assert found in expected if isinstance(expected, list) else found == expected, (kind, content)
    assert sandbox.tasks[other].state == "pending"
    assert await worker.stop() == 0


async def test_without_their_names_they_stay_pending(sandbox: WatchedSandbox, daemon: Start) -> None:
    """They may be somebody else's."""
    ids = [sandbox.tasks.add(type=kind, content={"seconds": 0}) for kind in MORE.split(",")]
    embedded = sandbox.tasks.add("x")
    worker = await daemon()
    await sandbox.tasks.settled([embedded], timeout=30)
    await worker.metric_when('tasks_skipped_total{reason="unknown_type"}', lambda value: value >= len(ids))
    assert {sandbox.tasks[task_id].state for task_id in ids} == {"pending"}


async def test_a_long_text_goes_on_after_a_kill(sandbox: WatchedSandbox, daemon: Start) -> None:
    """Ten parts, killed in the middle: only the calls under way are made again; the disk is left empty."""
    sandbox.model_latency_s = 0.3
    settings = {"ENABLED_TASK_TYPES": "summarize", "SUMMARY_CHUNK_TOKENS": 1000}
    text = "\n\n".join(f"{number} " + "word " * 750 for number in range(10))
    task_id = sandbox.tasks.add(text, type="summarize")
    first = await daemon(**settings)
    await first.metric_when('steps_total{outcome="run"}', lambda value: value >= 1 + 4)
    await first.kill()
    second = await daemon(**settings)
    await sandbox.tasks.settled([task_id], timeout=30)
    assert sandbox.tasks[task_id].result == {"summary": "The answer."}
    assert await second.metric('steps_total{outcome="replayed"}') >= 1 + 4
    assert sandbox.chat.calls <= 10 + 4 + 1
    assert await second.stop() == 0


STRANGER = """
import os, signal
from pathlib import Path
from ai_task_processor.processors.base import BaseProcessor, TaskResult

class Paying(BaseProcessor):
    task_types = frozenset({"paying"})

    def can_process(self, task):
        return task.type == "paying"

    async def process(self, task):
        found = []
        for number in range(4):
            async def call():
                with open("../paid", "a") as file:
                    file.write(f"{task.id} {number}\\n")
                return {"number": number}
            found.append((await self.context.steps.run(f"call {number}", call))["number"])
            if number == 2 and not Path("../killed").exists():
                Path("../killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return TaskResult({"found": found})
"""


async def test_a_strangers_processor_pays_once(
    sandbox: WatchedSandbox, daemon: Start, install: Callable[..., Path], tmp_path: Path
) -> None:
    """Its process dies after the third of four calls: the next one makes only the fourth."""
    site = install("acme_paying", STRANGER, paying="acme_paying:Paying")
    task_id = sandbox.tasks.add(type="paying", content={})
    first = await daemon(PYTHONPATH=site, wait=False)
    assert await first.exit_code() == -9
    await daemon(PYTHONPATH=site)
    await sandbox.tasks.settled([task_id], timeout=30)
    assert sandbox.tasks[task_id].result == {"found": [0, 1, 2, 3]}
    paid = Counter((tmp_path / "paid").read_text().splitlines())
    assert paid == {f"{task_id} {number}": 1 for number in range(4)}
    await eventually(lambda: sandbox.tasks[task_id].callbacks == 1)
