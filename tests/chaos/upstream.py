"""Token endpoint, task API and model API on one raw socket, written for this judge alone.

It shares no code with the daemon nor with its sandbox. Every exchange goes into the history when it
has ended: who asked, what was applied, and what was answered, which is not always the same.
"""

import asyncio
import base64
import hashlib
import json
import random
import time
from dataclasses import replace
from typing import Literal

from tests.chaos import faults, mischief, wire
from tests.chaos.book import DIMENSIONS, FORBIDDEN, Book, owner, vector
from tests.chaos.faults import Choose
from tests.chaos.history import Event, Exchange, History
from tests.chaos.wire import Answer, Request

INCARNATION = "x-incarnation"
CLIENT = "Basic " + base64.b64encode(b"chaos:chaos-secret").decode()
MODEL_KEY = "chaos-key"
TOKEN_LIFE_S = 20.0
_TASKS = "/api/ai-tasks/"

Limit = Literal["honoured", "ignored", "refused"]


class Upstream:
    """Listens on loopback. ``choose`` decides which request fails; ``model_s`` is how long the model thinks."""

    def __init__(self, history: History, rng: random.Random, *, limit: Limit = "honoured") -> None:
        self.book = Book(rng)
        self.choose: Choose = faults.none
        self.model_s = (0.02, 0.06)
        self.port = 0
        self._history, self._rng, self._limit = history, rng, limit
        self._tokens: dict[str, float] = {}
        self._issued = self._connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        """Port 0 takes a free one; a given one was ours before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**22, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        self._history.note("back", note=f"port {self.port}")

    def stop(self) -> None:
        """Gone, in the middle of everything."""
        self._history.note("away")
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            wire.reset(writer)

    def rotate(self) -> None:
        """From now on every token that was issued is answered with 401."""
        self._history.note("rotated")
        self._tokens.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        connection, incarnation = self._connections, ""
        self._writers.add(writer)
        try:
            while request := await wire.read_request(reader):
                incarnation = request.headers.get(INCARNATION, "?")
                event = await self._exchange(request, incarnation, connection, writer)
                self._history.add(replace(event, ended=time.monotonic()))
                if writer.is_closing():
                    break
        finally:
            self._writers.discard(writer)
            writer.close()
            now = time.monotonic()
            self._history.add(Event(kind="closed", at=now, ended=now, incarnation=incarnation, connection=connection))

    async def _exchange(
        self, request: Request, incarnation: str, connection: int, writer: asyncio.StreamWriter
    ) -> Event:
        """One request and its answer. The pending list is taken when it was asked for, however late it leaves."""
        kind, tasks = _sorted(request)
        event = Event(kind=kind, at=time.monotonic(), incarnation=incarnation, tasks=tasks, connection=connection)
        listed = self._listed(request) if kind == "poll" else Answer.of(500, {})
        fault = await self.choose(event) or ""
        event = replace(event, fault=fault)
        if fault in faults.BEFORE:
            return replace(event, status=await mischief.instead(fault, writer))
        if kind in ("poll", "patch") and not self._authorized(request):
            kind, listed = "poll", Answer.error(401, "Unauthorized")  # a PATCH gets the same
        match kind:
            case "token":
                answer = self._token(request)
            case "poll":
                answer = listed
            case "patch":
                answer, event = self._patch(request, event)
            case "model":
                answer, event = await self._model(request, event)
        if not 200 <= answer.status < 300:
            return replace(event, fault="", status=answer.status, intact=await wire.write(writer, answer.encoded()))
        event = replace(event, status=await mischief.deliver(fault, answer, writer))
        true = fault in ("", "nan", "short-vector") and event.status == 200
        if kind == "patch" and true:
            self.book.acknowledge(tasks[0])
        return replace(event, intact=true)

    def _token(self, request: Request) -> Answer:
        if request.headers.get("authorization") != CLIENT:
            return Answer.of(401, {"error": "invalid_client"})
        self._issued += 1
        token = f"token-{self._issued}"
        self._tokens[token] = time.monotonic() + TOKEN_LIFE_S
        return Answer.of(200, {"access_token": token, "token_type": "bearer", "expires_in": TOKEN_LIFE_S})

    def _authorized(self, request: Request) -> bool:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self._tokens.get(token, 0.0) > time.monotonic()

    def _listed(self, request: Request) -> Answer:
        asked = request.query.get("limit")
        if asked is not None and self._limit == "refused":
            return Answer.error(400, ["property limit should not exist"])
        limit = None if asked is None or self._limit == "ignored" else int(asked)
        return Answer(200, self.book.pending(limit), {"Content-Type": "application/json"})

    def _patch(self, request: Request, event: Event) -> tuple[Answer, Event]:
        (task_id,) = event.tasks
        status, done = self.book.apply(task_id, request.body, callback=not event.fault.startswith("callback-lost"))
        event = replace(event, **done, body=hashlib.sha256(request.body).hexdigest()[:12])
        if status == 200:
            return Answer.of(200, {"_id": task_id, "state": event.state, "updatedAt": "now"}), event
        return Answer.error(status, "Bad target"), event

    async def _model(self, request: Request, event: Event) -> tuple[Answer, Event]:
        asked = json.loads(request.body)
        if request.headers.get("authorization") != f"Bearer {MODEL_KEY}":
            return _model_refusal(401, "who are you"), event
        if asked.get("dimensions") != DIMENSIONS:
            return _model_refusal(400, "what length?"), event
        await asyncio.sleep(self._rng.uniform(*self.model_s))
        texts: list[str] = asked["input"]
        if any(FORBIDDEN in text for text in texts):
            return _model_refusal(400, "this input is refused"), replace(event, refused=len(texts) == 1)
        data = [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(vector(text)).decode()}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        spoiled = frozenset(event.tasks[:1] if event.fault in ("nan", "short-vector") else ())
        answer = Answer.of(200, {"object": "list", "data": data, "model": asked["model"], "usage": usage})
        return answer, replace(event, paid=True, spoiled=spoiled)


def _model_refusal(status: int, message: str) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "code": None, "param": None}
    return Answer.of(status, {"error": error})


def _sorted(request: Request) -> tuple[Exchange, tuple[str, ...]]:
    """What a request is, and which tasks it is about."""
    match request.method, request.path:
        case "POST", "/oauth2/token":
            return "token", ()
        case "GET", "/api/ai-tasks/pending":
            return "poll", ()
        case "POST", "/v1/embeddings":
            return "model", tuple(owner(text) for text in json.loads(request.body)["input"])
        case "PATCH", path if path.startswith(_TASKS):
            return "patch", (path.removeprefix(_TASKS),)
    raise ValueError(f"nobody serves {request.method} {request.path}")
