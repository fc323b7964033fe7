"""A small OTLP/HTTP receiver of traces, and a picture of what it has received."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


@dataclass(frozen=True, slots=True)
class Received:
    """A span. ``parent``: the id of a span, empty for a root; ``links``: ids of spans."""

    name: str
    trace: str
    id: str
    parent: str
    links: Sequence[str]
    attributes: dict[str, object]
    failed: bool
    #: ``service.name``, of the resource
    service: str


class Receiver:
    """Answers with ``status``, or never while ``hangs``. ``spans``: those that were taken, as they came."""

    def __init__(self, *, status: int = 200, hangs: bool = False) -> None:
        self.status = status
        self.hangs = hangs
        self.requests = 0
        self.headers: list[str | None] = []
        self.spans: list[Received] = []
        self.url = ""
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._take), shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        await self._runner.cleanup()

    def named(self, start: str) -> list[Received]:
        """The spans whose name begins so."""
        return [span for span in self.spans if span.name.startswith(start)]

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.requests += 1
        self.headers.append(request.headers.get("x-key"))
        if self.hangs:
            await self._ended.wait()
        if self.status == 200:
            assert request.path == "/v1/traces"
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=answer, content_type="application/x-protobuf")


def _spans(request: ExportTraceServiceRequest) -> Iterable[Received]:
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    [link.span_id.hex() for link in span.links],
                    _values(span.attributes),
                    span.status.code == 2,
                    str(service),
                )


def _values(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}


def picture(spans: Sequence[Received]) -> str:
    """Spans of the same name, service, parent and links as one line; those of the same parent below it.

    ``<- upstream`` is a link or a parent that was not received.
    """
    names = {span.id: span.name for span in spans}
    children: defaultdict[str, list[Received]] = defaultdict(list)
    for span in spans:
        children[names.get(span.parent, "") if span.parent in names else ""].append(span)

    def lines(parent: str, depth: int) -> Iterable[str]:
        groups: dict[tuple[str, ...], list[Received]] = {}
        for span in children[parent]:
            links = Counter(names.get(link, "upstream") for link in span.links)
            shown = ", ".join(f"{count} x {name}" for name, count in sorted(links.items()))
            error = str(span.attributes.get("error.type", "")) if span.failed else ""
            above = "upstream" if span.parent and span.parent not in names else ""
            groups.setdefault((span.name, span.service, error, above, shown), []).append(span)
        for (name, service, error, above, shown), group in groups.items():
            line = f"{'  ' * depth}{len(group)} x {name}  [{service}]"
            line += f"  ! {error}" if error else ""
            line += f"  child of {above}" if above else ""
            yield line + (f"  links: {shown}" if shown else "")
        for name in dict.fromkeys(span.name for span in children[parent]):
            if name in children:
                yield f"{'  ' * depth}below {name}:"
                yield from lines(name, depth + 1)

    return "\n".join(lines("", 0))
