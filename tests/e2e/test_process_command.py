"""``ai-task-processor process``: one task through its processor, with nothing claimed, stored or reported."""

import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import COMMAND, Finished, WatchedSandbox, eventually, process_environment, spawned
from tests.e2e.test_strangers import PACKAGES

Command = Callable[..., Awaitable[Finished]]

#: a processor that does with a task what its content says
ACTS = """
from ai_task_processor.processors.base import BaseProcessor, Retry, TaskResult

class ActsProcessor(BaseProcessor):
    task_types = frozenset({"acts"})

    def can_process(self, task):
        return task.type == "acts"

    async def process(self, task):
        if task.content == "retry":
            raise Retry(5)
        if task.content == "nan":
            return TaskResult({"n": float("nan")})
        return TaskResult(await self.context.steps.run("act", getattr(self, task.content)))
"""


@pytest.fixture
def words(install: Callable[..., Path]) -> dict[str, str]:
    """The settings with a package of one processor; nothing of source, store or model."""
    site = install("acme_words", (PACKAGES / "acme_words.py").read_text(), words="acme_words:WordsProcessor")
    return {"PYTHONPATH": str(site), "DATA_DIR": "/proc/nowhere"}


async def processed(command: Command, tmp_path: Path, settings: dict[str, str], task: object, *more: str) -> Finished:
    (tmp_path / "task.json").write_text(json.dumps(task))
    return await command(settings, "process", "task.json", *more)


async def test_a_plug_in_needs_no_settings(command: Command, tmp_path: Path, words: dict[str, str]) -> None:
    """The report stands on standard output as the source would send it, with a failure too; the rest beside it."""
    task = {"type": "word_count", "content": {"text": "one two three"}}
    ended = await processed(command, tmp_path, words, task)
    assert (ended.code, ended.out) == (0, '{"state":"succeeded","result":{"words":3}}\n')
    assert ended.err.startswith("succeeded by WordsProcessor in 0.0")
    assert ended.err.endswith(" s; no model was called\n")
    ended = await processed(command, tmp_path, words, {**task, "_id": "6a", "content": None})
    error = {"code": "invalid_content", "message": "content needs a text"}
    assert (ended.code, json.loads(ended.out)) == (1, {"state": "failed", "error": error})
    ended = await processed(command, tmp_path, {**words, "ACME_LEAST_WORDS": "x"}, task)
    assert (ended.code, ended.out, "ACME_LEAST_WORDS must be" in ended.err) == (78, "", True)


@pytest.mark.parametrize(
    ("content", "code", "report", "words"),
    [
        ("missing", 1, "the processor raised AttributeError", "Traceback"),
        ("nan", 1, "the processor raised ValueError", "Out of range float values"),
        ("retry", 75, None, "the processor asked for more time"),
    ],
)
async def test_what_a_processor_raises(
    command: Command,
    tmp_path: Path,
    install: Callable[..., Path],
    content: str,
    code: int,
    report: str | None,
    words: str,
) -> None:
    """A crash is a failure with its traceback, a retry has an exit code of its own."""
    settings = {"PYTHONPATH": str(install("acme_acts", ACTS, acts="acme_acts:ActsProcessor"))}
    ended = await processed(command, tmp_path, settings, {"type": "acts", "content": content}, "--json")
    assert (ended.code, words in ended.err) == (code, True), ended.err
    told = json.loads(ended.out)["report"]
    assert told == (report and {"state": "failed", "error": {"code": "processor_error", "message": report}})


async def test_a_models_calls_are_counted(sandbox: WatchedSandbox, command: Command, tmp_path: Path) -> None:
    """Model, calls and tokens are those that the model API saw; 69 when it is down; Ctrl-C ends it with 130."""
    settings = {**sandbox.environment(), "TASK_SOURCE": "agents-playground", "MAX_RETRIES": "0"}
    task = {"id": "1", "type": "summarize", "input": {"text": "A long story."}}
    ended = await processed(command, tmp_path, settings, task, "--json")
    told = json.loads(ended.out)
    assert (ended.code, told["state"], told["report"]["status"]) == (0, "succeeded", "done")
    assert (told["models"], told["calls"]) == (["gpt-4.1-mini"], sandbox.chat.calls)
    assert (told["prompt_tokens"], told["completion_tokens"]) == (
        sandbox.chat.prompt_tokens,
        sandbox.chat.completion_tokens,
    )
    text = {"type": "text_embedding", "content": {"text": "hello"}}
    ended = await processed(command, tmp_path, sandbox.environment(), text)
    assert (ended.code, len(json.loads(ended.out)["result"])) == (0, 1536)
    assert "s; text-embedding-3-small; 1 call; " in ended.err
    sandbox.faults.add("model", status=503)
    ended = await processed(command, tmp_path, sandbox.environment() | {"MAX_RETRIES": "0"}, text, "--json")
    assert (ended.code, json.loads(ended.out)["state"]) == (69, "released")
    assert "ai-task-processor: a remote: " in ended.err
    sandbox.faults.clear()
    sandbox.faults.add("model", hang=True)
    arrived = sandbox.stats.model_requests
    environment = process_environment(sandbox.environment())
    async with spawned(*COMMAND, "process", "task.json", cwd=tmp_path, env=environment) as process:
        await eventually(lambda: sandbox.stats.model_requests > arrived)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert (sandbox.stats.polls, sandbox.stats.patches, sandbox.stats.token_requests) == (0, 0, 0)


async def test_a_result_that_cannot_be_sent_has_failed(command: Command, tmp_path: Path) -> None:
    settings = {"TASK_SOURCE": "agents-playground", "ENABLED_TASK_TYPES": "echo"}
    deep = json.loads("[" * 300 + "]" * 300)
    ended = await processed(command, tmp_path, settings, {"type": "echo", "content": {"a": deep}})
    assert (ended.code, json.loads(ended.out)["status"]) == (1, "error")
    assert ended.err.startswith("failed by EchoProcessor in ")


@pytest.mark.parametrize(
    ("settings", "task_type", "remedy"),
    [
        ({}, "word_count", "no processor takes its type: write a prompt type (TASK_TYPES), or a processor"),
        ({}, "echo", "its type is built in and not enabled: add it to ENABLED_TASK_TYPES"),
        ({}, "text_embedding", "OPENAI_API_KEY is not set"),
        ({"ENABLED_TASK_TYPES": "echo"}, "sleep", "ENABLED_TASK_TYPES does not name its type"),
    ],
)
async def test_a_type_that_is_not_taken_says_why(
    command: Command, tmp_path: Path, settings: dict[str, str], task_type: str, remedy: str
) -> None:
    ended = await processed(command, tmp_path, settings, {"type": task_type, "content": {}})
    assert (ended.code, ended.out) == (78, "")
    assert f"the type '{task_type}' is not taken: {remedy}" in ended.err
