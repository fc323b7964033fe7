"""Faults on demand: which endpoint fails, how, and how often.

A fault is chosen when a request arrives and injected before the endpoint's work (nothing was done) or after it (the
work was done and only the answer is lost).
"""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Final, Literal, get_args

from aiohttp import Payload, web
from pydantic import ConfigDict, Field

from ai_task_processor.sandbox.answers import Response, nest_error, oauth_error, openai_error, parsed, phrase, sent

Endpoint = Literal["token", "pending", "patch", "callback", "read", "model", "wikidata"]

_HTML: Final = b"<!doctype html><html><body><h1>Please log in</h1></body></html>"


#: the fields of which a fault has at least one
EFFECTS: Final = ("status", "content", "delay_s", "hang", "reset", "truncate", "drip_s")
_Seconds = Annotated[float, Field(ge=0, le=3600)]
_Count = Annotated[int, Field(ge=1)]


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault. Without ``status``, ``content``, ``hang`` and ``reset`` the true answer is sent.

    ``callback`` as the endpoint: the task's callback raises after the state was saved, and the API answers ``status``.
    The ranges are checked for faults that come over HTTP.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    endpoint: Endpoint
    #: answer with this status, and a body of this kind: json (the endpoint's error shape), html, object, empty
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    body: Literal["json", "html", "object", "empty"] = "json"
    #: an exact body instead, sent as JSON; with status 200 unless another is given
    content: str | None = None
    #: the error code inside a JSON body: insufficient_quota, invalid_client, …
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: _Seconds = 0.0
    hang: bool = False
    reset: bool = False
    #: send half of the body, then close
    truncate: bool = False
    #: seconds between two bytes of the answer
    drip_s: _Seconds = 0.0
    #: do the work first: only the answer is affected
    after: bool = False
    #: how often (None: always), and how likely
    times: _Count | None = None
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    #: only every so many-th of the requests that it suits
    every: _Count = 1
    #: only for this task (patch, callback), or for calls with this text within an input (model)
    task_id: str | None = None
    text: str | None = None
    #: how often it was injected
    hits: int = field(default=0, init=False)
    suited: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.endpoint not in get_args(Endpoint):
            raise ValueError(f"endpoint must be one of {', '.join(get_args(Endpoint))}")
        if self.content is not None and self.status is None:
            self.status = 200

    @property
    def replaces(self) -> bool:
        """Is the true answer never sent?"""
        return self.status is not None or self.hang or self.reset

    @property
    def delivers(self) -> bool:
        """Does the caller get the true answer, whole and in time?"""
        return not (self.replaces or self.after or self.truncate or self.drip_s)

    @property
    def document(self) -> dict[str, object]:
        """What it was made of, and its ``hits``."""
        made = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        usual: dict[str, object] = {**{each.name: each.default for each in fields(self)}, "headers": {}}
        return {name: value for name, value in made.items() if value != usual[name]} | {"hits": self.hits}

    def suits(self, endpoint: Endpoint, task_id: str | None, body: bytes) -> bool:
        return (
            self.endpoint == endpoint
            and (self.times is None or self.hits < self.times)
            and self.task_id in (None, task_id)
            and (self.text is None or any(self.text in text for text in inputs_of(body)))
        )


class Faults:
    """The active faults, oldest first; the first one that matches a request is injected."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._faults: list[Fault] = []

    def __len__(self) -> int:
        return len(self._faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def activate(self, fault: Fault) -> None:
        self._faults.append(fault)

    def add(self, endpoint: Endpoint, **how: object) -> Fault:
        """Activate a fault. Raises ``TypeError`` or ``ValueError`` when it is not valid."""
        fault = Fault(endpoint=endpoint, **how)  # type: ignore[arg-type]  # the fields come from tests or from JSON
        self.activate(fault)
        return fault

    def clear(self) -> None:
        self._faults.clear()

    def pick(self, endpoint: Endpoint, *, task_id: str | None = None, body: bytes = b"") -> Fault | None:
        for fault in self._faults:
            if fault.suits(endpoint, task_id, body) and self._rng.random() < fault.probability:
                fault.suited += 1
                if fault.suited % fault.every:
                    continue
                fault.hits += 1
                return fault
        return None


def inputs_of(body: bytes) -> list[str]:
    """The texts of an embeddings request; empty when it is none."""
    try:
        fields = parsed(body)
    except ValueError:
        return []
    inputs = fields.get("input") if isinstance(fields, dict) else None
    return [text for text in (inputs if isinstance(inputs, list) else [inputs]) if isinstance(text, str)]


async def play(fault: Fault, request: web.BaseRequest, work: Callable[[], Awaitable[Response]]) -> web.StreamResponse:
    """The answer to ``request`` under this fault. A hang ends with the connection."""
    done = await work() if fault.after else None
    await asyncio.sleep(fault.delay_s)
    if fault.hang:
        await asyncio.Event().wait()
    if fault.reset:
        return reset(request)
    if fault.status is not None:
        done = false_answer(fault)
    elif done is None:
        done = await work()
    return await _maimed(fault, request, done) if fault.truncate or fault.drip_s else done


def false_answer(fault: Fault) -> Response:
    status = fault.status or 200
    if fault.content is not None:
        return sent(fault.content.encode("utf-8", "surrogatepass"), status, fault.headers)
    if fault.body == "html":
        return sent(_HTML, status, fault.headers, "text/html")
    if fault.body == "object":
        return sent(b'{"hello":"world"}', status, fault.headers)
    if fault.body == "empty":
        return sent(b"", status, fault.headers)
    return _error_shape(fault, status)


def _error_shape(fault: Fault, status: int) -> Response:
    message = f"{phrase(status)} (a fault of the sandbox)"
    if fault.endpoint == "token":
        return oauth_error(status, fault.code or _OAUTH_CODES.get(status, "server_error"), message, fault.headers)
    if fault.endpoint == "model":
        kind, code = _OPENAI_CODES.get(status, ("server_error", None))
        if fault.code == "insufficient_quota":
            kind = fault.code
        return openai_error(status, message, kind=kind, code=fault.code or code, headers=fault.headers)
    if status == 404:
        message = "Cannot GET /api/ai-tasks/pending" if fault.endpoint == "pending" else "Cannot PATCH /api/ai-tasks/…"
    return nest_error(status, message, fault.headers)


_OAUTH_CODES: Final = {400: "invalid_request", 401: "invalid_client", 503: "temporarily_unavailable"}
_OPENAI_CODES: Final[Mapping[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def reset(request: web.BaseRequest) -> Response:
    """Reset the TCP connection; the answer that is returned does not arrive."""
    if (transport := request.transport) is not None:
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return Response()


async def _maimed(fault: Fault, request: web.BaseRequest, whole: Response) -> web.StreamResponse:
    """Half of an answer, or a byte at a time."""
    body = await whole.body.as_bytes() if isinstance(whole.body, Payload) else bytes(whole.body or b"")
    if fault.truncate:
        body = body[: len(body) // 2]
    answer = web.StreamResponse(status=whole.status, headers=whole.headers)
    await answer.prepare(request)
    step = 1 if fault.drip_s else max(1, len(body))
    for start in range(0, len(body), step):
        await asyncio.sleep(fault.drip_s)
        await answer.write(body[start : start + step])
    if fault.truncate and request.transport is not None:
        request.transport.close()
    return answer
