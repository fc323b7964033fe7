"""Vectors as points of a Qdrant collection, by its REST API.

qdrant-client would add 40 MB, gRPC and a second HTTP stack for the four requests here, which would know neither
CA_BUNDLE nor a proxy. A point's id derives from source and task: a repeated write replaces it.
"""

from http import HTTPStatus
from typing import Annotated

from pydantic import Field, SecretStr

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Finding, Stopwatch, ok
from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.core.groups import Printable, Url, setting
from ai_task_processor.models.task import Record, Vector
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.services import Services
from ai_task_processor.sinks.base import HttpSink, Refused, SinkSettings, event_id, refusal


class QdrantSettings(SinkSettings):
    """The server and the collection."""

    sink = "qdrant"
    address = "QDRANT_URL"
    needs = ("QDRANT_COLLECTION",)

    url: Url | None = setting("QDRANT_URL", "the URL of Qdrant's REST API; the sink qdrant is off without it")
    api_key: Annotated[SecretStr | None, Printable] = setting("QDRANT_API_KEY", "the key of that API")
    collection: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$")] | None = setting(
        "QDRANT_COLLECTION", "the name of the collection of vectors; it is made when it is missing"
    )


class QdrantSink(HttpSink):
    """A point for each vector: payload ``{"task_id", "type", "source"}``. Results without a vector are not written."""

    name = "qdrant"
    order = "before_report"
    settings_groups = (QdrantSettings,)

    def __init__(self, services: Services) -> None:
        settings = services.settings[QdrantSettings]
        super().__init__(services, settings, "Qdrant", settings.url)
        self._url = f"{settings.url}/collections/{settings.collection}"

    def _takes(self, record: Record) -> bool:
        return record.vector is not None

    async def _send(self, record: Record) -> None:
        vector = Vector(record.vector or b"")
        about = {"task_id": record.task_id, "type": record.task_type, "source": record.receipt.source}
        content = b'{"points":[{"id":"%s","vector":%s,"payload":%s}]}' % (
            str(event_id(record)).encode(),
            codec.result_json(None, vector),
            codec.dumps(about),
        )
        answer = await self._asked("PUT", "/points?wait=true", content)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            await self._make(vector.dimensions)
            answer = await self._asked("PUT", "/points?wait=true", content)
        if answer.status_code == HTTPStatus.BAD_REQUEST and b"dimension" in answer.content:
            raise Refused(f"QDRANT_COLLECTION has vectors of another length than {vector.dimensions}: name another one")
        self._expect(answer)

    async def _make(self, dimensions: int) -> None:
        vectors = {"vectors": {"size": dimensions, "distance": "Cosine"}}
        answer = await self._asked("PUT", "", codec.dumps(vectors))
        if answer.status_code != HTTPStatus.CONFLICT:  # another one has made it meanwhile
            self._expect(answer)

    async def discard(self, record: Record) -> None:
        if self._remote is not None and record.vector is not None:
            await self._call(lambda: self._delete(record))

    async def _delete(self, record: Record) -> None:
        points = codec.dumps({"points": [str(event_id(record))]})
        answer = await self._asked("POST", "/points/delete?wait=true", points)
        if answer.status_code != HTTPStatus.NOT_FOUND:  # no collection, no point
            self._expect(answer)

    async def _asked(self, method: str, path: str, content: bytes | None = None) -> Answer:
        key = self._secrets[QdrantSettings].api_key
        headers = {"Content-Type": "application/json"} | ({"api-key": key.get_secret_value()} if key else {})
        return await self._exchange(method, f"{self._url}{path}", headers, content)

    def _expect(self, answer: Answer) -> None:
        """Qdrant's own success, not the 200 of something else under that URL."""
        if not answer.is_success:
            raise refusal(answer, "Qdrant", "QDRANT_URL", "QDRANT_API_KEY")
        if b'"status":"ok"' not in answer.content.replace(b" ", b""):
            raise InvalidAnswer("something other than Qdrant answers: correct QDRANT_URL")

    async def _access(self) -> Finding:
        watch, answer = Stopwatch(), await self._asked("GET", "")
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return ok(f"the collection does not exist yet and will be made ({watch})")
        self._expect(answer)
        return ok(f"the collection exists ({watch})")
