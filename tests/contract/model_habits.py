"""A model API on a socket with the habits of real ones, and a crowd of tasks that wants vectors from it."""

import asyncio
import base64
import json
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any

from ai_task_processor.batching import MicroBatcher, ModelCircuits
from ai_task_processor.clock import SystemClock
from ai_task_processor.errors import NeighbourError, TaskError
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Failed, Released, Tries, Vector
from ai_task_processor.providers.openai_api import OpenAIProvider
from ai_task_processor.resilience import Retries
from ai_task_processor.settings import load_settings
from ai_task_processor.transport import make_client
from ai_task_processor.verdict import decide

#: components of a right vector
LENGTH = 64


@dataclass
class Ask:
    """One call as the server sees it. ``number`` counts from 0; ``at``: seconds since the first one."""

    texts: list[str]
    body: Mapping[str, Any]
    size: int
    number: int
    at: float

    def has(self, word: str) -> bool:
        return any(word in text for text in self.texts)


@dataclass
class Answer:
    """``content``: JSON, or bytes as they are. ``after_s``: None hangs for ever. ``cut``: closed half way."""

    status: int = 200
    content: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float | None = 0.0
    cut: bool = False


Habit = Callable[[Ask], Answer | None]


def numbers(text: str, length: int = LENGTH) -> list[float]:
    """The right vector of a text."""
    rng = Random(text)
    return [rng.gauss(0.0, 0.1) for _ in range(length)]


def encoded(values: Sequence[float], code: str = "<f") -> str:
    return base64.b64encode(struct.pack(f"{code[0]}{len(values)}{code[1]}", *values)).decode()


def served(ask: Ask, *, length: Callable[[int], int] = lambda _: LENGTH, code: str = "<f") -> dict[str, Any]:
    """A right answer; ``length`` of the vector at a place, ``code``: how base64 is packed."""
    vectors: list[Any] = [numbers(text, length(place)) for place, text in enumerate(ask.texts)]
    if ask.body.get("encoding_format") == "base64":
        vectors = [encoded(values, code) for values in vectors]
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": ask.body["model"], "usage": {"prompt_tokens": ask.size // 4 + 1}}


class ModelServer:
    """Answers embeddings as its habit says, and rightly where it says nothing; each call takes ``latency_s``."""

    def __init__(self, habit: Habit, latency_s: float = 0.01) -> None:
        self.habit = habit
        self.latency_s = latency_s
        self.asked: list[Ask] = []
        self.statuses: list[int] = []
        self._began_at: float | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
                )
                if not await self._answer(await reader.readexactly(length), writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, content: bytes, writer: asyncio.StreamWriter) -> bool:
        body, now = json.loads(content), asyncio.get_running_loop().time()
        self._began_at = now if self._began_at is None else self._began_at
        texts = body["input"]
        ask = Ask(texts, body, len(content), len(self.asked), now - self._began_at)
        self.asked.append(ask)
        answer = self.habit(ask) or Answer(content=served(ask))
        if answer.after_s is None:
            await asyncio.sleep(3600)
        await asyncio.sleep(self.latency_s + (answer.after_s or 0.0))
        self.statuses.append(answer.status)
        raw = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
        kind = "text/html" if isinstance(answer.content, bytes) else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(raw)), **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase if answer.status < 520 else 'Odd'}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + raw[: len(raw) // 2 if answer.cut else None])
        await writer.drain()
        return not answer.cut


@dataclass
class Report:
    """What became of the tasks. ``left``: still pending. ``wrong``: vectors that are not the text's."""

    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    wrong: int = 0
    took_s: float = 0.0
    said: dict[str, Any] = field(default_factory=dict)


class Crowd:
    """Tasks in slots, as the scheduler has them: admitted, given back, tried again; the delays are real."""

    def __init__(self, url: str, slots: int, *, timeout_s: float = 1.0, memory: Any = None, dimensions: int | None = None):
        settings = load_settings({**SETTINGS, "OPENAI_BASE_URL": url, "OPENAI_TIMEOUT": str(timeout_s), **(
            {} if dimensions is None else {"EMBEDDING_DIMENSIONS": str(dimensions)})})
        self.slots = slots
        self.clock = SystemClock()
        self.metrics = Metrics(version="1", provider="openai", models=["m"])
        self.client = make_client(settings.network, url=url, connections=16, max_answer_bytes=2**26)
        self.provider = OpenAIProvider(settings.model, self.client, self.metrics)
        self.circuits = ModelCircuits(threshold=5, clock=self.clock, metrics=self.metrics)
        self.batcher = MicroBatcher(
            self.provider.embed,
            circuits=self.circuits,
            threshold=5,
            retries=Retries(3, 2.0),
            intake=self,
            clock=self.clock,
            metrics=self.metrics,
            memory=memory,
            length_of=lambda _: (dimensions, None),
        )
        self._rng = Random(1)

    def refilling(self) -> bool:
        return False

    async def work(self, tasks: Sequence[tuple[str, str]], seconds: float, *, culprits: str | None = None) -> Report:
        """Embed (text, model) pairs for so long at most; it ends when only texts with ``culprits`` in them are left."""
        report, loop = Report(), asyncio.get_running_loop()
        pending = deque((text, model, 0.0, Tries()) for text, model in tasks)
        running: dict[asyncio.Task[None], str] = {}
        began_at = loop.time()

        async def one(text: str, model: str, tries: Tries) -> None:
            try:
                embedded = await self.batcher.embed(text, model)
            except (NeighbourError, TaskError) as error:
                match decide(error, tries, self._rng):
                    case Failed(failure):
                        report.failed[text] = failure.code
                    case Released(delay_s, _):
                        pending.append((text, model, loop.time() + delay_s, tries))
            else:
                right = Vector(struct.pack(f"<{LENGTH}f", *numbers(text)))
                report.wrong += embedded.vector != right
                report.done += 1

        batching = asyncio.create_task(self.batcher.run())
        await asyncio.sleep(0)
        try:
            while (now := loop.time()) < began_at + seconds:
                lanes = Counter(running.values())
                for entry in list(pending)[:2_000]:
                    if len(running) >= self.slots:
                        break
                    text, model, due, tries = entry
                    if due <= now and self.batcher.lane_hold_s(model, lanes[model]) <= 0:
                        pending.remove(entry)
                        lanes[model] += 1
                        running[asyncio.create_task(one(text, model, tries))] = model
                left = [text for text, *_ in pending if culprits is None or culprits not in text]
                if not running and not left:
                    break
                if not left and report.done >= sum(culprits is None or culprits not in text for text, _ in tasks):
                    break
                await asyncio.wait(running, timeout=0.005, return_when="FIRST_COMPLETED") if running else await asyncio.sleep(0.005)
                running = {task: model for task, model in running.items() if not task.done()}
            report.said = {"paused": self.batcher.troubles(), "paced": self.batcher.paces(), "aside": self.batcher.offenders()}
        finally:
            for task in running:
                task.cancel()
            batching.cancel()
            await asyncio.wait([batching, *running])
            await self.provider.aclose()
        report.left = [text for text, *_ in pending]
        report.took_s = loop.time() - began_at
        return report


SETTINGS = {
    "API_BASE_URL": "http://127.0.0.1:1",
    "OAUTH2_TOKEN_URL": "http://127.0.0.1:1/token",
    "OAUTH2_CLIENT_ID": "id",
    "OAUTH2_CLIENT_SECRET": "planted-secret",
    "OPENAI_API_KEY": "sk-planted-key",
}
