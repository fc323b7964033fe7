"""A model API on a socket with the habits of real ones, and a crowd of tasks that wants vectors from it."""

import asyncio
import base64
import json
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from itertools import islice
from random import Random
from typing import Any

from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.errors import RemoteError, TaskError
from ai_task_processor.core.reading import load_settings
from ai_task_processor.engine.outcome import classify
from ai_task_processor.models.task import Failed, Released, Tries, Vector
from ai_task_processor.net.client import make_client
from ai_task_processor.net.resilience import Retries
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.embedding import MicroBatcher, ModelCircuits
from ai_task_processor.processors.embedding.batcher import Memory
from ai_task_processor.providers.openai_api import OpenAIProvider
from ai_task_processor.providers.settings import ModelSettings

#: components of a right vector
LENGTH = 64
#: how often the crowd looks for tasks to start, seconds
LOOK_S = 0.005
#: as many tasks are looked at in one go, oldest first
LOOKED_AT = 2_000
SETTINGS = {
    "API_BASE_URL": "http://127.0.0.1:1",
    "OAUTH2_TOKEN_URL": "http://127.0.0.1:1/token",
    "OAUTH2_CLIENT_ID": "id",
    "OAUTH2_CLIENT_SECRET": "planted-secret",
    "OPENAI_API_KEY": "sk-planted-key",
}


@dataclass
class Ask:
    """One call as the server sees it. ``number`` counts from 0; ``at``: seconds since the first one."""

    texts: list[str]
    body: Mapping[str, Any]
    size: int
    number: int
    at: float

    @property
    def model(self) -> str:
        return str(self.body["model"])

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


#: what a server does with a call; None: it serves it
Habit = Callable[[Ask], Answer | None]


@lru_cache(maxsize=8192)
def numbers(text: str, length: int = LENGTH) -> tuple[float, ...]:
    """The right vector of a text."""
    rng = Random(text)
    return tuple(rng.gauss(0.0, 0.1) for _ in range(length))


def right_vector(text: str) -> bytes:
    """The same as float32, little-endian."""
    return struct.pack(f"<{LENGTH}f", *numbers(text))


def served(ask: Ask, *, length: Callable[[int], int] = lambda _: LENGTH, code: str = "<f") -> dict[str, Any]:
    """A right answer; ``length`` of the vector at a place, ``code``: how base64 is packed."""
    vectors: list[Any] = [numbers(text, length(place)) for place, text in enumerate(ask.texts)]
    if ask.body.get("encoding_format") == "base64":
        scaled = [[int(100 * value) for value in values] for values in vectors] if code[1] == "i" else vectors
        packed = [struct.pack(f"{code[0]}{len(values)}{code[1]}", *values) for values in scaled]
        vectors = [base64.b64encode(data).decode() for data in packed]
    data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": ask.model, "usage": {"prompt_tokens": ask.size // 4 + 1}}


class ModelServer:
    """Answers embeddings as its habit says, and rightly where it says nothing; each call takes ``latency_s``.

    ``asked``: every call in the order of arrival; ``refused_calls``: the numbers of those that were not answered with
    a whole 200. ``began_at``: when the first one arrived, in seconds since the epoch.
    """

    def __init__(self, habit: Habit, latency_s: float = 0.005) -> None:
        self.habit = habit
        self.latency_s = latency_s
        self.asked: list[Ask] = []
        self.refused_calls: list[int] = []
        self.began_at: float | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def refused(self) -> int:
        return len(self.refused_calls)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Listen; answers the URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
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
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                if not await self._answer(await reader.readexactly(length), writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, content: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one call; may the connection live on?"""
        body, now = json.loads(content), time.time()
        self.began_at = now if self.began_at is None else self.began_at
        ask = Ask(body["input"], body, len(content), len(self.asked), now - self.began_at)
        self.asked.append(ask)
        answer = self.habit(ask) or Answer(content=served(ask))
        if answer.status != HTTPStatus.OK or answer.cut or answer.after_s is None:
            self.refused_calls.append(ask.number)
        await asyncio.sleep(3600 if answer.after_s is None else self.latency_s + answer.after_s)
        writer.write(_message(answer))
        await writer.drain()
        return not answer.cut


def _message(answer: Answer) -> bytes:
    page = isinstance(answer.content, bytes)
    content = answer.content if page else json.dumps(answer.content).encode()
    headers = {"Content-Type": "text/html" if page else "application/json", "Content-Length": str(len(content))}
    phrase = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else "Odd"
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content[: len(content) // 2 if answer.cut else None]


@dataclass(slots=True)
class Job:
    """A task: its text, the model that it names, and what became of it. ``reason``: why it was given back last."""

    text: str
    model: str
    due: float = 0.0
    tries: Tries = field(default_factory=Tries)
    outcome: str | None = None
    reason: str | None = None


@dataclass
class Report:
    """What became of the tasks. ``wrong``: vectors that are not the text's. ``said``: what ``/status`` would say."""

    jobs: list[Job]
    wrong: int = 0
    took_s: float = 0.0
    said: dict[str, Mapping[str, str]] = field(default_factory=dict)


class Crowd:
    """Tasks in slots, as the scheduler has them: oldest first, admitted, given back, tried again; delays are real."""

    def __init__(
        self,
        url: str,
        slots: int,
        *,
        timeout_s: float = 1.0,
        memory: Memory | None = None,
        dimensions: int | None = None,
    ) -> None:
        more = {} if dimensions is None else {"EMBEDDING_DIMENSIONS": str(dimensions)}
        given = {**SETTINGS, **more, "OPENAI_BASE_URL": url, "OPENAI_TIMEOUT": str(timeout_s)}
        settings = load_settings(given, None, groups=[ModelSettings])
        self.slots = slots
        clock, metrics = SystemClock(), Metrics(version="1", provider="openai", models=["m"])
        client = make_client(settings.network, url=url, connections=16, max_answer_bytes=2**26)
        self.provider = OpenAIProvider(settings[ModelSettings], client, metrics)
        self.batcher = MicroBatcher(
            self.provider.embed,
            circuits=ModelCircuits(threshold=5, clock=clock, metrics=metrics),
            threshold=5,
            retries=Retries(3, 2.0),
            intake=self,
            clock=clock,
            metrics=metrics,
            memory=memory,
            length_of=lambda _: (dimensions, None),
        )
        self._rng = Random(1)
        self._running: dict[asyncio.Task[None], Job] = {}

    def refilling(self) -> bool:
        """``Intake``: nobody is waited for."""
        return False

    async def work(self, tasks: Sequence[tuple[str, str]], seconds: float, done: Callable[[Report], bool]) -> Report:
        """Embed (text, model) pairs until ``done`` says so, or for so many seconds."""
        report = Report([Job(text, model) for text, model in tasks])
        loop = asyncio.get_running_loop()
        began_at, batching = loop.time(), asyncio.create_task(self.batcher.run(asyncio.Event()))
        await asyncio.sleep(0)
        try:
            while loop.time() < began_at + seconds:
                report.said = self._status()
                if done(report):
                    break
                self._start(report, loop.time())
                await self._next_end()
            report.took_s = loop.time() - began_at
        finally:
            await self._stop(batching)
        return report

    def _status(self) -> dict[str, Mapping[str, str]]:
        batcher = self.batcher
        return {"paused": batcher.paused(), "paced": batcher.paces(), "aside": batcher.offenders()}

    def _start(self, report: Report, now: float) -> None:
        """Fill the slots with what may start."""
        running = set(map(id, self._running.values()))
        lanes, held = Counter(job.model for job in self._running.values()), set[str]()
        left = ((number, job) for number, job in enumerate(report.jobs) if job.outcome is None)
        for number, job in islice(left, LOOKED_AT):
            if len(self._running) >= self.slots:
                return
            if job.due > now or job.model in held or id(job) in running:
                continue
            if self.batcher.lane_hold_s(job.model, lanes[job.model]) > 0:
                held.add(job.model)
                continue
            lanes[job.model] += 1
            self._running[asyncio.create_task(self._embed(job, report), name=f"task {number}")] = job

    async def _next_end(self) -> None:
        """Until a task has ended, or a moment has passed."""
        if not self._running:
            await asyncio.sleep(LOOK_S)
            return
        ended, _ = await asyncio.wait(self._running, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            del self._running[task]
            task.result()

    async def _embed(self, job: Job, report: Report) -> None:
        try:
            embedded = await self.batcher.embed(job.text, job.model)
        except (RemoteError, TaskError) as error:
            match classify(error, job.tries, self._rng):
                case Failed(failure):
                    job.outcome = failure.code
                case Released(delay_s, reason):
                    job.due, job.reason = asyncio.get_running_loop().time() + delay_s, reason
        else:
            job.outcome = "done"
            report.wrong += embedded.vector != Vector(right_vector(job.text))

    async def _stop(self, batching: asyncio.Task[None]) -> None:
        for task in (*self._running, batching):
            task.cancel()
        await asyncio.wait([batching, *self._running])
        await self.provider.aclose()
