"""Prompt types with the real command: the documented example, models with bad habits, kills, and ``types``."""

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.sandbox.claims import Claim
from tests.e2e.conftest import ROOT, Finished, WatchedSandbox, eventually

Start = Callable[..., Awaitable[Any]]
Command = Callable[..., Awaitable[Finished]]
PAGE = (ROOT / "docs/prompt-types.md").read_text("utf-8")
EXAMPLE = re.findall(r"example: prompt type -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
PRICES = """
[models."gpt-4.1-mini"]
prompt = 1
completion = 4
[models."text-embedding-3-small"]
prompt = 1
"""
LEVELS = {"good", "mixed", "bad"}


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The prompt type of ``docs/prompt-types.md``."""
    (file := tmp_path / "sentiment.toml").write_text(*EXAMPLE)
    return file


def add(sandbox: WatchedSandbox, count: int) -> list[str]:
    return [sandbox.tasks.add(f"text {number}", type="sentiment") for number in range(count)]


def outcomes(sandbox: WatchedSandbox, ids: list[str]) -> Counter[str]:
    """How many ended with each level or code, after checking that each was reported once."""
    found: Counter[str] = Counter()
    for task_id in ids:
        task = sandbox.tasks[task_id]
        assert (task.patches, task.callbacks) == (1, 1 if task.state == "succeeded" else 0)
        error: Any = task.error
        found[str(task.result if task.state == "succeeded" else error["code"])] += 1
    return found


async def test_the_documented_example(sandbox: WatchedSandbox, daemon: Start, example: Path, tmp_path: Path) -> None:
    """Beside embeddings, with one chat call a task, the metrics, the cost of both, and the status."""
    ids, texts = add(sandbox, 40), [sandbox.tasks.add(f"embed {number}") for number in range(20)]
    (prices := tmp_path / "prices.toml").write_text(PRICES)
    worker = await daemon(TASK_TYPES=example, CONCURRENCY_LIMIT=16, MODEL_PRICES=prices)
    await sandbox.tasks.settled([*ids, *texts], timeout=30)
    assert outcomes(sandbox, ids).keys() == LEVELS
    assert sandbox.chat.calls == 40
    labels = '{model="gpt-4.1-mini",outcome="ok",task_type="sentiment"}'
    assert await worker.metric(f"model_answers_total{labels}") == 40
    chat_cost = sandbox.chat.prompt_tokens + 4 * sandbox.chat.completion_tokens
    assert await worker.metric('model_cost_total{model="gpt-4.1-mini"}') == pytest.approx(chat_cost / 1e6)
    embedding_cost = await worker.metric('model_cost_total{model="text-embedding-3-small"}')
    assert embedding_cost == pytest.approx(sandbox.stats.model_tokens / 1e6)
    assert (await worker.status())["circuits"]["chat"]["state"] == "closed"
    assert await worker.stop() == 0


@pytest.mark.parametrize(
    ("habits", "failed"),
    [
        ({"prose": 0.5, "fence": 0.5}, set()),
        (
            {"truncated": 0.1, "refusal": 0.1, "wrong": 0.1, "tool_call": 0.1},
            {"truncated", "refused", "invalid_output"},
        ),
    ],
)
async def test_a_model_with_bad_habits(
    sandbox: WatchedSandbox, daemon: Start, example: Path, habits: dict[str, float], failed: set[str]
) -> None:
    """Every task ends with a level of the schema, or ``failed`` with its code after three answers; none is empty."""
    sandbox.chat.behave(habits)
    ids = add(sandbox, 100)
    await daemon(TASK_TYPES=example, CONCURRENCY_LIMIT=16)
    await sandbox.tasks.settled(ids, timeout=60)
    found = outcomes(sandbox, ids)
    assert set(found) <= LEVELS | failed
    assert sum(found[level] for level in LEVELS) >= (100 if not failed else 85)


async def test_an_outage_fails_nothing_and_a_kill_loses_nothing(
    sandbox: WatchedSandbox, daemon: Start, example: Path
) -> None:
    """503s and resets, then SIGKILL in the middle: all succeed, and what was stored is not paid for again."""
    sandbox.model_latency_s = 0.05
    sandbox.faults.add("model", status=503, probability=0.2)
    sandbox.faults.add("model", reset=True, probability=0.1)
    ids = add(sandbox, 60)
    first = await daemon(TASK_TYPES=example, CONCURRENCY_LIMIT=8)
    await eventually(lambda: sandbox.chat.calls >= 20)
    await first.kill()
    paid = sandbox.chat.calls
    await daemon(TASK_TYPES=example, CONCURRENCY_LIMIT=8)
    await sandbox.tasks.settled(ids, timeout=60)
    assert {sandbox.tasks[task_id].state for task_id in ids} == {"succeeded"}
    assert sandbox.chat.calls - paid <= 60 - (paid - 8)


async def test_mock_answers(daemon: Start, sandbox: WatchedSandbox, example: Path) -> None:
    """With the placeholder key no model is called, and every answer fits the schema."""
    ids = add(sandbox, 5)
    await daemon(TASK_TYPES=example, OPENAI_API_KEY="your_openai_api_key_here")
    await sandbox.tasks.settled(ids, timeout=30)
    assert (outcomes(sandbox, ids), sandbox.chat.calls) == ({"good": 5}, 0)


async def test_content_that_breaks_its_rules(sandbox: WatchedSandbox, daemon: Start, example: Path) -> None:
    """Each ends ``failed`` without a call."""
    contents: list[object] = [{}, {"text": 5}, {"text": ""}, {"text": "x" * 10_001}, [], 5, {"text": {"a": 1}}]
    ids = [sandbox.tasks.add(type="sentiment", content=content) for content in contents]
    await daemon(TASK_TYPES=example)
    await sandbox.tasks.settled(ids, timeout=30)
    assert outcomes(sandbox, ids) == {"invalid_content": 5, "empty_text": 1, "text_too_long": 1}
    assert sandbox.chat.calls == 0


async def test_types_that_cannot_be_loaded_stop_the_start(command: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('type = "x"\ninstructions = "{{ 1 }}"\n')
    ended = await command({"TASK_TYPES": str(tmp_path), "API_BASE_URL": "http://127.0.0.1:1"}, "types", "list")
    assert (ended.code, ended.out) == (78, "")
    assert f"{tmp_path}/bad.toml:2: instructions: " in ended.err


async def test_the_types_command(sandbox: WatchedSandbox, command: Command, tmp_path: Path, example: Path) -> None:
    """List, show and try: one call, a result on standard output, nothing reported."""
    settings = {name: text for name, text in sandbox.environment().items() if name.startswith("OPENAI")}
    settings["TASK_TYPES"] = str(example)
    (prices := tmp_path / "prices.toml").write_text(PRICES)
    settings |= {"MODEL_PRICES": str(prices), "CHAT_API": "responses"}
    (tmp_path / "task.json").write_text(json.dumps({"type": "sentiment", "content": {"text": "I like it."}}))
    listed = await command(settings, "types", "list")
    assert listed.code == 0
    assert listed.out.splitlines()[1].split() == ["sentiment", "gpt-4.1-mini", "sentiment", "text"]
    shown = await command(settings, "types", "show", "sentiment")
    assert json.loads(shown.out)["schema"]["required"] == ["sentiment", "why"]
    tried = await command(settings, "types", "try", "sentiment", "task.json")
    assert tried.code == 0
    result = json.loads(tried.out)
    assert result["result"] in LEVELS
    assert result["prompt_tokens"] == sandbox.chat.prompt_tokens > result["cached_tokens"] == 0
    assert result["cost"] == pytest.approx((result["prompt_tokens"] + 4 * result["completion_tokens"]) / 1e6)
    sandbox.chat.behave({"refusal": 1.0})
    refused = await command(settings, "types", "try", "sentiment", "task.json")
    assert (refused.code, json.loads(refused.out)["error"]["code"]) == (1, "refused")
    assert (await command(settings, "types", "try", "nothing", "task.json")).code == 66
    sandbox.chat.behave({})
    claim = Claim.numbered(7)
    (tmp_path / "claim.json").write_text(json.dumps({"text": claim.text, "model": "o3"}))
    settings["WIKIDATA_URL"] = sandbox.environment()["WIKIDATA_URL"]
    people = await command(settings, "types", "try", "identifying_data", "claim.json")
    assert (json.loads(people.out)["cost"], people.err.count("cost.not_counted")) == (None, 1)
    found = json.loads(people.out)["result"]["personalities"]
    assert [each["wikidata"]["id"] for each in found] == [each.id for each in claim.people] != []
    assert json.loads((await command(settings, "types", "show", "defining_severity")).out)["schema"]
    assert (await command(settings, "types", "try", "sentiment", "none.json")).code == 66
    away = {**settings, "OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "MAX_RETRIES": "0"}
    assert (await command(away, "types", "try", "sentiment", "task.json")).code == 69
    assert sandbox.stats.patches == 0
