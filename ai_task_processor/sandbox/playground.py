"""The task API of the profile ``agents-playground``: FastAPI's answers, and a WebSocket that announces every change.

A request is committed first, then announced on every WebSocket, then answered. So an answer that is lost says nothing
about the change, and one client that does not read its WebSocket holds up the answers to all.
"""

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from aiohttp import WSMsgType, web

from ai_task_processor.sandbox.answers import Response, answer, rendered, sent

STATES: Final = ("pending", "running", "done", "error")
_FINAL: Final = ("done", "error")
DEFAULT_LIMIT: Final = 100
#: what an older version of the server does not have
_NEWER: Final = ("tenant_id", "subtasks", "workflow_state")
#: seconds between a 500 and the end of its connection
_CLOSES_S: Final = 0.005


@dataclass(slots=True)
class PlaygroundTask:
    """A task, and what was PATCHed.

    ``started``: PATCHes to ``running``; ``ended``: for every applied PATCH to a final state whether its answer arrived.
    """

    document: dict[str, Any] = field(repr=False)
    started: int = 0
    ended: list[bool] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def state(self) -> str:
        return str(self.document["status"])


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, detail: object) -> None:
        super().__init__(status)
        self.response = answer({"detail": detail}, status)


class Playground:
    """Tasks by id, and the WebSockets. ``older``: the documents of an older version of the server."""

    def __init__(self) -> None:
        self.older = False
        self.sockets: set[web.WebSocketResponse] = set()
        self._tasks: dict[str, PlaygroundTask] = {}
        self._news: list[bytes] = []
        self._ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[PlaygroundTask]:
        return iter(self._tasks.values())

    def __getitem__(self, task_id: str) -> PlaygroundTask:
        return self._tasks[task_id]

    def outcomes(self) -> Counter[str]:
        """How many tasks are in each state."""
        return Counter(task.state for task in self)

    def add(self, text: str = "", *, type: str = "summarize", input: object = None, **more: object) -> str:  # noqa: A002 - the fields' names
        """Add a pending task, as ``POST /tasks`` does, and return its id; ``broadcast`` announces it."""
        task = self._create({"type": type, "input": {"text": text} if input is None else input, **more})
        return task.id

    def set(self, task_id: str, **fields: object) -> None:
        """Change a task, as somebody else's PATCH does."""
        self._change(self._tasks[task_id], fields, answered=True)

    async def settled(self, ids: Iterable[str], timeout: float) -> None:
        """Return once each of these tasks has ended. Raises ``TimeoutError``."""
        missing = set(ids)
        try:
            async with asyncio.timeout(timeout):
                while missing := {each for each in missing if self._tasks[each].state not in _FINAL}:
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            raise TimeoutError(f"{len(missing)} tasks have not ended after {timeout:g} s") from None

    # --- the API

    def list(self, query: Mapping[str, str]) -> Response:
        limit, state = _integer(query.get("limit"), DEFAULT_LIMIT), query.get("status_filter")
        if limit < 0:
            return failed()
        found = (task.document for task in reversed(self._tasks.values()) if state in (None, task.state))
        return self._shown([document for document, _ in zip(found, range(limit), strict=False)])

    def read(self, task_id: str) -> Response:
        return self._shown(self._found(task_id).document)

    def create(self, content_type: str, body: bytes) -> Response:
        fields = _fields(content_type, body)
        for name, kind in (("type", str), ("input", dict), ("user_id", str), ("tenant_id", str)):
            required = name in ("type", "input")
            if required and name not in fields:
                raise _invalid("missing", name, "Field required", fields)
            if (required or fields.get(name) is not None) and not isinstance(fields[name], kind):
                raise _invalid(f"{kind.__name__}_type", name, f"Input should be a valid {kind.__name__}", fields[name])
        if not _storable(fields):
            return failed()
        return self._shown(self._create(fields).document, 201)

    def patch(self, task_id: str, content_type: str, body: bytes, *, answered: bool) -> Response:
        """``answered``: will its answer arrive?"""
        task, fields = self._found(task_id), _fields(content_type, body)
        for name, valid, kind in (
            ("status", fields.get("status") in (None, *STATES), "enum"),
            ("output", isinstance(fields.get("output"), dict | None), "dict_type"),
            ("error", isinstance(fields.get("error"), str | None), "string_type"),
        ):
            if not valid:
                raise _invalid(kind, name, "Input should be valid", fields[name])
        if not _storable(fields):
            return failed()
        self._change(task, fields, answered=answered)
        return self._shown(task.document)

    async def broadcast(self) -> None:
        """Tell the WebSockets what has changed. One that does not read stops this."""
        news, self._news = self._news, []
        for message in news:
            for socket in tuple(self.sockets):
                with suppress(ConnectionError):
                    await socket.send_frame(message, WSMsgType.TEXT)

    async def websocket(self, request: web.BaseRequest) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self.sockets.add(socket)
        try:
            async for message in socket:
                if message.data == "ping":
                    await socket.send_str("pong")
        finally:
            self.sockets.discard(socket)
        return socket

    def _shown(self, value: Any, status: int = 200) -> Response:
        """FastAPI's serializer gives up where orjson does, beyond 254 levels."""
        if self.older:
            value = [_older(each) for each in value] if isinstance(value, list) else _older(value)
        try:
            return answer(value, status)
        except TypeError:
            return failed()

    def _found(self, task_id: str) -> PlaygroundTask:
        try:
            name = str(UUID(task_id))
        except ValueError:
            raise _invalid("uuid_parsing", "task_id", "Input should be a valid UUID", task_id, where="path") from None
        if name not in self._tasks:
            raise Refused(404, f"Task {name} not found")
        return self._tasks[name]

    def _create(self, fields: Mapping[str, Any]) -> PlaygroundTask:
        now, user, tenant = _now(), fields.get("user_id"), fields.get("tenant_id")
        user_hash = None if user is None else hashlib.sha256(user.encode()).hexdigest()
        known = {"_user_id_hash": user_hash, "_tenant_id": None if self.older else tenant}
        document = {
            "id": str(uuid4()),
            "type": fields["type"],
            "status": "pending",
            "input": fields["input"] | {name: value for name, value in known.items() if value is not None},
            "output": None,
            "error": None,
            "created_at": now,
            "updated_at": now,
            "user_id_hash": user_hash,
            "tenant_id": tenant,
            "model_used": None,
            "input_tokens": 0,
            "output_tokens": 0,
            "total_cost": 0.0,
            "generation_id": None,
            "subtasks": [],
            "workflow_state": None,
        }
        task = self._tasks[document["id"]] = PlaygroundTask(document)
        self._tell(document)
        return task

    def _change(self, task: PlaygroundTask, fields: Mapping[str, Any], *, answered: bool) -> None:
        """``None`` leaves a field as it is; what changes nothing is announced, too."""
        new = {name: fields[name] for name in ("status", "output", "error") if fields.get(name) is not None}
        if any(task.document[name] != value for name, value in new.items()):
            task.document |= new | {"updated_at": _now()}
        task.started += new.get("status") == "running"
        if new.get("status") in _FINAL:
            task.ended.append(answered)
            self._ended.set()
        self._tell(task.document)

    def _tell(self, document: Mapping[str, Any]) -> None:
        if not self.sockets:
            return
        names = ("status", "type", "output", "error")
        updated_at = document["updated_at"].replace("Z", "+00:00")
        news = {"task_id": document["id"], **{name: document[name] for name in names}, "updated_at": updated_at}
        with suppress(TypeError):  # nested too deep
            self._news.append(rendered(news))


def failed() -> Response:
    """Starlette's answer to an exception that nobody has caught."""
    return sent(b"Internal Server Error", 500, content_type="text/plain")


def unannounced(request: web.BaseRequest) -> None:
    """End the connection after the answer under way, which does not say so."""
    if request.transport is not None:
        asyncio.get_running_loop().call_later(_CLOSES_S, request.transport.close)


def _older(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in document.items() if name not in _NEWER}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _integer(text: str | None, default: int) -> int:
    try:
        return default if text is None else int(text)
    except ValueError:
        text_ = "Input should be a valid integer, unable to parse string as an integer"
        raise _invalid("int_parsing", "limit", text_, text, where="query") from None


def _invalid(kind: str, name: str, message: str, value: object, *, where: str = "body") -> Refused:
    return Refused(422, [{"type": kind, "loc": [where, name], "msg": message, "input": value}])


def _fields(content_type: str, body: bytes) -> dict[str, Any]:
    """Python's own parser: it takes NaN and lone surrogates."""
    try:
        fields = json.loads(body) if "json" in content_type else None
    except RecursionError:
        raise Refused(400, "There was an error parsing the body") from None
    except ValueError as error:
        raise Refused(422, [{"type": "json_invalid", "loc": ["body"], "msg": str(error), "input": {}}]) from None
    if not isinstance(fields, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise Refused(422, [{"type": "model_attributes_type", "loc": ["body"], "msg": message, "input": None}])
    return fields


def _storable(value: object) -> bool:
    """Whether PostgreSQL takes it: no NUL, NaN, infinity, lone surrogate."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
                    return False
            case float(number):
                if not math.isfinite(number):
                    return False
            case list(values):
                waiting += values
            case dict(fields):
                waiting += [*fields, *fields.values()]
    return True
