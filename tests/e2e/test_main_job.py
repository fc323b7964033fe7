"""The main job over real sockets: token, poll, process, keep, PATCH."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import MODEL, Start, eventually


@pytest.mark.parametrize(("settings", "slots"), [({"CONCURRENCY_LIMIT": 32}, 32), ({}, 5)])
async def test_every_task_is_acknowledged_once_with_the_models_own_bits(
    sandbox: Sandbox, daemon: Start, settings: dict[str, int], slots: int
) -> None:
    """500 tasks: each acknowledged exactly once, bit for bit, with one token and few model calls; exit 0."""
    texts = {sandbox.tasks.add(text=f"text number {number}, ünïcödé"): number for number in range(500)}
    worker = await daemon(**settings)
    await sandbox.tasks.settled(texts, timeout=60)
    assert await worker.stop() == 0
    for task_id, number in texts.items():
        task = sandbox.tasks[task_id]
        assert (task.state, task.patches, task.callbacks) == ("succeeded", 1, 1)
        assert task.result == sandbox.vector(f"text number {number}, ünïcödé", MODEL)
    assert sandbox.stats.token_requests == 1
    assert sandbox.stats.patches == 500
    assert sandbox.stats.model_inputs == 500
    assert sandbox.stats.model_requests <= 1.5 * 500 / slots + 5
    assert not worker.events("daemon.crashed")


@pytest.mark.parametrize("limit", ["ignored", "refused"])
async def test_an_api_that_lists_everything_is_asked_rarely(sandbox: Sandbox, daemon: Start, limit: Any) -> None:
    """1,000 tasks in 5 slots, 2,000 unknown ones ahead: a few lists instead of hundreds, and a task after a wake-up."""
    sandbox.api.limit = limit
    for _ in range(2_000):
        sandbox.tasks.add(type="horoscope")
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(1_000)]
    worker = await daemon(WAKE_TOKEN="0123456789abcdef")
    await sandbox.tasks.settled(ids, timeout=60)
    listed = sandbox.stats.polls
    assert listed <= 8
    late = sandbox.tasks.add(text="late")
    await worker.wake("0123456789abcdef")
    await sandbox.tasks.settled([late], timeout=5)
    backlog = (await worker.status())["backlog"]
    assert (backlog["read_ahead"], backlog["skipped"]["unknown_type"]) == (0, 2_000)
    assert await worker.stop() == 0
    assert {(sandbox.tasks[name].patches, sandbox.tasks[name].callbacks) for name in ids} == {(1, 1)}


async def test_a_result_can_be_an_object(sandbox: Sandbox, daemon: Start) -> None:
    """EMBEDDING_RESULT=object tells model, dimensions and usage beside the vector."""
    task_id = sandbox.tasks.add(text="hello")
    await daemon(EMBEDDING_RESULT="object", EMBEDDING_DIMENSIONS=256)
    await sandbox.tasks.settled([task_id], timeout=20)
    result = sandbox.tasks[task_id].result
    assert result == {
        "embedding": sandbox.vector("hello", MODEL, 256),
        "model": MODEL,
        "dimensions": 256,
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }


async def test_both_spellings_plain_strings_and_equal_texts(sandbox: Sandbox, daemon: Start) -> None:
    """Both type spellings work, a plain string is a text, and equal texts share one input."""
    ids = [sandbox.tasks.add(text="the same") for _ in range(8)]
    ids += [sandbox.tasks.add(type="text-embedding", content="the same") for _ in range(8)]
    await daemon(CONCURRENCY_LIMIT=16)
    await sandbox.tasks.settled(ids, timeout=20)
    assert {sandbox.tasks[task_id].result for task_id in ids} == {sandbox.vector("the same", MODEL)}
    assert sandbox.stats.model_inputs == 1


@pytest.mark.parametrize(("settings", "inputs"), [({}, 1), ({"VECTOR_CACHE_BYTES": "0"}, 2)])
async def test_a_text_that_comes_again_is_not_paid_for_again(
    sandbox: Sandbox, daemon: Start, settings: dict[str, str], inputs: int
) -> None:
    """The vector of a text is remembered, and counted as what it saved; with 0 bytes nothing is."""
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.2, **settings)
    for _ in range(2):
        task_id = sandbox.tasks.add(text="again and again")
        await sandbox.tasks.settled([task_id], timeout=20)
        assert sandbox.tasks[task_id].result == sandbox.vector("again and again", MODEL)
    assert sandbox.stats.model_inputs == inputs
    assert await worker.metric("vector_cache_hits_total") == 2 - inputs
    assert await worker.metric("vector_cache_saved_tokens_total") == (2 - inputs) * sandbox.stats.model_tokens


@pytest.mark.parametrize(("told", "refused"), [(True, 6), (False, 180)], ids=["headers", "429s alone"])
async def test_a_rate_limit_is_used_up_and_not_run_into(
    sandbox: Sandbox, daemon: Start, told: bool, refused: int
) -> None:
    """1,000 tasks in 200 calls at 20 a second: hardly a 429 when headers state the limit.

    In ten seconds a stated limit that stays used up is tested three times, each by two calls (``StatedLimit``).
    Without headers the limit is found within these ten seconds, and kept from then on (``tests/bench/pace``).
    """
    sandbox.model.limit(requests_per_minute=1_200, depth=20, announced=told)
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(1_000)]
    worker = await daemon(CONCURRENCY_LIMIT=5)
    learnt = 'model_pace_calls_per_second{model="text-embedding-3-small"}'
    if not told:
        await worker.metric_when(learnt, lambda pace: pace > 0, timeout=30)
    await sandbox.tasks.settled(ids, timeout=60)
    assert sandbox.model.throttled <= refused
    assert sandbox.model.calls <= 1.5 * 200 + 5
    assert not told or await worker.metric(learnt) == 0, "a limit that is told need not be learnt"
    assert await worker.metric('model_throttled_total{model="text-embedding-3-small"}') == sandbox.model.throttled
    assert not worker.events("task.released")


@pytest.mark.parametrize(
    ("content", "error", "slots"),
    [
        ({"text": "[[refuse]] this one"}, {"code": "input_refused", "message": "the model refuses this text"}, 16),
        (7, {"code": "invalid_content"}, 5),
        ({"text": 7}, {"code": "invalid_content"}, 5),
        ({"words": "no text"}, {"code": "invalid_content"}, 5),
        ({"text": ""}, {"code": "empty_text"}, 5),
        ({"text": "long " * 9_000}, {"code": "text_too_long"}, 5),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_bad_content_fails_with_a_code_and_spares_its_remotes(
    sandbox: Sandbox, daemon: Start, content: object, error: dict[str, str], slots: int
) -> None:
    """What the model refuses (a 400 is bisected), is not text, empty or too long fails alone."""
    good = [sandbox.tasks.add(text=f"good {number}") for number in range(slots - 1)]
    bad = sandbox.tasks.add(content=content)
    await daemon(CONCURRENCY_LIMIT=slots)
    await sandbox.tasks.settled([*good, bad], timeout=20)
    assert [sandbox.tasks[task_id].state for task_id in good] == ["succeeded"] * len(good)
    told = sandbox.tasks[bad].error
    assert isinstance(told, dict)
    assert sandbox.tasks[bad].state == "failed"
    assert error.items() <= told.items()


async def test_a_hanging_model_call_holds_only_its_own_batch(sandbox: Sandbox, daemon: Start) -> None:
    sandbox.faults.add("model", hang=True, text="hang")
    hanging = [sandbox.tasks.add(text="hang here")]
    worker = await daemon(CONCURRENCY_LIMIT=32, POLLING_INTERVAL_SECONDS=1)
    await eventually(lambda: sandbox.stats.model_requests == 1)
    later = [sandbox.tasks.add(text=f"later {number}") for number in range(100)]
    await sandbox.tasks.settled(later, timeout=15)
    assert [sandbox.tasks[task_id].state for task_id in hanging] == ["pending"]
    assert (await worker.get("/health")).status_code == 200


async def test_memory_does_not_grow_with_the_list(sandbox: Sandbox, daemon: Start) -> None:
    """300,000 listed tasks with ``limit`` ignored: at most 64 MB over the idle process."""
    warm = [sandbox.tasks.add(text=f"warm {number}") for number in range(8)]
    worker = await daemon(CONCURRENCY_LIMIT=8, POLLING_INTERVAL_SECONDS=0.2)
    await sandbox.tasks.settled(warm, timeout=20)
    idle_kb = worker.memory_kb("VmRSS")
    sandbox.api.limit = "ignored"
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(300_000)]
    await sandbox.tasks.settled(ids[:200], timeout=60)
    assert worker.memory_kb("VmHWM") - idle_kb <= 64 * 1024


async def test_unknown_tasks_at_the_head_do_not_starve_the_rest(sandbox: Sandbox, daemon: Start) -> None:
    """5,000 unknown tasks ahead of 10 known ones: done within 15 s, and polling stays calm afterwards."""
    unknown = [sandbox.tasks.add(type="horoscope", content={"sign": "leo"}) for _ in range(5_000)]
    known = [sandbox.tasks.add(text=f"known {number}") for number in range(10)]
    worker = await daemon(POLLING_INTERVAL_SECONDS=1)
    await sandbox.tasks.settled(known, timeout=15)
    await asyncio.sleep(1)
    polls = sandbox.stats.polls
    await asyncio.sleep(4)
    assert 2 <= sandbox.stats.polls - polls <= 6
    assert all(sandbox.tasks[task_id].state == "pending" for task_id in unknown)
    assert "unknown_type" in (await worker.status())["why_idle"]


async def test_a_finished_result_survives_kill_9(sandbox: Sandbox, daemon: Start, tmp_path: Path) -> None:
    """Killed between result and PATCH: delivered within 2 s of the next start, and the model is not called again."""
    sandbox.faults.add("patch", hang=True)
    task_id = sandbox.tasks.add(text="precious")
    first = await daemon()
    await eventually(lambda: sandbox.stats.patches == 1)
    await first.kill()
    sandbox.faults.clear()
    second = await daemon()
    started_at = time.monotonic()
    await sandbox.tasks.settled([task_id], timeout=10)
    assert time.monotonic() - started_at < 2.0
    assert sandbox.tasks[task_id].result == sandbox.vector("precious", MODEL)
    assert sandbox.stats.model_requests == 1
    assert second.events("outbox.recovered")[0]["results"] == 1
    assert await second.stop() == 0


async def test_sigterm_drains_and_a_second_signal_leaves_at_once(sandbox: Sandbox, daemon: Start) -> None:
    """SIGTERM claims nothing more and waits for what runs; the second signal does not wait."""
    sandbox.faults.add("model", hang=True)
    task_id = sandbox.tasks.add(text="slow")
    worker = await daemon()
    await eventually(lambda: sandbox.stats.model_requests == 1)
    worker.send(signal.SIGTERM)
    await eventually(lambda: worker.events("drain.started"))
    ready = await worker.get("/ready")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["draining"])
    polls = sandbox.stats.polls
    await asyncio.sleep(1)
    assert sandbox.stats.polls == polls
    worker.send(signal.SIGTERM)
    assert await worker.exit_code(timeout=1) == 128 + signal.SIGTERM
    assert sandbox.tasks[task_id].state == "pending"


async def test_until_empty_leaves_by_itself(sandbox: Sandbox, daemon: Start) -> None:
    """``run --until-empty`` exits 0 once everything that can be processed is acknowledged."""
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(20)]
    sandbox.tasks.add(type="unknown")
    worker = await daemon("run", "--until-empty")
    assert await worker.exit_code() == 0
    assert all(sandbox.tasks[task_id].callbacks == 1 for task_id in ids)


async def test_mock_mode_needs_no_model(sandbox: Sandbox, daemon: Start) -> None:
    """The placeholder key switches to mock vectors: unit length, the model's dimensions, equal for equal texts."""
    ids = [sandbox.tasks.add(text="a"), sandbox.tasks.add(text="a"), sandbox.tasks.add(text="b")]
    worker = await daemon(OPENAI_API_KEY="your_openai_api_key_here")
    await sandbox.tasks.settled(ids, timeout=20)
    first, second, third = (sandbox.tasks[task_id].result for task_id in ids)
    assert isinstance(first, bytes)
    assert (len(first), first == second, first == third) == (1536 * 4, True, False)
    assert (await worker.status())["mode"] == "mock"
    assert worker.events("settings.warned")
    assert sandbox.stats.model_requests == 0


async def test_without_a_key_embeddings_stay_pending(sandbox: Sandbox, daemon: Start) -> None:
    """No key and no base URL: it starts, processes no embedding, and says why."""
    task_id = sandbox.tasks.add(text="a")
    worker = await daemon(OPENAI_API_KEY="", OPENAI_BASE_URL="", POLLING_INTERVAL_SECONDS=1)
    await worker.status_when(lambda status: "OPENAI_API_KEY" in str(status["why_idle"]))
    assert sandbox.tasks[task_id].state == "pending"
    assert (await worker.get("/ready")).status_code == 200


async def test_marked_tasks_end_settled_or_pending_whatever_happens(sandbox: Sandbox, daemon: Start) -> None:
    """MARK_IN_PROGRESS: seen while it works; after a kill and after a drain that cuts, nothing is left in_progress."""
    marking = {"MARK_IN_PROGRESS": "true", "POLLING_INTERVAL_SECONDS": 0.5, "CONCURRENCY_LIMIT": 8}
    served = sandbox.tasks.add(text="before")
    worker = await daemon(**marking)
    await sandbox.tasks.settled([served], timeout=20)
    sandbox.faults.add("model", hang=True)
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(8)]
    await eventually(lambda: sandbox.tasks.outcomes()["in_progress"] == 8, timeout=30)
    await eventually(lambda: sandbox.stats.model_requests > 1)
    await worker.kill()

    asked = sandbox.stats.model_requests
    sandbox.faults.add("pending", status=503, times=3)
    worker = await daemon(**marking, SHUTDOWN_GRACE_SECONDS=1)
    await eventually(lambda: sandbox.tasks.outcomes()["pending"] == 8, timeout=30)
    await eventually(lambda: sandbox.stats.model_requests > asked, timeout=30)
    assert await worker.stop() == 0
    assert sandbox.tasks.outcomes() == {"pending": 8, "succeeded": 1}

    sandbox.faults.clear()
    sandbox.faults.add("patch", after=True, reset=True, times=4)
    await daemon(**marking)
    await sandbox.tasks.settled(ids, timeout=40)
    assert sandbox.tasks.outcomes() == {"succeeded": 9}
    assert all(task.callbacks >= 1 for task in sandbox.tasks)
