"""The profile agents-playground with the real command: what its API does to a worker."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web

from ai_task_processor.sandbox.app import Sandbox, Work
from ai_task_processor.sandbox.faults import Endpoint
from ai_task_processor.sandbox.playground import Playground
from tests.contract.http.servers import Authority
from tests.e2e.conftest import COMMAND, Start, eventually, run_command, spawned

#: of a summary of the sandbox
SUMMARY = {"summary": "The answer."}


class Watched(Sandbox):
    """A sandbox that keeps the prompts of its model, in order."""

    def __init__(self) -> None:
        super().__init__(profile="agents-playground")
        self.prompts: list[str] = []

    async def _play(
        self, endpoint: Endpoint, request: web.BaseRequest, body: bytes, work: Work, task_id: str | None = None
    ) -> web.StreamResponse:
        if endpoint == "model":
            self.prompts.append(json.loads(body)["messages"][-1]["content"])
        return await super()._play(endpoint, request, body, work, task_id)


@pytest.fixture
async def sandbox() -> AsyncIterator[Watched]:
    started = Watched()
    async with started:
        yield started


@pytest.fixture
def api(sandbox: Watched) -> Playground:
    return sandbox.playground


def content(number: int) -> dict[str, str]:
    """A text where each kind of client puts it."""
    text = f"The tide table of port {number} was wrong."
    return [{"text": text}, {"content": text}, {"file_content": base64.b64encode(text.encode()).decode()}][number % 3]


async def test_fifty_summaries(sandbox: Watched, api: Playground, daemon: Start) -> None:
    """Each is done once, beginning with the oldest, with its text alone in the prompt. Other types are left alone."""
    others = [api.add(type=kind, input={"text": "x"}) for kind in ("summarize_document", "agent:x", "workflow:y", "")]
    ids = [
        api.add(input=content(number) | {"_trace_context": {"traceparent": "hidden"}, "_forged": "hidden"}, user_id="u")
        for number in range(50)
    ]
    others += [api.add(type="tool:z", input={"text": "x"})]
    worker = await daemon(CONCURRENCY_LIMIT=4)
    await api.settled(ids, timeout=30)
    assert [(api[each].state, api[each].document["output"]) for each in ids] == [("done", SUMMARY)] * 50
    assert {tuple(api[each].ended) for each in ids} == {(True,)}
    texts = [f"The tide table of port {number} was wrong." for number in range(50)]
    assert sorted(sandbox.prompts) == sorted(texts)
    assert sandbox.prompts[0] in texts[:4]
    assert {api[each].state for each in others} == {"pending"}
    assert await worker.metric('tasks_skipped_total{reason="unknown_type"}') >= 5
    assert await worker.stop() == 0


async def test_answers_that_are_lost_after_the_commit(sandbox: Watched, api: Playground, daemon: Start) -> None:
    """Every third PATCH is answered 500: none is left running, none is reported again after the API has shown it."""
    sandbox.faults.add("patch", status=500, after=True, every=3)
    ids = [api.add(f"text {number}") for number in range(30)]
    worker = await daemon(REQUEST_TIMEOUT=1)
    await api.settled(ids, timeout=30)
    await worker.status_when(lambda status: status["outbox"]["waiting"] == 0)
    assert await worker.stop() == 0
    assert api.outcomes() == {"done": 30}
    assert {(len(api[each].ended), api[each].document["output"] == SUMMARY) for each in ids} == {(1, True)}


async def test_a_kill_in_the_middle(sandbox: Watched, api: Playground, daemon: Start) -> None:
    """Back within seconds of the restart, without a poll to wait for; parts whose answers were stored are not paid
    again.
    """
    sandbox.model_latency_s = 0.3
    long = "\n\n".join(f"{number} " + "word " * 750 for number in range(10))
    ids = [api.add(long), *(api.add(f"text {number}") for number in range(3))]
    settings = {"SUMMARY_CHUNK_TOKENS": 1_000, "POLLING_INTERVAL_SECONDS": 300}
    first = await daemon(**settings)
    await first.metric_when('steps_total{outcome="run"}', lambda value: value >= 1 + 4)
    await first.kill()
    assert api[ids[0]].state == "running"
    second, began_at = await daemon(**settings), time.monotonic()
    await api.settled(ids, timeout=10)
    assert time.monotonic() - began_at < 5.0
    assert await second.metric('steps_total{outcome="replayed"}') >= 1 + 4
    assert len(sandbox.prompts) <= 10 + 4 + 1 + 3 + 3
    assert await second.stop() == 0
    assert api.outcomes() == {"done": 4}


async def test_sigterm(sandbox: Watched, api: Playground, daemon: Start) -> None:
    """What can be finished is; the other task is handed back."""
    sandbox.faults.add("model", delay_s=0.5, times=1)
    sandbox.faults.add("model", hang=True)
    ids = [api.add("slow"), api.add("stuck")]
    worker = await daemon(SHUTDOWN_GRACE_SECONDS=2)
    await eventually(lambda: len(sandbox.prompts) == 2)
    assert await worker.stop() == 0
    slow, stuck = sorted(ids, key=lambda each: api[each].state)
    assert (api[slow].document["output"], api[stuck].state) == (SUMMARY, "pending")


async def test_an_operators_error_and_certificates(api: Playground, daemon: Start, tmp_path: Path) -> None:
    """Over TLS, to a server that demands a certificate: a task starts by push, an operator sets ``error`` while it
    runs, and our result is discarded, which is told. Without the certificate ``doctor`` names it.
    """
    root = Authority(tmp_path)
    secured = Watched()
    await secured.start(ssl=root.context(clients=True))
    try:
        settings = {"CA_BUNDLE": root.pem, "CLIENT_CERT_FILE": root.issue("client"), "POLLING_INTERVAL_SECONDS": 300}
        worker = await daemon(to=secured, **settings)
        await worker.status_when(lambda status: status["push"]["connected"] and status["uptime_seconds"] > 0.2)
        secured.faults.add("model", delay_s=0.5)
        task_id = secured.playground.add("stopped")
        await secured.playground.broadcast()
        await eventually(lambda: secured.prompts == ["stopped"])
        secured.playground.set(task_id, status="error", error="not needed")
        (lost,) = await eventually(lambda: worker.events("delivery.lost"))
        assert lost["task_id"] == task_id
        document = secured.playground[task_id].document
        assert (document["status"], document["error"], document["output"]) == ("error", "not needed", None)
        assert await worker.metric('deliveries_total{outcome="conflict"}') == 1
        without = {**secured.environment(), "CA_BUNDLE": str(root.pem), "DATA_DIR": str(tmp_path / "none")}
        ended = await run_command(tmp_path, without, "doctor")
        assert (ended.code, ended.out.count("CLIENT_CERT_FILE") > 0) == (78, True)
    finally:
        await secured.aclose()


async def test_a_model_in_trouble(sandbox: Watched, api: Playground, daemon: Start) -> None:
    """Every third call fails, some are throttled, one gets no answer: all is done, and nothing ended in ``error``."""
    silent = sandbox.faults.add("model", hang=True, times=1)
    sandbox.faults.add("model", status=429, times=2, headers={"Retry-After": "1"})
    sandbox.faults.add("model", status=500, every=3)
    ids = [api.add(f"text {number}") for number in range(30)]
    await daemon(CHAT_TIMEOUT=2)
    await api.settled(ids, timeout=40)
    assert (api.outcomes(), silent.hits) == ({"done": 30}, 1)


async def test_the_sandbox_alone(tmp_path: Path) -> None:
    """``sandbox --profile`` prints what a daemon needs, takes tasks, and tells what became of them."""
    pipes = {"stdout": asyncio.subprocess.PIPE}
    async with spawned(*COMMAND, "sandbox", "--port", "0", "--profile", "agents-playground", **pipes) as process:
        page: list[str] = []
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while not page or not page[-1].startswith("Mend them"):
                page.append((await process.stdout.readline()).decode().strip())
        settings = dict(line.split("=", 1) for line in page if line.partition("=")[0].isupper())
        assert settings["TASK_SOURCE"] == "agents-playground"
        async with httpx2.AsyncClient(base_url=settings["API_BASE_URL"], trust_env=False) as client:
            (task_id, *_) = (await client.post("/sandbox/tasks", json={"count": 2})).json()["ids"]
            answer = await client.post("/tasks", json={"type": "summarize", "input": {"text": "Hello"}})
            assert answer.status_code == 201
            ended = await run_command(tmp_path, {**settings, "DATA_DIR": str(tmp_path)}, "run", "--until-empty")
            assert ended.code == 0
            assert (await client.get("/sandbox/stats")).json()["tasks"] == {"done": 3}
            done: dict[str, Any] = (await client.get(f"/tasks/{task_id}")).json()
            assert (done["output"], done["error"]) == (SUMMARY, "")
