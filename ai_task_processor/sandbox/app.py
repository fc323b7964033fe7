"""The sandbox's server: routes, faults, and paths for its administration in the standalone mode."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ssl import SSLContext
from typing import Final, get_args
from urllib.parse import unquote

from aiohttp import web

from ai_task_processor.sandbox.admin import administer, help_text
from ai_task_processor.sandbox.answers import Response, answer, nest_error
from ai_task_processor.sandbox.chat import ChatApi
from ai_task_processor.sandbox.faults import Endpoint, Faults, play
from ai_task_processor.sandbox.model import ModelApi
from ai_task_processor.sandbox.playground import Playground, Refused, failed, unannounced
from ai_task_processor.sandbox.task_api import TaskApi
from ai_task_processor.sandbox.tasks import TaskStore
from ai_task_processor.sandbox.tokens import Credentials, TokenEndpoint
from ai_task_processor.sandbox.vectors import DIMENSIONS, unit_vector
from ai_task_processor.sandbox.verifications import Verifications
from ai_task_processor.sandbox.wikidata import WikidataApi

API_KEY: Final = "sk-sandbox"
#: the built-in profiles whose task API it can be
PROFILES: Final = ("aletheia", "agents-playground")
_TASKS: Final = "/api/ai-tasks/"
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to
#: longest request line or header, bytes
_MAX_LINE: Final = 65536
_CLOSING_S: Final = 1.0

#: The work of an endpoint. The argument: will its answer arrive?
Work = Callable[[bool], Response]


@dataclass(slots=True)
class Stats:
    """Counts of requests that arrived, failed ones included, and of what the models charged for.

    ``model_requests`` are of both models; ``model_calls``, ``model_inputs`` and ``model_tokens`` of embeddings.
    """

    token_requests: int = 0
    polls: int = 0
    patches: int = 0
    model_requests: int = 0
    model_calls: int = 0
    model_inputs: int = 0
    model_tokens: int = 0
    chat_calls: int = 0
    chat_tokens: int = 0
    wikidata_requests: int = 0


class Sandbox:
    """Four remotes for a daemon that runs with ``environment()``: add tasks and faults, then see what arrived.

    ``async with Sandbox() as sandbox`` starts it on a free loopback port. ``profile``: which task API it is.
    """

    def __init__(
        self,
        *,
        profile: str = PROFILES[0],
        credentials: Credentials | None = None,
        api_key: str = API_KEY,
        api_latency_s: float = 0.0,
        model_latency_s: float = 0.0,
        seed: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.profile = profile
        self.api_latency_s = api_latency_s
        self.model_latency_s = model_latency_s
        #: an unused connection is closed after this, seconds
        self.idle_s = 60.0 if profile == PROFILES[0] else 5.0
        self.faults = Faults(random.Random(seed))  # noqa: S311 - repeatable on purpose, guards nothing
        self.tokens = TokenEndpoint(credentials or Credentials(), monotonic)
        self.tasks = TaskStore()
        self.verifications = Verifications(self.tasks)
        self.api = TaskApi(
            self.tasks,
            lambda task_id: self.faults.pick("callback", task_id=task_id),
            self.verifications.callback,
        )
        self.playground = Playground()
        self.model = ModelApi(api_key, monotonic)
        self.chat = ChatApi.seeded(seed)
        self.wikidata = WikidataApi()
        self.url = ""
        self._arrived: dict[Endpoint, int] = dict.fromkeys(get_args(Endpoint), 0)

    async def __aenter__(self) -> "Sandbox":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: SSLContext | None = None,
    ) -> None:
        """``ssl``: with the server's certificate, and whether one is required of clients."""
        loop = asyncio.get_running_loop()
        self._server = web.Server(self._answer, handler_cancellation=True)
        self._listening = await loop.create_server(self._connection, host, port, backlog=512, ssl=ssl)
        port = self._listening.sockets[0].getsockname()[1]
        reachable, scheme = _WILDCARDS.get(host, host), "http" if ssl is None else "https"
        self.url = f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"
        self.tokens.audiences |= {self.url, f"{self.url}/oauth2/token"}

    def _connection(self) -> web.RequestHandler:
        return web.RequestHandler(
            self._server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self.idle_s,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            access_log=None,  # type: ignore[arg-type]  # which is documented
        )

    async def aclose(self) -> None:
        """Stop at once: requests under way get no answer."""
        self._listening.close()
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await self._server.shutdown(_CLOSING_S)

    def environment(self) -> dict[str, str]:
        """The settings that make a daemon use this sandbox."""
        signed = {
            "OAUTH2_TOKEN_URL": f"{self.url}/oauth2/token",
            "OAUTH2_CLIENT_ID": self.tokens.credentials.client_id,
            "OAUTH2_CLIENT_SECRET": self.tokens.credentials.client_secret,
        }
        return {
            "API_BASE_URL": self.url,
            **(signed if self.profile == PROFILES[0] else {"TASK_SOURCE": self.profile}),
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": self.model.api_key,
            "WIKIDATA_URL": f"{self.url}/w/api.php",
        }

    @property
    def store(self) -> TaskStore | Playground:
        """The tasks of the task API."""
        return self.tasks if self.profile == PROFILES[0] else self.playground

    @property
    def stats(self) -> Stats:
        """A snapshot."""
        arrived, model, chat = self._arrived, self.model, self.chat
        return Stats(
            token_requests=arrived["token"],
            polls=arrived["pending"],
            patches=arrived["patch"],
            model_requests=arrived["model"],
            model_calls=model.calls,
            model_inputs=model.inputs,
            model_tokens=model.tokens,
            chat_calls=chat.calls,
            chat_tokens=chat.prompt_tokens + chat.completion_tokens,
            wikidata_requests=arrived["wikidata"],
        )

    def vector(self, text: str, model: str, dimensions: int | None = None) -> bytes:
        """The float32 bytes that the model API gives for this text."""
        return unit_vector(text, model, dimensions or DIMENSIONS[model]).tobytes()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        method, path = request.method, request.raw_path.partition("?")[0]
        authorization = request.headers.get("Authorization", "")
        body = await request.content.read()

        def guarded(work: Work) -> Work:
            refusal = nest_error(401, "Unauthorized")
            return lambda answered: work(answered) if self.tokens.accepts(authorization) else refusal

        if self.profile != PROFILES[0] and path.startswith(("/tasks", "/ws", "/health")):
            return await self._playground(request, path, body)
        match method, path:
            case "POST", "/oauth2/token":
                return await self._play("token", request, body, lambda _: self.tokens.answer(authorization, body))
            case "GET", "/api/ai-tasks/pending":
                limit = request.query.get("limit")
                return await self._play("pending", request, body, guarded(lambda _: self.api.pending(limit)))
            case "PATCH", _ if path.startswith(_TASKS):
                task_id = unquote(path.removeprefix(_TASKS))
                patch = guarded(lambda answered: self.api.patch(task_id, body, answered=answered))
                return await self._play("patch", request, body, patch, task_id)
            case "POST", "/v1/embeddings":
                return await self._play("model", request, body, lambda _: self.model.embeddings(authorization, body))
            case "POST", "/v1/chat/completions" | "/v1/responses":
                refusal = self.model.unauthorized(authorization)
                chat = self.chat.response if path == "/v1/responses" else self.chat.completion
                return await self._play("model", request, body, lambda _: refusal or chat(body))
            case "GET", "/w/api.php":
                return await self._play("wikidata", request, body, lambda _: self.wikidata.answer(request.query))
            case "GET", _ if path == "/v1/models" or path.startswith("/v1/models/"):
                return self.model.models(authorization, path.removeprefix("/v1/models").strip("/"))
        administered = administer(self, request, body)
        await self.playground.broadcast()
        return administered

    async def _playground(self, request: web.BaseRequest, path: str, body: bytes) -> web.StreamResponse:
        api, content_type, (_, *parts) = self.playground, request.content_type, path.removesuffix("/").split("/")
        try:
            match request.method, *parts:
                case "GET", "ws":
                    return await api.websocket(request)
                case "GET", "health":
                    connections = len(api.sockets)
                    return answer({"status": "healthy", "database": "connected", "websocket_connections": connections})
                case "GET", "tasks":
                    done = await self._play("pending", request, body, lambda _: api.list(request.query))
                case "POST", "tasks":
                    done = api.create(content_type, body)
                case "GET", "tasks", task_id:
                    done = await self._play("read", request, body, lambda _: api.read(unquote(task_id)), task_id)
                case "PATCH", "tasks", task_id:
                    patch = partial(api.patch, unquote(task_id), content_type, body)
                    done = await self._play("patch", request, body, lambda sent: patch(answered=sent), task_id)
                case _, "tasks" | "ws" | "health", *rest if len(rest) < 2:
                    return answer({"detail": "Method Not Allowed"}, 405)
                case _:
                    return answer({"detail": "Not Found"}, 404)
        except Refused as refusal:
            return refusal.response
        await api.broadcast()
        if done.status == 500:
            unannounced(request)
            return failed()
        return done

    async def _play(
        self, endpoint: Endpoint, request: web.BaseRequest, body: bytes, work: Work, task_id: str | None = None
    ) -> web.StreamResponse:
        """Count the request, choose a fault for it, and answer."""
        self._arrived[endpoint] += 1
        fault = self.faults.pick(endpoint, task_id=task_id, body=body)

        async def after_latency() -> Response:
            await asyncio.sleep(self.model_latency_s if endpoint == "model" else self.api_latency_s)
            return work(fault is None or fault.delivers)

        return await (after_latency() if fault is None else play(fault, request, after_latency))

    def page(self) -> str:
        """What this is and how to use it, with the environment to copy."""
        return help_text(self)


async def serve(host: str, port: int, *, profile: str = PROFILES[0], announce: Callable[[str], None]) -> None:
    """Run a sandbox until cancelled; ``announce`` is called with the text of its page."""
    sandbox = Sandbox(profile=profile)
    await sandbox.start(host, port)
    try:
        announce(sandbox.page())
        await asyncio.Event().wait()
    finally:
        await sandbox.aclose()
