"""The sandbox over real sockets, seen by the clients that the daemon uses: httpx2 and the official openai client."""

import asyncio
import json
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx2
import openai
import pytest

from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.app import Sandbox, serve
from tests.contract.helpers import failing
from tests.e2e.conftest import COMMAND, MODEL, eventually, spawned


@asynccontextmanager
async def api_client(sandbox: Sandbox, *, timeout: float = 5.0) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the task API that holds a token."""
    async with httpx2.AsyncClient(base_url=sandbox.url, trust_env=False, timeout=timeout) as client:
        credentials = sandbox.tokens.credentials
        form = {"grant_type": "client_credentials", "scope": "read write", "audience": "tasks"}
        granted = await client.post("/oauth2/token", auth=(credentials.client_id, credentials.client_secret), data=form)
        client.headers["authorization"] = f"Bearer {granted.json()['access_token']}"
        yield client


@asynccontextmanager
async def model_client(sandbox: Sandbox, key: str = "sk-sandbox") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{sandbox.url}/v1", max_retries=0, timeout=5) as client:
        yield client


def vector_body(values: bytes) -> dict[str, object]:
    return {"state": "succeeded", "result": list(struct.unpack(f"<{len(values) // 4}f", values))}


async def test_a_task_goes_through_all_three_remotes() -> None:
    """Token, poll, embedding and PATCH: the stored result is bit for bit the model's vector."""
    async with Sandbox() as sandbox, api_client(sandbox) as api, model_client(sandbox) as model:
        task_id = sandbox.tasks.add("Grüße aus Łódź")
        [listed] = (await api.get("/api/ai-tasks/pending?limit=5")).json()
        assert listed["_id"] == task_id
        embedded = await model.embeddings.create(model=MODEL, input=listed["content"]["text"])
        patched = await api.patch(
            f"/api/ai-tasks/{task_id}", json={"state": "succeeded", "result": embedded.data[0].embedding}
        )
        await sandbox.tasks.settled([task_id], 1)
        assert patched.json()["state"] == "succeeded"
        assert sandbox.tasks[task_id].result == sandbox.vector("Grüße aus Łódź", MODEL)
        assert (await api.get("/api/ai-tasks/pending")).json() == []
        assert (sandbox.stats.polls, sandbox.stats.patches, sandbox.stats.token_requests) == (2, 1, 1)
        assert (sandbox.stats.model_calls, sandbox.stats.model_inputs) == (1, 1)
        assert sandbox.tokens.grants[-1].audience == "tasks"


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_both_encodings_carry_the_same_bits(encoding: str) -> None:
    """Base64 and shortest digits give the same float32, with ``dimensions`` honoured."""
    frozen = Sandbox(monotonic=lambda: 1.0)  # or a slow machine would see the allowance refilled
    async with frozen as sandbox, httpx2.AsyncClient(base_url=sandbox.url, trust_env=False) as client:
        call = {"model": MODEL, "input": ["a", "b"], "dimensions": 64, "encoding_format": encoding}
        answered = await client.post("/v1/embeddings", json=call, headers={"authorization": "Bearer sk-sandbox"})
        async with model_client(sandbox) as model:
            typed = await model.embeddings.create(model=MODEL, input=["a", "b"], dimensions=64)
    second = answered.json()["data"][1]["embedding"]
    if encoding == "float":
        assert struct.pack("<64f", *second) == sandbox.vector("b", MODEL, 64)
    assert struct.pack("<64f", *typed.data[1].embedding) == sandbox.vector("b", MODEL, 64)
    assert answered.headers["x-ratelimit-remaining-requests"] == "9999"


async def test_openai_client_raises_its_own_errors() -> None:
    """Wrong key, unknown model, refused text and an empty account arrive as the client's typed errors."""
    async with Sandbox() as sandbox, model_client(sandbox) as model, model_client(sandbox, "sk-wrong") as stranger:
        await failing(openai.AuthenticationError, stranger.models.list())
        unknown = await failing(openai.NotFoundError, model.embeddings.create(model="gpt-0", input="a"))
        assert unknown.code == "model_not_found"
        await failing(
            openai.BadRequestError, model.embeddings.create(model=MODEL, input=["fine", "not [[refuse]] fine"])
        )
        sandbox.faults.add("model", status=429, code="insufficient_quota", times=1)
        quota = await failing(openai.RateLimitError, model.embeddings.create(model=MODEL, input="a"))
        assert (quota.code, quota.type) == ("insufficient_quota", "insufficient_quota")
        assert (await model.models.list()).data[0].id == MODEL
        assert (await model.models.retrieve(MODEL)).id == MODEL
        assert sandbox.stats.model_calls == 0


async def test_task_api_wants_a_token_that_is_still_good() -> None:
    """No token, a revoked and an expired one are 401 in Nest's shape."""
    async with Sandbox() as sandbox, api_client(sandbox) as api:
        bare = await api.get("/api/ai-tasks/pending", headers={"authorization": ""})
        assert bare.json() == {"statusCode": 401, "message": "Unauthorized", "error": "Unauthorized"}
        sandbox.tokens.revoke()
        assert (await api.get("/api/ai-tasks/pending")).status_code == 401
        sandbox.tokens.expires_in = 0
        async with api_client(sandbox) as late:
            assert (await late.get("/api/ai-tasks/pending")).status_code == 401


async def test_faults_on_the_wire() -> None:
    """Reset, truncated, dripping, hanging and false answers reach the client as such, then the truth is back."""
    async with Sandbox() as sandbox, api_client(sandbox, timeout=0.3) as api:
        sandbox.tasks.add("a")
        faults: list[tuple[dict[str, object], type[Exception]]] = [
            ({"reset": True}, httpx2.ReadError),
            ({"truncate": True}, httpx2.RemoteProtocolError),
            ({"hang": True}, httpx2.ReadTimeout),
            ({"delay_s": 60}, httpx2.ReadTimeout),
        ]
        for how, error in faults:
            sandbox.faults.add("pending", times=1, **how)
            await failing(error, api.get("/api/ai-tasks/pending"))
        sandbox.faults.add("pending", drip_s=0.1, times=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await api.get("/api/ai-tasks/pending")
        sandbox.faults.add("pending", status=200, body="html", times=1)
        assert (await api.get("/api/ai-tasks/pending")).text.startswith("<!doctype")
        sandbox.faults.add("pending", status=503, headers={"Retry-After": "7"}, times=1)
        assert (await api.get("/api/ai-tasks/pending")).headers["retry-after"] == "7"
        assert len((await api.get("/api/ai-tasks/pending")).json()) == 1


async def test_lost_answer_leaves_the_state_saved() -> None:
    """After the work a reset loses the answer alone: the callback ran, and the repetition runs it again."""
    async with Sandbox() as sandbox, api_client(sandbox) as api:
        task_id = sandbox.tasks.add("a")
        task = sandbox.tasks[task_id]
        body = vector_body(sandbox.vector("a", MODEL))
        for after, patches in ((False, 0), (True, 1)):
            sandbox.faults.add("patch", reset=True, after=after, times=1, task_id=task_id)
            await failing(httpx2.ReadError, api.patch(f"/api/ai-tasks/{task_id}", json=body))
            assert task.patches == patches
        assert (task.state, task.callbacks, task.answers_lost, task.acknowledged_at) == ("succeeded", 1, 1, None)
        assert (await api.patch(f"/api/ai-tasks/{task_id}", json=body)).status_code == 200
        assert (task.callbacks, task.patches) == (2, 2)
        assert task.acknowledged_at is not None


async def test_a_very_long_list_is_streamed() -> None:
    """20,000 pending tasks arrive whole, and a client that stops after the first piece costs nothing."""
    async with Sandbox() as sandbox, api_client(sandbox, timeout=30) as api:
        for _ in range(20_000):
            sandbox.tasks.add("a")
        async with api.stream("GET", "/api/ai-tasks/pending") as stream:
            first = await anext(stream.aiter_raw())
        assert first.startswith(b"[{")
        assert len(first) < 1_000_000
        assert len((await api.get("/api/ai-tasks/pending")).json()) == 20_000


async def test_standalone_sandbox_is_driven_over_http() -> None:
    """``serve`` announces its environment, takes tasks and faults over HTTP, and ends when cancelled."""
    announced: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(serve("127.0.0.1", 0, announce=announced.put_nowait))
    page = await asyncio.wait_for(announced.get(), 5)
    url = next(line.partition("=")[2] for line in page.splitlines() if line.startswith("API_BASE_URL="))
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.get("/")).text == page
        assert f"\n{(await client.get('/sandbox/environment')).text}\n" in page
        assert len((await client.post("/sandbox/tasks", json={"count": 3})).json()["ids"]) == 3
        await client.post("/sandbox/tasks", json=[{"text": "a", "id": "mine"}])
        assert (await client.get("/sandbox/stats")).json()["tasks"] == {"pending": 4}
        assert (await client.post("/sandbox/faults", json={"endpoint": "token", "status": 503})).json() == {"faults": 1}
        assert (await client.post("/oauth2/token")).status_code == 503
        assert (await client.delete("/sandbox/faults")).json() == {"faults": 0}
        assert (await client.post("/oauth2/token")).json()["error"] == "invalid_request"
        for path, body in [("/sandbox/faults", {"endpoint": "moon"}), ("/sandbox/tasks", {"colour": 1})]:
            refused = await client.post(path, json=body)
            assert (refused.status_code, "endpoint" in refused.text or "count" in refused.text) == (400, True)
        assert json.loads((await client.get("/nowhere")).text)["message"] == "Cannot GET /nowhere"
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    assert serving.cancelled()


async def test_tasks_and_faults_can_be_looked_at() -> None:
    """In JSON by state and limit, and on a page on which what others have sent is text."""
    async with Sandbox() as sandbox, httpx2.AsyncClient(base_url=sandbox.url, trust_env=False) as client:
        ids = [sandbox.tasks.add("a", type=kind) for kind in ("text_embedding", "<b>", "text_embedding")]
        sandbox.tasks.add_raw(b"no JSON")
        sandbox.tasks.settle(sandbox.tasks[ids[0]], TaskStatus.SUCCEEDED, result=[0.5, 1.0, 2.0, 4.0])
        error = {"code": "refused", "message": "<script>" + "x" * 200}
        sandbox.tasks.settle(sandbox.tasks[ids[1]], TaskStatus.FAILED, error=error)
        await client.post("/sandbox/faults", json={"endpoint": "patch", "status": 503, "times": 2})
        listed = (await client.get("/sandbox/tasks")).json()
        assert (listed["count"], [row["id"] for row in listed["tasks"][1:]]) == (4, ids[::-1])
        assert listed["tasks"][3] == {
            "id": ids[0],
            "type": "text_embedding",
            "state": "succeeded",
            "reports": 1,
            "outcome": "4 numbers: 0.5000, 1.0000, 2.0000, …",
        }
        pending = (await client.get("/sandbox/tasks?state=pending&limit=1")).json()
        assert (pending["count"], len(pending["tasks"]), pending["tasks"][0]["type"]) == (2, 1, "")
        for query in ("state=done", "limit=0", "limit=x"):
            refused = await client.get(f"/sandbox/tasks?{query}")
            assert (refused.status_code, refused.json()["message"].startswith(query.partition("=")[0])) == (400, True)
        (fault,) = (await client.get("/sandbox/faults")).json()["faults"]
        assert fault == {"endpoint": "patch", "status": 503, "times": 2, "hits": 0}
        page = await client.get("/", headers={"accept": "text/html,*/*"})
        assert page.text == (await client.get("/sandbox")).text
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "<script>" not in page.text
        assert "<b>" not in page.text
        for shown in (
            *ids,
            "refused: &lt;script&gt;xxx",
            "0.5000, 1.0000",
            "times&#34;:2",
            f"{sandbox.url}/sandbox/tasks",
        ):
            assert shown in page.text


async def test_the_other_task_api_has_the_same_page() -> None:
    async with Sandbox(profile="agents-playground") as sandbox, httpx2.AsyncClient(base_url=sandbox.url) as client:
        await client.post("/sandbox/tasks", json=[{"type": "echo", "input": {"a": 1}}, {"type": "echo"}])
        first, second = (task.id for task in sandbox.playground)
        sandbox.playground.set(first, status="done", output={"a": 1})
        sandbox.playground.set(second, status="error", error="no: thanks")
        rows = (await client.get("/sandbox/tasks")).json()["tasks"]
        assert [(row["state"], row["reports"], row["outcome"]) for row in rows] == [
            ("error", 1, "no: thanks"),
            ("done", 1, '{"a":1}'),
        ]
        assert "no: thanks" in (await client.get("/sandbox")).text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_standalone_sandbox_stops_when_it_is_told(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM: exit 0 without a word, though a client still waits for an answer."""
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    async with spawned(*COMMAND, "sandbox", "--port", "0", **pipes) as process:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while not (line := (await process.stdout.readline()).decode()).startswith("API_BASE_URL="):
                assert line, "it ended by itself"
        async with httpx2.AsyncClient(base_url=line.strip().partition("=")[2], trust_env=False) as client:
            await client.post("/sandbox/faults", json={"endpoint": "token", "hang": True})
            waiting = asyncio.create_task(client.post("/oauth2/token"))

            async def asked() -> object:
                return (await client.get("/sandbox/stats")).json()["token_requests"] == 1

            await eventually(asked)
            process.send_signal(number)
            _, errors = await asyncio.wait_for(process.communicate(), 10)
            with pytest.raises(httpx2.TransportError):
                await waiting
        assert (process.returncode, errors.decode()) == (0, "")
